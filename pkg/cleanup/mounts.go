package cleanup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// mounts are those that pods need, their network namespaces among them: the
// interfaces of pods go with these.
func (m *Machine) mounts() trace {
	return trace{
		kind: "mounts",
		find: func(context.Context) ([]string, error) {
			all, err := mountinfo.GetMounts(nil)
			if err != nil {
				return nil, err
			}
			return m.ownMounts(all), nil
		},
		remove: func(_ context.Context, found []string) error {
			var errs []error
			for _, path := range found {
				errs = append(errs, unmount(path))
			}
			return errors.Join(errs...)
		},
	}
}

// podMount says whether a mount point is one that containerd or the kubelet
// makes. A disk that somebody has mounted elsewhere in the data directory, or as
// a whole directory of Kedge's, is not.
func (m *Machine) podMount(path string) bool {
	return below(path, config.RuntimeDir) ||
		below(path, filepath.Join(config.KubeletDir, "pods")) ||
		below(path, filepath.Join(config.KubeletDir, "plugins")) ||
		below(path, m.paths().Containerd())
}

// ownMounts returns the mount points that are Kedge's, those made last first.
func (m *Machine) ownMounts(all []*mountinfo.Info) (paths []string) {
	for _, mount := range slices.Backward(all) {
		if m.podMount(mount.Mountpoint) || (mount.Mountpoint == config.KubeletDir && ontoItself(mount, all)) {
			paths = append(paths, mount.Mountpoint)
		}
	}
	return paths
}

// ontoItself says whether a directory is mounted onto itself. The kubelet does
// that with its own where mounts are not shared, which is so without systemd.
func ontoItself(mount *mountinfo.Info, all []*mountinfo.Info) bool {
	i := slices.IndexFunc(all, func(other *mountinfo.Info) bool { return other.ID == mount.Parent })
	if i < 0 {
		return false
	}
	parent := all[i]
	within, err := filepath.Rel(parent.Mountpoint, mount.Mountpoint)
	return err == nil && parent.Major == mount.Major && parent.Minor == mount.Minor &&
		mount.Root == filepath.Join(parent.Root, within)
}

// unmount takes away a mount, and one that is in use as soon as it isn't. It
// does not wait for a server of files that does not answer.
func unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", path, err)
}
