package vm

import (
	"os/exec"
	"runtime"
)

// onThread runs a function on a thread that nothing else uses and that lives until
// the function returns. The kernel signals a child whose Pdeathsig is set when the
// thread that started it ends, not only when the process does.
func onThread(run func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // ends with the goroutine
		result <- run()
	}()
	return <-result
}

// process is a program that has been started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start starts a command on a thread that waits for its end.
func start(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		_ = onThread(func() error {
			err := cmd.Start()
			started <- err
			if err != nil {
				return err
			}
			defer close(p.done)
			return cmd.Wait() // the code is in ProcessState
		})
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// running says whether the process hasn't ended yet.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends the process and waits for that.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // unless it has ended already
	<-p.done
}
