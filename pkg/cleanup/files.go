package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/sysctl"
)

// Files of others that hold Kedge's things among their own: see emptied.
const (
	cniState   = "/var/lib/cni" // https://github.com/containernetworking/cni
	cniNetwork = "kedge"
	logind     = "/etc/systemd/logind.conf.d"
	// Each containerd's shims have these places.
	shimSockets = "/run/containerd/s"
	runcState   = "/run/containerd/runc/k8s.io"
	// containerdSocket is that of a containerd that is not Kedge's.
	containerdSocket = "/run/containerd/containerd.sock"
)

// files are all of Kedge's, the data of the cluster among them.
func (m *Machine) files() trace {
	return trace{
		kind: "files",
		find: func(context.Context) ([]string, error) {
			var found []string
			for _, path := range m.allFiles() {
				if remaining(path) && !slices.Contains(found, path) {
					found = append(found, path)
				}
			}
			return found, nil
		},
		remove: func(ctx context.Context, found []string) error {
			mounts, err := mountPoints()
			if err != nil {
				return err
			}
			var errs []error
			for _, path := range found {
				errs = append(errs, m.remove(path, mounts))
			}
			for _, dir := range m.emptied() {
				_ = os.Remove(dir) // unless others have something in it
			}
			if slices.Contains(found, kubeletLogind) {
				_, _ = run(ctx, "systemctl", "kill", "--signal=HUP", "systemd-logind.service")
			}
			if err := errors.Join(errs...); err != nil {
				return fmt.Errorf("%w: %w", errForGood, err)
			}
			return nil
		},
	}
}

// kubeletLogind is where the kubelet tells logind to wait for it at shutdown.
var kubeletLogind = filepath.Join(logind, "99-kubelet.conf")

func (m *Machine) allFiles() []string {
	p, defaults := m.paths(), config.Paths{DataDir: config.DefaultDataDir}
	files := []string{
		// Not all of the directory: others may have put something there.
		p.Payload(), p.Server(), p.Agent(), p.Storage(),
		defaults.Payload(), // of commands from before the installation
		config.KubeletDir,
		"/var/log/containers",
		"/var/log/pods",
		"/run/flannel",
		filepath.Join(cniState, "networks", cniNetwork),
		kubeletLogind,
	}
	for _, pattern := range []string{
		filepath.Join(cniState, "results", cniNetwork+"-*"),
		filepath.Join(cniState, "results", "cni-loopback-*"),
	} {
		found, err := filepath.Glob(pattern)
		if err == nil { // the pattern is right
			files = append(files, found...)
		}
	}
	if _, err := os.Stat(containerdSocket); errors.Is(err, fs.ErrNotExist) {
		files = append(files, runcState)
	}
	files = append(files, deadSockets(shimSockets)...)
	files = append(files, m.Files...)
	return append(files, config.RuntimeDir, filepath.Dir(config.DefaultConfigFile))
}

// deadSockets are those in a directory at which nobody listens.
func deadSockets(dir string) (paths []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		conn, err := net.Dial("unix", path)
		if err == nil {
			_ = conn.Close()
		} else if errors.Is(err, unix.ECONNREFUSED) {
			paths = append(paths, path)
		}
	}
	return paths
}

// emptied are directories that Kedge may have made and others may use.
func (m *Machine) emptied() []string {
	return []string{
		m.DataDir, config.DefaultDataDir,
		filepath.Join(cniState, "networks"), filepath.Join(cniState, "results"), filepath.Join(cniState, "cache"), cniState,
		logind, shimSockets, filepath.Dir(runcState), filepath.Dir(shimSockets),
	}
}

// remaining says whether there is something at a path. A directory on which a
// disk is mounted stays, empty.
func remaining(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	if !info.IsDir() {
		return true
	}
	mounted, err := mountinfo.Mounted(path)
	if err != nil || !mounted {
		return true
	}
	entries, err := os.ReadDir(path)
	return err != nil || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != "lost+found" })
}

func mountPoints() (map[string]bool, error) {
	mounts, err := mountinfo.GetMounts(nil)
	points := map[string]bool{}
	for _, mount := range mounts {
		points[mount.Mountpoint] = true
	}
	return points, err
}

// remove removes a file or a directory of Kedge's. A part of the data directory
// that somebody has mounted stays: what else is on that disk isn't known.
func (m *Machine) remove(path string, mounts map[string]bool) error {
	if mounts[path] && below(path, m.DataDir) {
		return mountedError(path, path)
	}
	return removeTree(path, mounts)
}

func mountedError(point, dir string) error {
	return fmt.Errorf("something is mounted at %s: unmount it, and remove %s by hand", point, dir)
}

// removeTree removes a file or a directory with all that is in it, but never
// what somebody has mounted in it: that is an error. Of a directory that is itself
// a mount point the content goes.
func removeTree(path string, mounts map[string]bool) error {
	inside := false
	for point := range mounts {
		inside = inside || below(point, path)
	}
	if !inside && !mounts[path] {
		return os.RemoveAll(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		child := filepath.Join(path, entry.Name())
		if mounts[child] {
			errs = append(errs, mountedError(child, path))
			continue
		}
		if mounts[path] && entry.Name() == "lost+found" {
			continue // the file system's own
		}
		errs = append(errs, removeTree(child, mounts))
	}
	if err := errors.Join(errs...); err != nil || mounts[path] {
		return err
	}
	return os.Remove(path)
}

// settings are those of the kernel that were otherwise before Kedge.
func (m *Machine) settings() trace {
	host := sysctl.Host{Root: "/proc/sys"}
	find := func() (sysctl.Settings, error) {
		changed, err := host.Changed(config.SysctlFile)
		for name := range changed {
			// Others have begun to need it, or may have.
			if sysctl.Forwarding(name) && otherNetworks() {
				delete(changed, name)
			}
		}
		return changed, err
	}
	return trace{
		kind: "settings of the kernel",
		find: func(context.Context) (names []string, err error) {
			changed, err := find()
			for name := range changed {
				names = append(names, name)
			}
			slices.Sort(names)
			return names, err
		},
		remove: func(_ context.Context, found []string) error {
			changed, err := find()
			if err != nil {
				return err
			}
			var errs []error
			for _, name := range found {
				// Where the kernel does not let it go back, it stays.
				errs = append(errs, host.Set(name, changed[name]))
			}
			if err := errors.Join(errs...); err != nil {
				return fmt.Errorf("%w: %w", errForGood, err)
			}
			return nil
		},
	}
}

// otherNetworks says whether there are bridges of others, such as those of
// containers and virtual machines.
func otherNetworks() bool {
	links, err := netlink.LinkList()
	return err != nil || slices.ContainsFunc(links, func(link netlink.Link) bool {
		return link.Type() == "bridge" && !interfaceNames.MatchString(link.Attrs().Name)
	})
}
