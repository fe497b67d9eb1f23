package testbed

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a long-running kedge on a host.
type Process struct {
	Args    []string
	LogFile string // standard output and standard error

	host *Host
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Start starts kedge with arguments, such as "server". It doesn't wait until it
// is ready.
func (h *Host) Start(args ...string) (*Process, error) {
	p := &Process{
		Args:    args,
		LogFile: filepath.Join(h.logs(), fmt.Sprintf("%d-kedge-%s.log", len(h.started)+1, args[0])),
		host:    h,
		cmd:     h.Command(context.Background(), h.Binary, args...),
		done:    make(chan struct{}),
	}
	log, err := os.Create(p.LogFile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := h.StartCommand(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the code is in ProcessState
	}()
	h.started = append(h.started, p)
	return p, nil
}

// PID is the process as the machine, not the host, numbers it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Running says whether the process hasn't ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait waits until the process ends and returns its code, -1 after a signal.
func (p *Process) Wait(limit time.Duration) (int, error) {
	select {
	case <-p.done:
	case <-time.After(limit):
	}
	if p.Running() {
		return 0, fmt.Errorf("kedge %s on host %s still runs after %s", strings.Join(p.Args, " "), p.host.Name, limit)
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

// Kill ends the process with SIGKILL. Its containers keep running.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill kedge on host %s: %w", p.host.Name, err)
	}
	<-p.done
	return nil
}

// Stop ends the process with SIGTERM. It returns how long that took and the
// process's code.
func (p *Process) Stop(limit time.Duration) (took time.Duration, code int, err error) {
	return p.end(unix.SIGTERM, limit)
}

// Interrupt is Stop as Ctrl-C in a terminal does it, with SIGINT.
func (p *Process) Interrupt(limit time.Duration) (took time.Duration, code int, err error) {
	return p.end(unix.SIGINT, limit)
}

func (p *Process) end(signal unix.Signal, limit time.Duration) (took time.Duration, code int, err error) {
	begin := time.Now()
	if err := p.cmd.Process.Signal(signal); err != nil {
		return 0, 0, fmt.Errorf("stop kedge on host %s: %w", p.host.Name, err)
	}
	code, err = p.Wait(limit)
	return time.Since(begin), code, err
}

// Log is what the process has written so far.
func (p *Process) Log() string {
	content, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.Size() > 64<<10 {
		_, _ = file.Seek(-64<<10, io.SeekEnd)
	}
	content, err := io.ReadAll(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// WaitAPI waits until the API server says it is ready.
func (p *Process) WaitAPI(ctx context.Context, limit time.Duration) error {
	return p.wait(ctx, "the API of host "+p.host.Name, limit, func(ctx context.Context) (bool, string) {
		out, err := p.host.Kubectl(ctx, "get", "--raw", "/readyz")
		if err != nil {
			return false, err.Error()
		}
		return out == "ok", out
	})
}

// WaitReady waits until the API server is ready and the host is a Ready node.
func (p *Process) WaitReady(ctx context.Context, limit time.Duration) error {
	begin := time.Now()
	if err := p.WaitAPI(ctx, limit); err != nil {
		return err
	}
	return p.wait(ctx, "node "+p.host.Name+" to be Ready", limit-time.Since(begin), func(ctx context.Context) (bool, string) {
		out, err := p.host.Kubectl(ctx, "get", "node", p.host.Name, "-o",
			`jsonpath={range .status.conditions[*]}{.type}={.status} {.message}{"\n"}{end}`)
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(out, "Ready=True"), out
	})
}

// wait is Wait that gives up when the process ends.
func (p *Process) wait(ctx context.Context, what string, limit time.Duration, check func(context.Context) (bool, string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-p.done:
			cancel(fmt.Errorf("kedge %s ended with code %d", strings.Join(p.Args, " "), p.cmd.ProcessState.ExitCode()))
		case <-stop:
		}
	}()
	err := Wait(ctx, what, limit, check)
	if err != nil && !p.Running() {
		err = fmt.Errorf("%w: %w; its last lines:\n%s", err, context.Cause(ctx), tail(p.LogFile, 15))
	}
	return err
}
