package payload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockName  = ".lock"
	lockRetry = 20 * time.Millisecond
)

// acquire takes the lock of a store, which whoever adds or removes payloads
// holds. It waits up to limit while another process has it and first tells
// waiting about that process; its id is 0 where unknown.
func acquire(ctx context.Context, store string, limit time.Duration, waiting func(lock string, holder int)) (release func(), err error) {
	name := filepath.Join(store, lockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// flock can't be given a time limit, so it is tried again and again.
	retry := time.NewTicker(lockRetry)
	defer retry.Stop()
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, &os.PathError{Op: "lock", Path: name, Err: err}
		}
		if !told {
			waiting(name, holder(f))
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, fmt.Errorf("%s: still locked by another kedge after %v (process %d); is it stuck?", name, limit, holder(f))
			}
			return nil, ctx.Err()
		}
	}
	// The process id only serves the messages of those who wait.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	return func() {
		_ = f.Truncate(0)
		_ = f.Close()
	}, nil
}

func holder(f *os.File) int {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return 0
	}
	return pid
}

// Hold keeps [RemoveOld] from removing the payload at root until this process
// ends or execs. It is for the moment between finding a payload and running
// from it: a process that runs from a payload needs no hold. The error is
// fs.ErrNotExist if there is no such payload and EWOULDBLOCK if it is being
// removed.
func Hold(root string) error {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: root, Err: err}
	}
	// The descriptor stays open on purpose. The kernel closes it in exec after
	// it has set /proc/PID/exe, so a remover sees one or the other.
	if err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd)
		return &os.PathError{Op: "lock", Path: root, Err: err}
	}
	return nil
}
