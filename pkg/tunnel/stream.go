package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// stream is a connection through a tunnel: one end of a pipe, of which the
// other end is copied to and from the tunnel. The pipe gives it deadlines,
// which HTTP/2 does not have.
type stream struct {
	net.Conn
	node   string
	target netip.AddrPort
	linger time.Duration
	cancel context.CancelFunc // ends it in the tunnel
	closed sync.Once
	broken atomic.Pointer[brokenError]
}

// brokenError is what a stream ends with that the tunnel cut off, or the agent
// because its connection broke. To callers it is a reset connection.
type brokenError struct {
	node   string
	target netip.AddrPort
	cause  error
}

func (e *brokenError) Error() string {
	return fmt.Sprintf("connection to %s through the tunnel of node %s broke: %v", e.target, e.node, e.cause)
}

// Unwrap hides the cause: that the tunnel's own connection was closed must not
// be taken for a stream that its caller closed.
func (*brokenError) Unwrap() error { return syscall.ECONNRESET }

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	return n, s.explain(err)
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	return n, s.explain(err)
}

// explain puts what a network connection would say for what the pipe says.
func (s *stream) explain(err error) error {
	if err == nil || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	if broken := s.broken.Load(); broken != nil {
		return broken
	}
	if errors.Is(err, io.ErrClosedPipe) {
		return net.ErrClosed
	}
	return err
}

func (s *stream) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (s *stream) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.target) }

// Close has the target told that nothing more comes. What was written before is
// still on its way, so the target is given time to end the stream.
func (s *stream) Close() (err error) {
	s.closed.Do(func() {
		err = s.Conn.Close()
		time.AfterFunc(s.linger, s.cancel)
	})
	return err
}

// download copies what comes out of the tunnel to the caller, and ends the
// stream when the target has, or the tunnel.
func (s *stream) download(body io.ReadCloser, pipe net.Conn) {
	_, err := io.Copy(pipe, body)
	switch {
	case errors.Is(err, io.ErrClosedPipe): // by Close
		_, _ = io.Copy(io.Discard, body)
	case err != nil:
		s.broken.Store(&brokenError{node: s.node, target: s.target, cause: err})
	}
	_ = pipe.Close()
	s.cancel()
	_ = body.Close()
}

// upload is what the caller writes, as the body of a request.
type upload struct {
	pipe    net.Conn
	closed  atomic.Bool
	reading sync.Mutex
}

func (u *upload) Read(p []byte) (int, error) {
	u.reading.Lock()
	defer u.reading.Unlock()
	if u.closed.Load() {
		return 0, net.ErrClosed
	}
	return u.pipe.Read(p)
}

// Close is called when the tunnel takes no more of the body. It ends a Read, as
// HTTP/2 tells the reader of the answer only after that. The caller may still
// be writing, and read the answer after it: as with a TCP connection whose
// other side is gone, what it writes is lost and does not block.
func (u *upload) Close() error {
	if u.closed.Swap(true) {
		return nil
	}
	_ = u.pipe.SetReadDeadline(time.Unix(1, 0))
	go func() {
		u.reading.Lock()
		defer u.reading.Unlock()
		_ = u.pipe.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, u.pipe) // until download closes the pipe
	}()
	return nil
}
