package stock

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// restartDelay is a service manager's usual one.
const restartDelay = 100 * time.Millisecond

// unit keeps one program running on a host, as a service manager does.
type unit struct {
	host    *testbed.Host
	program string
	args    []string
	path    string   // where the program looks for others
	log     *os.File // standard output and standard error

	stop chan struct{} // closed: don't start it again
	done chan struct{} // closed: it has ended for good

	mu       sync.Mutex
	pid      int
	restarts int
}

func (u *unit) name() string { return filepath.Base(u.program) }

// start starts the program and goes on starting it until end.
func (u *unit) start() error {
	u.stop, u.done = make(chan struct{}), make(chan struct{})
	wait, err := u.launch()
	if err != nil {
		return err
	}
	go func() {
		defer close(u.done)
		for {
			_ = wait() // what it says is in the log
			select {
			case <-u.stop:
				return
			case <-time.After(restartDelay):
			}
			u.mu.Lock()
			u.restarts++
			u.mu.Unlock()
			if wait, err = u.launch(); err != nil {
				fmt.Fprintln(u.log, err)
				return
			}
		}
	}()
	return nil
}

func (u *unit) launch() (wait func() error, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	cmd := u.host.Command(context.Background(), u.program, u.args...)
	cmd.Env = append(cmd.Env, "PATH="+u.path)
	cmd.Stdout, cmd.Stderr = u.log, u.log
	if err := u.host.StartCommand(cmd); err != nil {
		return nil, err
	}
	u.pid = cmd.Process.Pid
	return cmd.Wait, nil
}

// signal sends a signal to the program and keeps it from being started again.
func (u *unit) signal(signal unix.Signal) {
	u.mu.Lock()
	defer u.mu.Unlock()
	select {
	case <-u.stop:
	default:
		close(u.stop)
	}
	select {
	case <-u.done:
	default:
		_ = unix.Kill(u.pid, signal)
	}
}

// wait waits until the program has ended, or ctx.
func (u *unit) wait(ctx context.Context) error {
	select {
	case <-u.done:
	case <-ctx.Done():
	}
	select {
	case <-u.done:
		return nil
	default:
		return fmt.Errorf("%s still runs: %w", u.name(), ctx.Err())
	}
}
