//go:build robustness

package robustness

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSQLite kills a server with its own database under load, again and again.
func TestSQLite(t *testing.T) {
	r := newRun(t, 1, nil)
	s := r.servers[0]
	r.injure(faultKind{"kills", 3, 50, func() error {
		if err := s.kill(); err != nil {
			return err
		}
		return s.start()
	}})
}

// TestEtcd injures one server of three, the leader more often than the others.
func TestEtcd(t *testing.T) {
	r := newRun(t, 3, nil, "--cluster-init")
	victim := func() *server {
		if r.rng.IntN(3) == 0 {
			for _, s := range r.servers {
				if s.leads() {
					return s
				}
			}
		}
		return r.servers[r.rng.IntN(len(r.servers))]
	}
	r.injure(
		faultKind{"kills", 2, 50, func() error {
			s := victim()
			if err := s.kill(); err != nil {
				return err
			}
			r.wait(3 * time.Second)
			return s.start()
		}},
		faultKind{"cut networks", 1, 20, func() error {
			s := victim()
			if err := r.bed.Cut(s.host); err != nil {
				return err
			}
			time.Sleep(time.Second + r.someTime(8*time.Second))
			return r.bed.Mend(s.host)
		}},
		faultKind{"pauses", 0, 20, func() error {
			s := victim()
			if err := s.signal(unix.SIGSTOP); err != nil {
				return err
			}
			time.Sleep(time.Second + r.someTime(7*time.Second))
			return s.signal(unix.SIGCONT)
		}},
		faultKind{"kills of all", 0, 5, func() error {
			for _, s := range r.servers {
				if err := s.kill(); err != nil {
					return err
				}
			}
			for _, s := range r.servers {
				if err := s.start(); err != nil {
					return fmt.Errorf("start %s: %w", s.host.Name, err)
				}
			}
			return nil
		}},
	)
}
