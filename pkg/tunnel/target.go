package tunnel

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// targets is the agent's end of a tunnel: an HTTP/2 server that connects, and
// passes what is no CONNECT to the agent's own handler.
type targets struct {
	allow   func(netip.AddrPort) (netip.AddrPort, bool)
	handler http.Handler
	log     *slog.Logger
	timing  timing

	mu      sync.Mutex
	ended   bool
	streams sync.WaitGroup
}

// serve answers on a socket until it closes or ctx ends.
func (t *targets) serve(ctx context.Context, s *socket) error {
	server := &http.Server{
		Handler:           t,
		Protocols:         http2Only(),
		ReadHeaderTimeout: t.timing.handshake,
		ErrorLog:          slog.NewLogLogger(t.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              16 << 10,
			MaxReceiveBufferPerStream:     uploadWindow,
			MaxReceiveBufferPerConnection: tunnelWindow,
			SendPingTimeout:               t.timing.agentIdle,
			PingTimeout:                   t.timing.pingTimeout,
			WriteByteTimeout:              t.timing.agentIdle + t.timing.pingTimeout,
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	_ = server.Serve(&oneConn{socket: s})
	_ = server.Close()
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.streams.Wait()
	return s.reason()
}

// begin counts a stream, unless the tunnel has ended.
func (t *targets) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.streams.Add(1)
	}
	return !t.ended
}

// oneConn is a listener that accepts one connection and closes with it.
type oneConn struct {
	socket   *socket
	accepted bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.accepted {
		l.accepted = true
		return l.socket, nil
	}
	<-l.socket.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return l.socket.Close() }
func (l *oneConn) Addr() net.Addr { return l.socket.LocalAddr() }

func (t *targets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !t.begin() {
		return
	}
	defer t.streams.Done()
	if r.Method != http.MethodConnect {
		t.handler.ServeHTTP(w, r)
		return
	}
	address, err := netip.ParseAddrPort(r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	target, ok := t.allow(address)
	if !ok {
		http.Error(w, fmt.Sprintf("servers may not connect to %s", address), http.StatusForbidden)
		return
	}
	dialer := net.Dialer{Timeout: t.timing.targetDial}
	conn, err := dialer.DialContext(r.Context(), "tcp", target.String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if err := t.connect(w, r, conn.(*net.TCPConn)); err != nil {
		// The stream is reset, so that its reader does not take what it got for all.
		panic(http.ErrAbortHandler)
	}
}

// connect copies between the stream and the target until the target is done.
func (t *targets) connect(w http.ResponseWriter, r *http.Request, conn *net.TCPConn) error {
	stop := context.AfterFunc(r.Context(), func() { _ = conn.Close() })
	defer stop()
	t.streams.Go(func() {
		if _, err := io.Copy(conn, r.Body); err != nil {
			_ = conn.Close()
			return
		}
		_ = conn.CloseWrite() // the other direction may go on
	})
	defer func() {
		// Both end the upload.
		_ = conn.Close()
		_ = r.Body.Close()
	}()
	out := &flusher{w: w, controller: http.NewResponseController(w)}
	w.WriteHeader(http.StatusOK)
	if err := out.controller.Flush(); err != nil {
		return err
	}
	_, err := io.Copy(out, conn)
	return err
}

// flusher sends each write at once.
type flusher struct {
	w          http.ResponseWriter
	controller *http.ResponseController
}

func (f *flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.controller.Flush()
}
