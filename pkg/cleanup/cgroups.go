package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// cgroups are the kubelet's, of either version and by either driver.
func (m *Machine) cgroups() trace {
	return trace{
		kind: "cgroups",
		find: func(context.Context) ([]string, error) { return podCgroupDirs() },
		remove: func(ctx context.Context, found []string) error {
			// systemd keeps a record of the slices that it was asked for.
			if _, err := os.Stat("/run/systemd/system"); err == nil {
				if _, err := run(ctx, "systemctl", "stop", "kubepods.slice"); err != nil {
					return err
				}
			}
			var errs []error
			for _, dir := range found {
				errs = append(errs, removeCgroup(dir))
			}
			return errors.Join(errs...)
		},
	}
}

func podCgroupDirs() (dirs []string, err error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	for _, mount := range mounts {
		for _, name := range podCgroups {
			dir := filepath.Join(mount.Mountpoint, name)
			if _, err := os.Stat(dir); err == nil && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs, nil
}

// removeCgroup removes a cgroup and those in it, the innermost first.
func removeCgroup(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	errs := []error{err}
	for _, dir := range slices.Backward(dirs) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}
