package payload

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fileBlock is what a file takes on disk beyond its length, in bytes: rounding
// up to a block and its metadata.
const fileBlock = 4096

// checkPlace says why a payload can't be unpacked into dir and run there.
func checkPlace(dir string, t Trailer) error {
	if err := CheckExec(dir); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return &os.PathError{Op: "write to", Path: dir, Err: unix.EROFS}
	}
	need := t.Size + t.Entries*fileBlock
	if free := int64(st.Bavail) * int64(st.Frsize); free < need { //nolint:gosec,unconvert // types differ by architecture
		return &NoSpaceError{FileSystem: fileSystem(dir), Need: need, Free: free}
	}
	// File systems without a fixed number of inodes report none at all.
	if free := int64(st.Ffree); st.Files > 0 && free < t.Entries { //nolint:gosec // never above 2^63
		return &NoSpaceError{FileSystem: fileSystem(dir), Need: t.Entries, Free: free, Inodes: true}
	}
	return nil
}

// checkNewPlace is checkPlace for a directory that is yet to be made, so that
// nothing is made where there is no room.
func checkNewPlace(dir string, t Trailer) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil // leftovers in it may go first
	}
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err == nil {
			full := (*NoSpaceError)(nil)
			if err := checkPlace(parent, t); info.IsDir() && errors.As(err, &full) && full.Free > 0 {
				return err
			}
			return nil // where making it fails for another reason, that says why
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}

// CheckExec gives a *[NoExecError] if programs can't be run from dir's file
// system.
func CheckExec(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		return &NoExecError{FileSystem: fileSystem(dir)}
	}
	return nil
}

// explainSpace turns "no space left on device", met while unpacking into dir,
// into an error with figures.
func explainSpace(err error, dir string, t Trailer) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	if full := checkPlace(dir, t); full != nil {
		return full
	}
	return fmt.Errorf("file system %s: %w", fileSystem(dir), err)
}

// fileSystem describes the file system that dir is on, for messages.
func fileSystem(dir string) string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "of " + dir
	}
	defer func() { _ = f.Close() }()
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	var point, description string
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 36 35 98:0 /root /mount/point options [optional…] - type source superoptions
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, fs := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(fs) < 2 {
			continue
		}
		mount := unescape.Replace(fields[4])
		// The longest mount point above dir counts, and of several the last.
		if below(dir, mount) && len(mount) >= len(point) {
			point = mount
			description = fmt.Sprintf("%s (%s on %s)", mount, fs[0], unescape.Replace(fs[1]))
		}
	}
	if point == "" {
		return "of " + dir
	}
	return description
}

func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
