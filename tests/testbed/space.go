package testbed

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// space is a set of namespaces, held by a process 1 of the testbed's own.
type space struct {
	cgroup  *cgroup
	process *exec.Cmd
	hold    io.Closer  // closing it tells process 1 to end
	files   []*os.File // the namespaces, in the order of the list below

	mu       sync.Mutex
	children []*os.Process // started from outside, some of them ended
}

// namespaces that every space has, by their names in /proc/PID/ns. The mount
// namespace comes last: files of the machine are out of reach after it.
var namespaces = []struct {
	file string
	kind int
}{
	{"net", unix.CLONE_NEWNET},
	{"uts", unix.CLONE_NEWUTS},
	{"ipc", unix.CLONE_NEWIPC},
	{"cgroup", unix.CLONE_NEWCGROUP},
	{"pid_for_children", unix.CLONE_NEWPID},
	{"mnt", unix.CLONE_NEWNS},
}

// newSpace starts process 1 in new namespaces and in the cgroup, and waits
// until it has set them up after the spec.
func newSpace(cg *cgroup, sp spec) (_ *space, err error) {
	// A cgroup namespace begins at the cgroups its creator is in, so what an
	// earlier space left in them has to go.
	if err := cg.remove(5 * time.Second); err != nil {
		return nil, err
	}
	if err := cg.create(); err != nil {
		return nil, err
	}
	sp.Hierarchies = cg.hierarchies
	encoded, err := json.Marshal(sp)
	if err != nil {
		return nil, err
	}

	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{holderName, sp.Name}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Unshareflags: unix.CLONE_NEWCGROUP,
		// Ctrl-C goes to the test, which then ends its hosts in order.
		Setpgid: true,
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	top, err := cg.open("")
	if err != nil {
		return nil, err
	}
	if top != nil {
		defer func() { _ = top.Close() }()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(top.Fd())
	}
	err = onThread(func() error {
		if err := cg.joinThread(); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start process 1 of %s: %w", sp.Name, err)
	}
	s := &space{cgroup: cg, process: cmd, hold: stdin}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()

	if err := cg.moveToLeaf(cmd.Process.Pid); err != nil {
		return nil, err
	}
	if _, err := stdin.Write(append(encoded, '\n')); err != nil {
		return nil, fmt.Errorf("send the specification to process 1 of %s: %w", sp.Name, err)
	}
	answer, err := bufio.NewReader(stdout).ReadString('\n')
	if answer = strings.TrimSpace(answer); answer != holderReady {
		return nil, fmt.Errorf("set up %s: %w: %s", sp.Name, cmp.Or(err, errors.New("refused")), answer)
	}
	for _, namespace := range namespaces {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", cmd.Process.Pid, namespace.file))
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, file)
	}
	return s, nil
}

// pid is the process 1 of the space as the machine numbers it.
func (s *space) pid() int { return s.process.Process.Pid }

// close ends every process of the space and removes its cgroups.
func (s *space) close() error {
	for _, file := range s.files {
		_ = file.Close()
	}
	_ = s.hold.Close()
	_ = s.process.Process.Kill()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.process.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(time.Second):
		// Process 1 ends after all others, also after those that were started
		// from outside and that nobody waits for.
		s.mu.Lock()
		for _, child := range s.children {
			_, _ = child.Wait()
		}
		s.mu.Unlock()
		<-ended
	}
	s.cgroup.kill()
	return s.cgroup.remove(10 * time.Second)
}

// enter moves the calling thread, which must end afterwards, into the chosen
// kinds of namespaces.
func (s *space) enter(kinds int) error {
	if kinds&unix.CLONE_NEWNS != 0 {
		// A mount namespace can only be entered by a thread that shares its
		// root and working directory with no other.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare the working directory: %w", err)
		}
	}
	for i, namespace := range namespaces {
		if kinds&namespace.kind == 0 {
			continue
		}
		if err := unix.Setns(int(s.files[i].Fd()), namespace.kind); err != nil {
			return fmt.Errorf("enter the %s namespace: %w", namespace.file, err)
		}
	}
	return nil
}

const allNamespaces = unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWCGROUP | unix.CLONE_NEWPID | unix.CLONE_NEWNS

// start starts a command in the chosen namespaces and in the cgroup.
func (s *space) start(cmd *exec.Cmd, kinds int) error {
	leafDir, err := s.cgroup.open(leaf)
	if err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if leafDir != nil {
		defer func() { _ = leafDir.Close() }()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(leafDir.Fd())
	}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	return onThread(func() error {
		if err := s.cgroup.joinThread(); err != nil {
			return err
		}
		if err := s.enter(kinds); err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		s.mu.Lock()
		s.children = append(s.children, cmd.Process)
		s.mu.Unlock()
		return nil
	})
}

// dial opens a connection from the space.
func (s *space) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = onThread(func() error {
		if err := s.enter(unix.CLONE_NEWNET); err != nil {
			return err
		}
		// An address without a name is connected to by this very thread.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// onThread runs f on a thread that ends with it, so that what f changes about
// its thread can't reach any other goroutine.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// /proc/self shows the first thread, so that one is left alone:
			// while it is locked here, the next goroutine runs elsewhere.
			done <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}
