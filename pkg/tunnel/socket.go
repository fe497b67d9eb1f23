package tunnel

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// websocketBuffer takes an HTTP/2 frame. Buffers are only held while writing.
const websocketBuffer = 17 << 10

var websocketBuffers sync.Pool

// socket is a websocket as a stream of bytes.
type socket struct {
	ws      *websocket.Conn
	message io.Reader // what is left of the message being read

	mu     sync.Mutex
	err    error         // why it ended
	closed chan struct{} // once it has
}

func newSocket(ws *websocket.Conn) *socket {
	return &socket{ws: ws, closed: make(chan struct{})}
}

func (s *socket) Read(p []byte) (int, error) {
	for {
		if s.message == nil {
			kind, message, err := s.ws.NextReader()
			if err != nil {
				return 0, s.end(err)
			}
			if kind != websocket.BinaryMessage {
				return 0, s.end(errors.New("unexpected kind of websocket message"))
			}
			s.message = message
		}
		n, err := s.message.Read(p)
		if errors.Is(err, io.EOF) {
			s.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (s *socket) Write(p []byte) (int, error) {
	if err := s.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close closes the TCP connection at once: TLS would first say goodbye, and
// wait for a peer that may be gone.
func (s *socket) Close() error {
	_ = s.end(errSilent)
	return nil
}

// errSilent is the reason if nothing was wrong with the connection itself:
// HTTP/2 closes it when a ping is not answered.
var errSilent = errors.New("the other side does not answer")

// end closes the connection for a reason, of which the first counts.
func (s *socket) end(reason error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.err = reason
	close(s.closed)
	conn := s.ws.NetConn()
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	_ = conn.Close()
	return reason
}

// reason tells why a closed socket ended.
func (s *socket) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *socket) LocalAddr() net.Addr  { return s.ws.LocalAddr() }
func (s *socket) RemoteAddr() net.Addr { return s.ws.RemoteAddr() }

func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}
func (s *socket) SetReadDeadline(t time.Time) error  { return s.ws.SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.ws.SetWriteDeadline(t) }
