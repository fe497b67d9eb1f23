//go:build robustness

package robustness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// shell runs a script on a server's host.
func (s *server) shell(ctx context.Context, script string) error {
	_, err := s.host.Exec(ctx, "sh", "-euc", script)
	return err
}

// smallDisk gives the database a file system of its own, which fills up soon.
const smallDisk = `
	db=/var/lib/kedge/server/db
	truncate -s 64M /run/disk
	mkfs.ext4 -q /run/disk
	mkdir -p $db
	mount -o loop /run/disk $db
	rmdir $db/lost+found`

// TestDiskFull takes the database all its space under load, and gives it back.
func TestDiskFull(t *testing.T) {
	r := newRun(t, 1, func(host *testbed.Host) {
		if _, err := host.Exec(t.Context(), "sh", "-euc", smallDisk); err != nil {
			t.Fatal(err)
		}
	})
	s := r.servers[0]
	// fill waits until writes are refused with a reason.
	fill := func() error {
		before := r.met("disk is full")
		// Whatever the server gives back meanwhile is taken too.
		script := "cat /dev/zero >> /var/lib/kedge/server/db/filler 2> /dev/null || true"
		return testbed.Wait(t.Context(), "writes to be refused because the disk is full", limit, func(ctx context.Context) (bool, string) {
			if err := s.shell(ctx, script); err != nil {
				return false, err.Error()
			}
			return r.met("disk is full") >= before+5, r.commonErrors()
		})
	}
	free := func() error { return s.shell(t.Context(), "rm /var/lib/kedge/server/db/filler") }
	r.injure(
		faultKind{"full disks", 1, 15, func() error {
			if err := fill(); err != nil {
				return err
			}
			// What is there can be read.
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, _, err := s.api.list(ctx); err != nil {
				return fmt.Errorf("list while the disk is full: %w", err)
			}
			r.wait(3 * time.Second)
			return free()
		}},
		faultKind{"kills on a full disk", 0, 10, func() error {
			if err := fill(); err != nil {
				return err
			}
			if err := s.kill(); err != nil {
				return err
			}
			if err := s.start(); err != nil {
				return err
			}
			r.wait(3 * time.Second)
			return free()
		}},
	)
}

// met counts the errors with a text that clients have met.
func (r *run) met(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := 0
	for message, times := range r.errors {
		if strings.Contains(message, text) {
			count += times
		}
	}
	return count
}

// The data directory lies on a disk that is a file. The file system below can
// clone files at once.
const (
	disk, nextDisk = "/run/disks/now", "/run/disks/next"

	ownDisk = `
	truncate -s 6G /run/lower
	mkfs.btrfs -q /run/lower
	mkdir /run/disks
	mount -o loop /run/lower /run/disks
	truncate -s 2G ` + disk + `
	mkfs.ext4 -q ` + disk + `
	mount -o loop ` + disk + ` /var/lib/kedge`

	changeDisks = `
	umount /var/lib/kedge
	mv ` + nextDisk + ` ` + disk + `
	mount -o loop ` + disk + ` /var/lib/kedge`
)

// TestPowerCuts cuts the power of a host, in the middle of writes and of starts.
//
// A power cut leaves what the disk has got, and nothing of what the host's kernel
// would still have written. That is what a clone of the disk holds: cloning locks
// the file, so that it is the disk of one moment, between two requests of the
// kernel. The host goes on with the clone, and whatever was answered after that
// moment never was.
//
// This disk keeps all it has accepted. One with a volatile cache loses more: what
// no sync was asked for. That is what the host's kernel holds back here.
func TestPowerCuts(t *testing.T) {
	kinds := []faultKind{{name: "power cuts", short: 2, long: 200}, {name: "power cuts during starts", short: 1, long: 50}}
	r := newRun(t, 1, func(host *testbed.Host) {
		if _, err := host.Exec(t.Context(), "sh", "-euc", ownDisk); err != nil {
			t.Fatal(err)
		}
	})
	s := r.servers[0]
	cut := func() error {
		moment := r.history.Now()
		if err := clone(s.host.Path(disk), s.host.Path(nextDisk)); err != nil {
			return err
		}
		if err := s.kill(); err != nil {
			return err
		}
		r.end()
		r.history.Forget(moment)
		for _, w := range r.watches {
			w.seen.Forget(moment)
		}
		if err := s.shell(t.Context(), changeDisks); err != nil {
			return err
		}
		r.begin()
		return s.start()
	}
	kinds[0].strike = cut
	kinds[1].strike = func() error {
		if err := s.kill(); err != nil {
			return err
		}
		if err := s.start(); err != nil {
			return err
		}
		r.wait(1500 * time.Millisecond)
		return cut()
	}
	r.injure(kinds...)
}

// clone makes a file that shares its content with another one.
func clone(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if err := unix.IoctlFileClone(int(target.Fd()), int(source.Fd())); err != nil {
		return fmt.Errorf("clone %s: %w", from, err)
	}
	return nil
}
