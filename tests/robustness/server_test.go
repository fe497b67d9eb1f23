//go:build robustness

package robustness

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// server is one server of a run, with a service manager that starts it again.
type server struct {
	host *testbed.Host
	args []string
	api  *api

	acknowledged atomic.Int64 // writes

	mu      sync.Mutex
	process *testbed.Process
	off     bool // on purpose
	starts  int
}

// start starts the server.
func (s *server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startLocked()
}

func (s *server) startLocked() (err error) {
	s.process, err = s.host.Start(append([]string{"server"}, s.args...)...)
	s.off = false
	s.starts++
	return err
}

// kill ends the server with SIGKILL, to be started later.
func (s *server) kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = true
	if !s.process.Running() {
		return nil
	}
	return s.process.Kill()
}

// signal sends a signal to the server's process.
func (s *server) signal(signal unix.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return unix.Kill(s.process.PID(), signal)
}

// supervise starts the server again when it has ended by itself, as a service
// manager does, until ctx ends.
func (s *server) supervise(ctx context.Context, t *testing.T) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
		s.mu.Lock()
		if !s.off && !s.process.Running() {
			lines := strings.Split(strings.TrimSpace(s.process.Log()), "\n")
			t.Logf("%s has ended by itself and is started again: %s", s.host.Name, lines[len(lines)-1])
			if err := s.startLocked(); err != nil {
				t.Error(err)
			}
		}
		s.mu.Unlock()
	}
}

// leads says whether the server's member of etcd leads the others.
func (s *server) leads() bool {
	client := s.host.HTTP()
	client.Timeout = time.Second
	response, err := client.Get("http://127.0.0.1:2381/metrics")
	if err != nil {
		return false
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	return err == nil && strings.Contains(string(content), "\netcd_server_is_leader 1\n")
}
