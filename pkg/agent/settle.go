package agent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/payload"
)

const settleTime = 30 * time.Second

// Settle waits until the parts have had their first half minute, and then gives
// back the memory that only that took, and the disk space of other versions'
// payloads that nothing runs from.
func (n *Node) Settle(ctx context.Context) {
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
		return
	}
	if err := trimMemory(); err != nil {
		n.log.Debug("memory of the start-up is not given back", "err", err)
	}
	removed, err := payload.RemoveOld(n.paths.DataDir, n.payload)
	if err != nil {
		n.log.Warn("old versions stay on disk", "err", err)
	}
	for _, dir := range removed {
		n.log.Info("removed an old version's programs", "dir", dir)
	}
}

// trimMemory gives back what only the start-up needed: freed heap, and the
// pages of the program's own file. Those stay in the page cache, so that the
// ones still in use come back with a minor fault each.
func trimMemory() error {
	debug.FreeOSMemory()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer func() { _ = maps.Close() }()
	single := newSinglePages()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		// Only pages that can't have been written to.
		if len(fields) < 6 || fields[5] != exe || strings.Contains(fields[1], "w") {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
			return fmt.Errorf("/proc/self/maps: %w", err)
		}
		single.register(from, to)
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back pages of %s: %w", exe, errno)
		}
	}
	return lines.Err()
}

// singlePages keeps the kernel from mapping the 15 neighbours of each page that
// is touched. Of a program this large few neighbours are ever used, and they
// make most of what an idle one seems to need.
//
// The kernel has no setting for it per process, but it leaves neighbours alone
// in memory whose writes are tracked by userfaultfd, and that can be asked for
// memory which is never written to. Asynchronous tracking, for any kind of
// memory, came with Linux 6.7; before it all stays as it was.
// https://docs.kernel.org/admin-guide/mm/userfaultfd.html
type singlePages struct{ fd int } // open as long as the process runs

// From include/uapi/linux/userfaultfd.h.
const (
	uffdAPI            = 0xaa
	uffdFeatureWPAsync = 1 << 15
	uffdModeWP         = 1 << 1
	uffdioAPI          = 0xc018aa3f
	uffdioRegister     = 0xc020aa00
)

func newSinglePages() singlePages {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return singlePages{-1}
	}
	api := struct{ api, features, ioctls uint64 }{api: uffdAPI, features: uffdFeatureWPAsync}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uffdioAPI, uintptr(unsafe.Pointer(&api))); errno != 0 { //nolint:gosec // the kernel reads and writes it
		_ = unix.Close(int(fd))
		return singlePages{-1}
	}
	return singlePages{int(fd)}
}

func (s singlePages) register(from, to uintptr) {
	if s.fd < 0 {
		return
	}
	arg := struct{ start, len, mode, ioctls uint64 }{start: uint64(from), len: uint64(to - from), mode: uffdModeWP}
	// What fails here stays as it was.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), uffdioRegister, uintptr(unsafe.Pointer(&arg))) //nolint:gosec // the kernel reads and writes it
}
