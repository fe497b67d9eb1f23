package hostcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// MinFreeSpace and LowFreeSpace are the bytes below which the data directory can't
// hold Kedge's programs and datastore, and can't hold many images.
const (
	MinFreeSpace = 300 << 20
	LowFreeSpace = 2 << 30
)

// Writable says whether a directory can be written to, or made where it isn't
// there yet. It makes nothing.
func Writable(dir string) error {
	existing, err := existingParent(dir)
	if err != nil {
		return fmt.Errorf("write to %s: %w", dir, err)
	}
	err = unix.Faccessat(unix.AT_FDCWD, existing, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("write to %s: %s is on a file system mounted read-only", dir, existing)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("write to %s: %s: %w", dir, existing, fs.ErrPermission)
	}
	return fmt.Errorf("write to %s: %w", dir, err)
}

// FreeSpace returns the bytes that can still be written below a directory, or
// below its nearest parent that exists, by a user other than root: what df shows.
func FreeSpace(dir string) (uint64, error) {
	st, _, err := statfs(dir)
	if err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil //nolint:gosec,unconvert // positive; a 32-bit number on 32-bit machines
}

// statfs describes the file system that a directory is on, or will be once it is
// made, and returns the existing directory it looked at.
func statfs(dir string) (unix.Statfs_t, string, error) {
	var st unix.Statfs_t
	existing, err := existingParent(dir)
	if err != nil {
		return st, "", fmt.Errorf("find the file system of %s: %w", dir, err)
	}
	if err := unix.Statfs(existing, &st); err != nil {
		return st, "", fmt.Errorf("find the file system of %s: %w", dir, err)
	}
	return st, existing, nil
}

// existingParent returns a directory, or its nearest parent that exists.
func existingParent(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && !info.IsDir():
			return "", fmt.Errorf("%s is not a directory", dir)
		case err == nil:
			return dir, nil
		case errors.Is(err, unix.ENOTDIR):
			// A parent is a file: go on up to name it.
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		if link, err := os.Readlink(dir); err == nil {
			return "", fmt.Errorf("%s is a symbolic link to %s, which doesn't exist", dir, link)
		}
		dir = filepath.Dir(dir) // the root always exists
	}
}

