package payload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// removeWait is how long RemoveOld waits for a process that unpacks. It need
// not be patient: what stays is removed another time.
const removeWait = 10 * time.Second

// RemoveOld removes the payloads below dataDir that nothing runs from and
// returns the directories that are gone. It keeps current, the root of a
// payload, in any case. Where it can't tell whether something is used it keeps
// that, too.
func RemoveOld(dataDir string, current string) ([]string, error) {
	removed, err := removeOld(storeDir(dataDir), filepath.Base(current))
	if err != nil {
		return removed, fmt.Errorf("remove old payloads from %s: %w", storeDir(dataDir), err)
	}
	return removed, nil
}

func removeOld(store, current string) (removed []string, err error) {
	if _, err := os.Stat(store); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	release, err := acquire(context.Background(), store, removeWait, func(string, int) {})
	if err != nil {
		return nil, err
	}
	defer release()
	if err := removeLeftovers(store); err != nil {
		return nil, err
	}
	old, err := claimOld(store, current)
	defer func() {
		for _, dir := range old {
			_ = dir.Close()
		}
	}()
	if err != nil || len(old) == 0 {
		return nil, err
	}
	used, err := inUse(old)
	if err != nil {
		return nil, err
	}
	for _, dir := range old {
		if used[dir.Name()] {
			continue
		}
		if rmErr := discard(dir.Name()); rmErr != nil {
			err = errors.Join(err, rmErr)
			continue
		}
		removed = append(removed, dir.Name())
	}
	return removed, err
}

// claimOld opens and locks all payloads but current that nobody holds. While
// they are locked no launcher starts a program from them.
func claimOld(store, current string) (old []*os.File, err error) {
	entries, err := os.ReadDir(store)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() || !isID(e.Name()) || e.Name() == current {
			continue
		}
		dir, err := os.Open(filepath.Join(store, e.Name()))
		if err != nil {
			return old, err
		}
		// Where directories can't be locked, as on NFS, launchers can't hold
		// them either and look again when the program is gone.
		if errors.Is(unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK) {
			_ = dir.Close()
			continue
		}
		old = append(old, dir)
	}
	return old, nil
}

// fileID identifies a file whatever path and mount namespace it is seen
// through.
type fileID struct{ dev, ino uint64 }

func identify(info fs.FileInfo) (fileID, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, false
	}
	return fileID{uint64(st.Dev), st.Ino}, true //nolint:unconvert // types differ by architecture
}

// inUse tells which of the directories some process runs a program from.
func inUse(dirs []*os.File) (map[string]bool, error) {
	owner := map[fileID]string{}           // the directory that holds a file
	called := map[string]map[string]bool{} // the directories that hold a file of that name
	for _, dir := range dirs {
		err := filepath.WalkDir(dir.Name(), func(_ string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if id, ok := identify(info); ok {
				owner[id] = dir.Name()
			}
			name := d.Name()[:min(len(d.Name()), commLen)]
			if called[name] == nil {
				called[name] = map[string]bool{}
			}
			called[name][dir.Name()] = true
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	used := map[string]bool{}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, proc := range procs {
		info, err := os.Stat(filepath.Join(proc, "exe"))
		switch {
		case err == nil:
			if id, ok := identify(info); ok && owner[id] != "" {
				used[owner[id]] = true
			}
		case errors.Is(err, fs.ErrPermission):
			// A process with more rights than this one has shows no more than
			// its name.
			comm, _ := os.ReadFile(filepath.Join(proc, "comm"))
			maps.Copy(used, called[strings.TrimSpace(string(comm))])
		default: // it has ended, or is a kernel thread
		}
	}
	return used, nil
}

// commLen is the length that the kernel cuts the names of processes to.
const commLen = 15
