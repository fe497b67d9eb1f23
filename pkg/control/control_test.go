package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type question struct{ Text string }

// start runs a server with a few commands and returns its socket.
func start(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s.sock")
	s := NewServer(socket, "agent", slog.New(slog.DiscardHandler))
	Handle(s, "echo", func(_ context.Context, q question) (question, error) { return q, nil })
	Handle(s, "fail", func(context.Context, None) (None, error) { return None{}, errors.New("it does not work: do this") })
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return socket
}

func TestCall(t *testing.T) {
	socket := start(t)
	answer, err := Call[question, question](t.Context(), socket, "echo", question{"hello"})
	if err != nil || answer.Text != "hello" {
		t.Errorf("the answer is %+v, error %v", answer, err)
	}
	for command, want := range map[string]string{
		"fail":   "it does not work: do this",
		"absent": "is an agent and can't do this",
	} {
		if _, err := Call[None, None](t.Context(), socket, command, None{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q", command, err, want)
		}
	}
	if _, err := Call[string, None](t.Context(), socket, "echo", "text"); err == nil || !strings.Contains(err.Error(), "read the request") {
		t.Errorf("a request of another form gives %v", err)
	}
}

// TestLimit has commands that are cut: who takes a snapshot waits as long as the
// schedule does.
func TestLimit(t *testing.T) {
	for command, want := range map[string]time.Duration{SaveSnapshot: SnapshotLimit, PruneSnapshots: SnapshotLimit, Describe: callLimit} {
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		err := explain(ctx, "", command, ctx.Err())
		cancel()
		if !strings.Contains(err.Error(), "within "+want.String()) {
			t.Errorf("%s: %v, want a limit of %s", command, err, want)
		}
	}
}

func TestNobodyRuns(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "s.sock")
	left := filepath.Join(t.TempDir(), "s.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: left})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false) // as after a crash
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	for name, socket := range map[string]string{"no socket": absent, "a dead one": left} {
		_, err := Call[None, None](t.Context(), socket, "echo", None{})
		if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), socket) {
			t.Errorf("%s gives %v", name, err)
		}
	}
	s := NewServer(left, "server", slog.New(slog.DiscardHandler))
	if err := s.Start(t.Context()); err != nil {
		t.Fatalf("a dead socket stands in the way: %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("the socket is still there after the end")
	}
}

func TestSocketIsPrivate(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	socket := start(t)
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v, %v; want 0600", info.Mode(), err)
	}
}

func TestStopEndsCommands(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	s := NewServer(socket, "server", slog.New(slog.DiscardHandler))
	began := make(chan struct{})
	ended := false // only read after Stop
	Handle(s, "wait", func(ctx context.Context, _ None) (None, error) {
		close(began)
		<-ctx.Done()
		ended = true
		return None{}, ctx.Err()
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := Call[None, None](t.Context(), socket, "wait", None{})
		answered <- err
	}()
	<-began
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if !ended {
		t.Error("Stop did not wait for the command to end")
	}
	if err := <-answered; err == nil {
		t.Error("the caller was told that all is well")
	}
}
