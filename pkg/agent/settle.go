package agent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

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
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back pages of %s: %w", exe, errno)
		}
	}
	return lines.Err()
}
