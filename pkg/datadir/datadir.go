// Package datadir checks a data directory before anything is written to it,
// and claims it for one process.
package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// Dir is a data directory as one role uses it.
type Dir struct {
	Root string // --data-dir
	Role string // what the role keeps apart from others, a directory in Root
}

// Check refuses a directory that can't be used, and changes nothing.
func (d Dir) Check() error {
	if err := hostcheck.Writable(d.Root); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	free, err := hostcheck.FreeSpace(d.Root)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if free < hostcheck.MinFreeSpace {
		return fmt.Errorf("--data-dir: only %d MB are free on the file system of %s, and %d are needed: make room, or choose another --data-dir", free>>20, d.Root, hostcheck.MinFreeSpace>>20)
	}
	if err := d.checkVersion(); err != nil {
		return err
	}
	// Another process holds the lock and the ports: it is the clearer news.
	lock, err := d.lock(0)
	if err == nil {
		return lock.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// checkVersion refuses a directory that a newer Kedge has written to.
func (d Dir) checkVersion() error {
	data, err := os.ReadFile(d.versionFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if last := strings.TrimSpace(string(data)); version.Newer(last, version.Version) {
		return fmt.Errorf("%s was last used by Kedge %s, and this is %s, which is older: install %s or newer, or restore a backup from before the upgrade", d.Root, last, version.Version, last)
	}
	return nil
}

// Claim makes this process the only one of its role in the directory, until
// release is called or the process ends, and marks it with this version.
func (d Dir) Claim() (release func(), err error) {
	if err := os.MkdirAll(d.Root, 0o755); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(d.Role, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := d.lock(os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if _, err := atomicfile.Update(d.versionFile(), []byte(version.Version+"\n"), 0o644); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return func() { _ = lock.Close() }, nil
}

// lock holds the lock of the role's directory until the file is closed or the
// process ends. With os.O_CREATE it makes the lock file.
func (d Dir) lock(create int) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(d.Role, "lock"), os.O_RDWR|create, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another %s is running on %s: stop it, or give this one a --data-dir of its own", filepath.Base(d.Role), d.Root)
		}
		return nil, fmt.Errorf("lock %s: %w", d.Role, err)
	}
	return lock, nil
}

func (d Dir) versionFile() string { return filepath.Join(d.Role, "version") }
