// Package pause holds the tests of pause.c, which is C and no package.
package pause

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start builds pause and runs it as the first process of a new PID namespace.
func start(t *testing.T) *exec.Cmd {
	t.Helper()
	program := filepath.Join(t.TempDir(), "pause")
	if out, err := exec.Command("../../scripts/freestanding.sh", "pause.c", program).CombinedOutput(); err != nil {
		t.Fatalf("build pause: %v\n%s", err, out)
	}
	// The kernel kills pause when this thread ends, also when the test is killed.
	runtime.LockOSThread()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	cmd := exec.CommandContext(ctx, program)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	err := cmd.Start()
	if errors.Is(err, os.ErrPermission) {
		t.Skip("a PID namespace needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	waitFor(t, "pause to wait for signals", func() bool {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		return bytes.Contains(status, []byte("State:\tS")) && bytes.HasPrefix(status, []byte("Name:\tpause\n"))
	})
	return cmd
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 5 s for %s", what)
		}
	}
}

// runInside runs a shell script in the PID namespace of pause.
func runInside(t *testing.T, pause int, script string) {
	t.Helper()
	result := make(chan error)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, since its
		// children would all be born into that namespace.
		runtime.LockOSThread()
		result <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", pause))
			if err != nil {
				return err
			}
			defer func() { _ = ns.Close() }()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID); err != nil {
				return fmt.Errorf("enter the PID namespace: %w", err)
			}
			return exec.Command("/bin/sh", "-c", script).Run()
		}()
	}()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

// children returns the state letters of the processes whose parent is pid.
func children(t *testing.T, pid int) string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	states := ""
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		// The name, in parentheses, may hold anything: look behind it.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if fields[1] == strconv.Itoa(pid) {
			states += fields[0]
		}
	}
	return states
}

func TestReapsOrphans(t *testing.T) {
	pause := start(t)
	pid := pause.Process.Pid

	// The shell ends before what it started, so that pause inherits that.
	runInside(t, pid, "for i in 1 2 3 4 5; do sleep 0.3 & done; sleep 60 &")
	if got := len(children(t, pid)); got != 6 {
		t.Fatalf("pause has %d children, want 6", got)
	}
	waitFor(t, "five orphans to be reaped", func() bool { return children(t, pid) == "S" })
}

func TestSignalsEndIt(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			pause := start(t)
			if err := pause.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := pause.Wait(); err != nil {
				t.Errorf("ended with %v, want exit code 0", err)
			}
		})
	}
}

func TestOtherSignalsDoNot(t *testing.T) {
	pause := start(t)
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGCONT, syscall.SIGCHLD} {
		if err := pause.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond)
	if err := pause.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("pause is gone: %v", err)
	}
	if err := pause.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := pause.Wait(); err != nil {
		t.Errorf("ended with %v, want exit code 0", err)
	}
}