// OverlayUsable returns an error if overlayfs can't keep what containers write in a
// directory, or in its nearest parent that exists. It makes an overlay in a
// temporary directory there, mounted nowhere, writes and deletes in it as images
// do, and removes all of it. An [ErrUntried] is about something else that is in the
// way, such as a full disk, and says nothing about overlayfs.
func OverlayUsable(dir string) (err error) {
	existing, err := existingParent(dir)
	if err != nil {
		return fmt.Errorf("overlayfs: %w: %w", ErrUntried, err)
	}
	// Containerd hands such paths on as they are.
	if abs, err := filepath.Abs(dir); err != nil || strings.ContainsAny(abs, `:,\`) {
		return fmt.Errorf("overlayfs can't be used in %s: a colon, comma or backslash in a path means something else to it", dir)
	}
	tmp, err := os.MkdirTemp(existing, ".kedge-overlay-")
	if err != nil {
		return fmt.Errorf("overlayfs: %w: %w", ErrUntried, err)
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(tmp))
	}()
	if err := makeLayers(tmp); err != nil {
		return fmt.Errorf("overlayfs: %w: %w", ErrUntried, err)
	}
	err = tryOverlayIn(tmp)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, errMayNotMount):
		return fmt.Errorf("overlayfs: %w: %w", ErrUntried, err)
	}
	return fmt.Errorf("overlayfs can't be used on %s (%s): %w", existing, fileSystem(existing), err)
}

// errMayNotMount says that this process can't mount anything.
var errMayNotMount = errors.New("mounting takes root with CAP_SYS_ADMIN")

// makeLayers makes the directories of an overlay, and something in the lower one.
func makeLayers(dir string) error {
	for _, d := range []string{"lower/dir", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	for _, f := range []string{"lower/file", "lower/dir/old"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("lower"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// tryOverlayIn does in an overlay of a directory's layers what must work: reading
// through, writing, hiding a file and a directory of the layer below.
func tryOverlayIn(dir string) error {
	// Overlayfs mounts without this, but then shows files that were deleted.
	if known, err := entryTypesKnown(filepath.Join(dir, "lower")); err != nil {
		return err
	} else if !known {
		return errors.New("the file system's directories don't tell files from directories (d_type; for xfs: mkfs.xfs -n ftype=1)")
	}

	mount, err := overlay(dir)
	if err != nil {
		return err
	}
	defer unix.Close(mount) //nolint:errcheck // the last reference: the mount ends
	merged := fmt.Sprintf("/proc/self/fd/%d/", mount)

	if err := os.WriteFile(merged+"file", []byte("upper"), 0o600); err != nil {
		return err
	}
	if err := os.Remove(merged + "file"); err != nil {
		return err
	}
	if err := os.RemoveAll(merged + "dir"); err != nil {
		return err
	}
	if err := os.Mkdir(merged+"dir", 0o700); err != nil {
		return err
	}
	for _, gone := range []string{"file", "dir/old"} {
		if _, err := os.Lstat(merged + gone); !errors.Is(err, fs.ErrNotExist) {
			return errors.New("what was deleted is still there")
		}
	}
	return nil
}

// overlay makes an overlay of a directory's lower, upper and work, and returns a
// descriptor of its root. It is attached nowhere and ends with the descriptor.
func overlay(dir string) (int, error) {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	switch {
	case errors.Is(err, unix.ENODEV):
		return -1, errors.New("the kernel has no overlayfs")
	case errors.Is(err, unix.EPERM):
		return -1, errMayNotMount
	case err != nil:
		return -1, err
	}
	defer unix.Close(fsfd) //nolint:errcheck // nothing was written to it
	for _, option := range []struct{ name, dir string }{
		{"lowerdir", "lower"}, {"upperdir", "upper"}, {"workdir", "work"},
	} {
		if err := unix.FsconfigSetString(fsfd, option.name, filepath.Join(dir, option.dir)); err != nil {
			return -1, explain(fsfd, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, explain(fsfd, err)
	}
	mount, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, explain(fsfd, err)
	}
	return mount, nil
}

// explain adds the kernel's own words about a failed mount to an error, if it has
// any.
func explain(fsfd int, err error) error {
	buf := make([]byte, 1024)
	n, readErr := unix.Read(fsfd, buf)
	if readErr != nil || n <= 2 {
		return err
	}
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(buf[2:n]))) // after "e ", for error
}

// entryTypesKnown says whether reading a directory tells what kind each entry is.
func entryTypesKnown(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close() //nolint:errcheck // only read
	buf := make([]byte, 4096)
	n, err := unix.Getdents(int(d.Fd()), buf)
	if err != nil {
		return false, fmt.Errorf("read directory %s: %w", dir, err)
	}
	const lengthAt, typeAt = 16, 18 // in struct linux_dirent64, the same everywhere
	for rest := buf[:n]; len(rest) > typeAt; {
		if rest[typeAt] == unix.DT_UNKNOWN {
			return false, nil
		}
		length := int(rest[lengthAt]) | int(rest[lengthAt+1])<<8
		if length == 0 || length > len(rest) {
			break
		}
		rest = rest[length:]
	}
	return true, nil
}

// fileSystem returns the type of the file system that a directory is on.
func fileSystem(dir string) string {
	const unknown = "unknown file system"
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil {
		return unknown
	}
	var found *mountinfo.Info
	for _, m := range mounts {
		if found == nil || len(m.Mountpoint) >= len(found.Mountpoint) {
			found = m
		}
	}
	if found == nil {
		return unknown
	}
	return found.FSType
}
