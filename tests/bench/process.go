package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of processor times in /proc, the same on every Linux
// that Go knows.
const clockTick = 10 * time.Millisecond

// processes are those of one host: of the stack, and the shims of its pods.
type processes struct {
	stack, shims []int
}

// processesOf finds the processes that share the process namespace with one of
// them. Those of containers have namespaces of their own.
func processesOf(pid int) (processes, error) {
	var found processes
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return found, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return found, err
	}
	for _, dir := range dirs {
		if other, err := os.Readlink(filepath.Join(dir, "ns", "pid")); err != nil || other != namespace {
			continue
		}
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue // it has just ended
		}
		other, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return found, err
		}
		switch name, inner := field(status, "Name"), strings.Fields(field(status, "NSpid")); {
		case len(inner) > 0 && inner[len(inner)-1] == "1":
			// The host's process 1 is the testbed's.
		case strings.HasPrefix(name, "containerd-shim"):
			found.shims = append(found.shims, other)
		default:
			found.stack = append(found.stack, other)
		}
	}
	return found, nil
}

// field returns the value of a line "name: value".
func field(text []byte, name string) string {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && key == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// number is field for a number, of which the unit is left out.
func number(text []byte, name string) (float64, error) {
	value, _, _ := strings.Cut(field(text, name), " ")
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0, fmt.Errorf("field %s: %w", name, err)
	}
	return n, nil
}

// memory is in megabytes.
type memory struct{ pss, anonymous float64 }

// memoryOf sums up proportional set sizes and anonymous memory, of the processes
// that are still there.
func memoryOf(pids []int) (memory, error) {
	var sum memory
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return sum, err
		}
		pss, err := number(text, "Pss")
		if err != nil {
			return sum, err
		}
		anonymous, err := number(text, "Anonymous")
		if err != nil {
			return sum, err
		}
		sum.pss += pss * 1024 / 1e6
		sum.anonymous += anonymous * 1024 / 1e6
	}
	return sum, nil
}

// peakOf is the largest resident set that a process has had, in megabytes.
func peakOf(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	peak, err := number(text, "VmHWM")
	return peak * 1024 / 1e6, err
}

// usage is what processes, and those they started that have ended, have used
// since they began.
type usage struct {
	processor time.Duration
	written   float64 // bytes
}

// since returns what was used from an earlier moment on: milliseconds of the
// processor and kilobytes written, a second.
func (u usage) since(before usage, took time.Duration) (processor, written float64) {
	seconds := took.Seconds()
	return float64((u.processor - before.processor).Milliseconds()) / seconds, (u.written - before.written) / 1e3 / seconds
}

func usageOf(pids []int) (usage, error) {
	var sum usage
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return sum, err
		}
		// The name in parentheses may hold anything. utime, stime, cutime and
		// cstime are fields 14 to 17, and field 3 comes after it.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) < 15 {
			return sum, fmt.Errorf("/proc/%d/stat not understood: %s", pid, text)
		}
		for _, ticks := range fields[11:15] {
			n, err := strconv.ParseInt(ticks, 10, 64)
			if err != nil {
				return sum, fmt.Errorf("/proc/%d/stat: %w", pid, err)
			}
			sum.processor += time.Duration(n) * clockTick
		}
		if text, err = os.ReadFile(fmt.Sprintf("/proc/%d/io", pid)); err != nil {
			return sum, err
		}
		written, err := number(text, "write_bytes")
		if err != nil {
			return sum, err
		}
		sum.written += written
	}
	return sum, nil
}

// busyOf is how long the processors of the machine have been busy, by the first
// line of /proc/stat.
func busyOf(stat []byte) (time.Duration, error) {
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat not understood: %s", line)
	}
	var sum time.Duration
	for i, ticks := range fields[1:9] {
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 { // idle, and waiting for a disk
			sum += time.Duration(n) * clockTick
		}
	}
	return sum, nil
}
