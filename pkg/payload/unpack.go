package payload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names of what is not a payload yet, or not any more. Only the holder of the
// lock makes them, so the next holder may remove them.
const (
	unpackPrefix = ".unpack-"
	removePrefix = ".remove-"
)

// unpackWait is how long Unpack waits for another process that unpacks. Slow
// SD cards take minutes.
const unpackWait = 5 * time.Minute

// Reporter is told what [File.Unpack] does. Its methods are called one at a
// time and must return quickly.
type Reporter interface {
	// Waiting says that another process holds the lock; its id is 0 if
	// unknown.
	Waiting(lock string, holder int)
	// Unpacking says that size bytes are about to be unpacked into dir.
	Unpacking(dir string, size int64)
	// Progress says how many bytes are unpacked.
	Progress(done int64)
	// Flushing says that all is unpacked and being written to disk.
	Flushing()
}

// Unpack makes sure that the payload is unpacked below dataDir and returns its
// root, which it holds as [Hold] does. Of several calls at once one unpacks and
// the others wait for it. Whatever happens, [Dir] either is complete or doesn't
// exist.
//
// Errors of note are *[DamagedError], *[NoSpaceError] and *[NoExecError].
func (f *File) Unpack(ctx context.Context, dataDir string, report Reporter) (root string, err error) {
	root = Dir(dataDir, f.ID())
	if err := f.unpack(ctx, root, report); err != nil {
		if damaged := (*DamagedError)(nil); errors.As(err, &damaged) {
			damaged.File = f.name
			return "", damaged
		}
		return "", fmt.Errorf("unpack Kedge into %s: %w", root, err)
	}
	return root, nil
}

func (f *File) unpack(ctx context.Context, root string, report Reporter) (err error) {
	store := filepath.Dir(root)
	if err := checkNewPlace(store, f.Trailer); err != nil {
		return err
	}
	if err := makeDir(store); err != nil {
		return explainSpace(err, filepath.Dir(store), f.Trailer)
	}
	release, err := acquire(ctx, store, unpackWait, report.Waiting)
	if err != nil {
		return explainSpace(err, store, f.Trailer)
	}
	defer release()
	defer func() {
		if err == nil {
			// Nobody removes payloads as long as this process has the lock, so
			// this can only fail where directories can't be locked at all.
			_ = Hold(root)
		}
	}()
	// Before anything else: what is left of a killed process takes space.
	if err := removeLeftovers(store); err != nil {
		return err
	}
	if complete, err := settle(root); err != nil || complete {
		return err
	}
	if err := checkPlace(store, f.Trailer); err != nil {
		return err
	}
	report.Unpacking(root, f.Size)

	temp := filepath.Join(store, fmt.Sprintf("%s%s-%d", unpackPrefix, f.ID(), os.Getpid()))
	defer func() {
		if err != nil {
			// What can't be removed now is a leftover for the next start.
			_ = os.RemoveAll(temp)
			err = explainSpace(err, store, f.Trailer)
		}
	}()
	if err := os.Mkdir(temp, 0o755); err != nil { //nolint:gosec // the payload is public
		return err
	}
	if err := os.Chmod(temp, 0o755); err != nil { //nolint:gosec // the payload is public
		return err
	}
	if err := f.extract(ctx, temp, report); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(temp, Program)); err != nil {
		return &DamagedError{Reason: "its payload has no " + Program}
	}
	if err := os.Rename(temp, root); err != nil {
		return err
	}
	return syncDir(store)
}

// settle tells whether the payload at root is there. One that lost its program
// is moved out of the way.
func settle(root string) (complete bool, err error) {
	_, err = os.Lstat(filepath.Join(root, Program))
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return false, err
	}
	if err := discard(root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return false, nil
}

// discard removes a payload, first its name and then its files, so that it is
// never seen half removed.
func discard(root string) error {
	store, id := filepath.Split(root)
	temp := filepath.Join(store, fmt.Sprintf("%s%s-%d", removePrefix, id, os.Getpid()))
	if err := os.Rename(root, temp); err != nil {
		return err
	}
	return os.RemoveAll(temp)
}

// removeLeftovers removes what killed processes left in the store.
func removeLeftovers(store string) error {
	entries, err := os.ReadDir(store)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unpackPrefix) || strings.HasPrefix(e.Name(), removePrefix) {
			if err := os.RemoveAll(filepath.Join(store, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeDir makes a directory and its missing parents, with mode 0755 whatever
// the umask is.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &os.PathError{Op: "use", Path: dir, Err: unix.ENOTDIR}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // holds public files
		if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
			return nil // another process was faster
		}
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // holds public files
		return err
	}
	return syncDir(parent)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
