package cleanup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// netnsDir is where network namespaces have names.
const netnsDir = "/run/netns"

// mounts are those that pods need.
func (m *Machine) mounts() trace {
	return trace{
		kind: "mounts",
		find: func(context.Context) ([]string, error) { return mountsIn(m.podMount) },
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

// mountsIn returns the mount points that match, those made last first.
func mountsIn(match func(path string) bool) (paths []string, err error) {
	mounts, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		return !match(info.Mountpoint), false
	})
	if err != nil {
		return nil, err
	}
	for _, mount := range slices.Backward(mounts) {
		paths = append(paths, mount.Mountpoint)
	}
	return paths, nil
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

// namespaces are the pods' network namespaces. Their interfaces go with them.
func (m *Machine) namespaces() trace {
	return trace{
		kind: "network namespaces",
		find: func(context.Context) ([]string, error) { return m.podNamespaces() },
		remove: func(_ context.Context, found []string) error {
			var errs []error
			for _, path := range found {
				if err := unmount(path); err != nil {
					errs = append(errs, err)
					continue
				}
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		},
	}
}

// podNamespaces are those that containerd's bundles name. Where no other
// containerd runs they are also those with a name as containerd gives it.
func (m *Machine) podNamespaces() ([]string, error) {
	found := map[string]bool{}
	bundles, err := filepath.Glob(filepath.Join(config.RuntimeDir, "containerd", "io.containerd.runtime.v2.task", "*", "*", "config.json"))
	if err != nil {
		return nil, err
	}
	for _, bundle := range bundles {
		content, err := os.ReadFile(bundle)
		if err != nil {
			continue // it goes with its container
		}
		if path := namespaceOf(content); path != "" {
			found[path] = true
		}
	}
	if _, err := os.Stat("/run/containerd/containerd.sock"); errors.Is(err, fs.ErrNotExist) {
		names, err := filepath.Glob(filepath.Join(netnsDir, "cni-*"))
		if err != nil {
			return nil, err
		}
		for _, path := range names {
			found[path] = true
		}
	}
	var paths []string
	for path := range found {
		if _, err := os.Lstat(path); err == nil {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// namespaceOf is the named network namespace in a container's configuration, see
// https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#namespaces.
func namespaceOf(config []byte) string {
	var spec struct {
		Linux struct {
			Namespaces []struct{ Type, Path string }
		}
	}
	if json.Unmarshal(config, &spec) != nil {
		return ""
	}
	for _, ns := range spec.Linux.Namespaces {
		path := strings.TrimPrefix(ns.Path, "/var")
		if ns.Type == "network" && filepath.Dir(path) == netnsDir && strings.HasPrefix(filepath.Base(path), "cni-") {
			return path
		}
	}
	return ""
}
