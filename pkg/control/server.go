package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/component"
)

const (
	maxBody     = 1 << 20
	headerLimit = 10 * time.Second
	// stopLimit is how long commands may go on after they are told to end.
	stopLimit = 2 * time.Second
)

// Server answers commands, as a component.
type Server struct {
	socket string
	role   string
	log    *slog.Logger
	mux    *http.ServeMux
	run    component.Runner
}

// NewServer makes a server for a Kedge of a role, "server" or "agent".
func NewServer(socket, role string, log *slog.Logger) *Server {
	s := &Server{socket: socket, role: role, log: log, mux: http.NewServeMux()}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("the Kedge that runs here is %s and can't do this; a command for servers is run on a server", withArticle(role)))
	})
	return s
}

func withArticle(role string) string {
	if role == "agent" {
		return "an agent"
	}
	return "a " + role
}

// Handle lets a command be called, with a request of type Q. It is called before
// the server starts. The context of do ends when the caller has gone.
func Handle[Q, A any](s *Server, command string, do func(context.Context, Q) (A, error)) {
	s.mux.HandleFunc("POST "+path(command), func(w http.ResponseWriter, r *http.Request) {
		var request Q
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&request); err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
			return
		}
		answer, err := do(r.Context(), request)
		if err != nil {
			s.log.Warn("a command failed", "component", s.Name(), "command", command, "err", err)
			fail(w, http.StatusInternalServerError, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	})
}

func fail(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(failure{Message: err.Error()})
}

// Name implements component.Component.
func (*Server) Name() string { return "control" }

// Needs implements component.Component: commands act on what has started.
func (*Server) Needs() []string { return []string{"apiserver"} }

// Start implements component.Component.
func (s *Server) Start(ctx context.Context) error {
	listener, err := listen(ctx, s.socket)
	if err != nil {
		return err
	}
	s.run.Run(func(ctx context.Context) error {
		server := &http.Server{
			Handler:           s.mux,
			ReadHeaderTimeout: headerLimit,
			BaseContext:       func(net.Listener) context.Context { return ctx },
			ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(listener) }()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		return errors.Join(server.Shutdown(limited), <-ended)
	})
	return nil
}

// Stop implements component.Component.
func (s *Server) Stop(ctx context.Context) error { return s.run.Stop(ctx) }

// Failed implements component.Failer.
func (s *Server) Failed() <-chan error { return s.run.Failed() }

// listen takes the place of the socket that an earlier process has left. The data
// directory's lock and the ports keep two processes apart.
func listen(ctx context.Context, socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the old control socket: %w", err)
	}
	// The mode of the socket is that of the file: no moment at which others may
	// open it, whatever the umask.
	private := func(_, _ string, conn syscall.RawConn) error {
		var chmod error
		err := conn.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}
	listener, err := (&net.ListenConfig{Control: private}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return listener, nil
}
