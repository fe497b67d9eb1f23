package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// limit is how long what a child of process 1 expects may take.
const limit = 10 * time.Second

// child does what the first argument after the role says, and returns the exit code.
func child(does string) int {
	switch does {
	case "exit-with-7":
		return 7
	case "die":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "leave-orphan":
		return leaveOrphan()
	case "forward-signal":
		got := make(chan os.Signal, 1)
		signal.Notify(got, syscall.SIGTERM)
		_ = syscall.Kill(os.Getppid(), syscall.SIGTERM)
		select {
		case <-got:
			return 3
		case <-time.After(limit):
		}
	}
	return 0
}

// leaveOrphan starts a process whose parent ends before it, and waits until
// process 1 has taken its exit code: before that the process can be signalled.
func leaveOrphan() int {
	out, err := exec.Command("sh", "-c", "sleep 0.1 >&2 & echo $!").Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var pid int
	if _, err := fmt.Sscan(strings.TrimSpace(string(out)), &pid); err != nil {
		return 1
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, "nobody took the exit code of an orphan")
	return 1
}
