package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settleTime is how long an add-on's start may take.
const settleTime = 20 * time.Second

// settle gives back the memory that only the start-up took: freed heap, and the
// pages of the program's own file. Those stay in the page cache, so that the ones
// in use come back with a minor fault each; the program of all add-ons is large,
// and an add-on's start touches much of it. What fails stays as it was.
func settle() {
	time.Sleep(settleTime)
	debug.FreeOSMemory()
	exe, err := os.Executable()
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if from, to, ok := fileMapping(lines.Text(), exe); ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}

// fileMapping reads a line of /proc/self/maps, and says whether it is a mapping of
// the file that can't have been written to.
func fileMapping(line, file string) (from, to uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[5] != file || strings.Contains(fields[1], "w") {
		return 0, 0, false
	}
	_, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to)
	return from, to, err == nil
}
