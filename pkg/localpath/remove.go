package localpath

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// atticName is a name that no other directory in an attic has.
func atticName(dir string) string { return dir + "." + strings.ToLower(rand.Text()) }

// openDir opens a directory and nothing else: no link is followed to one.
const openDir = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// emptyAttic removes all that is in a root's attic and returns how many files
// and directories that were.
//
// What pods left there is hostile: links, mounts, directories within directories
// beyond any count, and changes while it is removed. So no path longer than one
// name is ever looked up. A directory within one is first moved to the top of the
// attic, where it waits for its turn; three files are open at most, and a mount
// point, which can't be moved or removed, stays with all behind it.
func emptyAttic(ctx context.Context, root string) (removed int, err error) {
	fd, err := unix.Open(filepath.Join(root, attic), openDir, 0)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", filepath.Join(root, attic), err)
	}
	top := os.NewFile(uintptr(fd), attic)
	defer func() { _ = top.Close() }()
	stuck := map[string]bool{} // what can't be removed, tried once
	var all []error
	for ctx.Err() == nil {
		names, err := entries(top)
		if err != nil {
			return removed, err
		}
		before := removed
		for _, name := range names {
			if stuck[name] || ctx.Err() != nil {
				continue
			}
			n, err := removeTree(ctx, fd, name)
			removed += n
			if err != nil && ctx.Err() == nil {
				stuck[name] = true
				all = append(all, err)
			}
		}
		if removed == before {
			break
		}
	}
	return removed, errors.Join(all...)
}

// entries returns some names in a directory, from its beginning.
func entries(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(batch)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// batch is how many names of a directory are held at a time.
const batch = 1000

// removeTree removes an entry of the attic whose directory is open as top. If it
// is a directory, those within it are moved to the attic.
func removeTree(ctx context.Context, top int, name string) (removed int, err error) {
	switch err := removeOne(top, name); {
	case err == nil:
		return 1, nil
	case !errors.Is(err, unix.ENOTEMPTY):
		return 0, fmt.Errorf("remove %s: %w", name, err)
	}
	fd, err := unix.Openat(top, name, openDir, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer func() { _ = dir.Close() }()
	var stays error
	for ctx.Err() == nil {
		names, err := entries(dir)
		if err != nil {
			return removed, err
		}
		before := removed
		for _, entry := range names {
			err := removeOne(fd, entry)
			if errors.Is(err, unix.ENOTEMPTY) {
				err = unix.Renameat(fd, entry, top, atticName("part"))
			}
			switch {
			case err == nil:
				removed++
			case !errors.Is(err, unix.ENOENT):
				stays = fmt.Errorf("remove %s in %s: %w", entry, name, err)
			}
		}
		if removed == before {
			break
		}
	}
	if stays != nil {
		return removed, stays
	}
	if err := removeOne(top, name); err != nil {
		return removed, fmt.Errorf("remove %s: %w", name, err)
	}
	return removed + 1, nil
}

// removeOne removes a file or an empty directory.
func removeOne(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	return err
}
