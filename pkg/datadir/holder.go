package datadir

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Holder returns the process that has claimed the directory; 0: none, or none
// that can be seen. It only looks: to try the lock could keep a process that
// starts at this moment from it.
func (d Dir) Holder() int {
	var stat unix.Stat_t
	if unix.Stat(filepath.Join(d.Role, "lock"), &stat) != nil {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	return holder(string(locks), stat.Ino)
}

// holder finds the process with a lock by flock on the file with that inode, in
// the content of /proc/locks:
//
//	1: FLOCK  ADVISORY  WRITE 1234 fd:01:567 0 EOF
//
// The device there is not always the one that stat tells (btrfs, overlayfs).
func holder(locks string, inode uint64) int {
	for line := range strings.Lines(locks) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "FLOCK" {
			continue
		}
		place := strings.Split(fields[5], ":")
		if number, err := strconv.ParseUint(place[len(place)-1], 10, 64); err != nil || number != inode {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}
