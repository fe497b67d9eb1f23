package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/gorilla/websocket"
)

// ServerOptions make a Server.
type ServerOptions struct {
	// Authenticate returns the node that a request's client certificate names.
	Authenticate func(*http.Request) (node string, ok bool)
	Log          *slog.Logger

	timing timing
}

// Server takes the agents' tunnels and dials through them.
type Server struct {
	options  ServerOptions
	upgrader websocket.Upgrader
	nodes    nodes

	mu       sync.Mutex
	closed   bool
	sessions map[string]*session
	watchers sync.WaitGroup // one per session
}

// NewServer makes a Server. It is an http.Handler, for [Path].
func NewServer(o ServerOptions) *Server {
	if o.timing == (timing{}) {
		o.timing = defaultTiming
	}
	return &Server{
		options: o,
		upgrader: websocket.Upgrader{
			HandshakeTimeout: o.timing.handshake,
			WriteBufferSize:  websocketBuffer,
			WriteBufferPool:  &websocketBuffers,
		},
		sessions: map[string]*session{},
	}
}

// ServeHTTP takes a tunnel. It returns once the tunnel is open.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, ok := s.options.Authenticate(r)
	if !ok || node == "" {
		s.options.Log.Debug("A tunnel is refused: no node's certificate", "from", r.RemoteAddr)
		http.Error(w, "a tunnel needs a node's client certificate", http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		http.Error(w, "the server is stopping", http.StatusServiceUnavailable)
		return
	}
	ws, err := s.upgrader.Upgrade(w, r, nil) // answers by itself if it fails
	if err != nil {
		s.options.Log.Debug("A tunnel is refused: no websocket", "node", node, "err", err)
		return
	}
	session, err := newSession(r.Context(), node, newSocket(ws), s.options.timing)
	if err != nil {
		_ = ws.Close()
		s.options.Log.Debug("A tunnel does not open", "node", node, "err", err)
		return
	}
	s.add(session)
}

// add makes a session the one of its node. A node that comes again has lost
// its old tunnel, even if this server does not know yet.
func (s *Server) add(added *session) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		added.close()
		return
	}
	old := s.sessions[added.node]
	s.sessions[added.node] = added
	s.watchers.Go(func() { s.watch(added) })
	s.mu.Unlock()
	if old != nil {
		old.close()
	}
	s.options.Log.Debug("The tunnel of a node is open", "node", added.node, "from", added.socket.RemoteAddr(), "again", old != nil)
}

// watch forgets a session when it ends.
func (s *Server) watch(ended *session) {
	<-ended.socket.closed
	s.mu.Lock()
	current := s.sessions[ended.node] == ended
	if current {
		delete(s.sessions, ended.node)
	}
	s.mu.Unlock()
	if current {
		s.options.Log.Debug("The tunnel of a node ended", "node", ended.node, "err", ended.socket.reason())
	}
}

// Close ends all tunnels; later ones are refused.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for _, session := range s.sessions {
		session.close()
	}
	s.mu.Unlock()
	s.watchers.Wait()
}

// Connected tells whether a node has a tunnel to this server.
func (s *Server) Connected(node string) bool { return s.session(node) != nil }

// ErrNotConnected says that a node has no tunnel to this server.
var ErrNotConnected = errors.New("the node has no tunnel to this server")

// Count says how many nodes have a tunnel open.
func (s *Server) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// RoundTrip has the agent of a node answer a request; see [ClientOptions]. The
// request's context limits it.
func (s *Server) RoundTrip(node string, r *http.Request) (*http.Response, error) {
	session := s.session(node)
	if session == nil {
		return nil, ErrNotConnected
	}
	response, err := session.conn.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("ask the agent of node %s: %w", node, err)
	}
	return response, nil
}

func (s *Server) session(node string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[node]
}

// SetNode says which addresses lead to a node. podCIDRs may be empty.
func (s *Server) SetNode(name string, addresses []netip.Addr, kubeletPort uint16, podCIDRs []netip.Prefix) {
	s.nodes.set(name, node{addresses: slices.Clone(addresses), kubeletPort: kubeletPort, podCIDRs: slices.Clone(podCIDRs)})
}

// DeleteNode forgets what SetNode said. A tunnel of the node stays open.
func (s *Server) DeleteNode(name string) { s.nodes.remove(name) }

// Dialer returns a dial function for the apiserver: what the mode says goes
// through the node's tunnel; the rest, and nodes without a tunnel, are dialed
// directly. Every dial has a limit.
func (s *Server) Dialer(mode Mode) func(ctx context.Context, network, address string) (net.Conn, error) {
	direct := net.Dialer{Timeout: s.options.timing.directDial}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if network != "tcp" && network != "tcp4" && network != "tcp6" {
			return direct.DialContext(ctx, network, address)
		}
		way, err := s.nodes.find(mode, address, s.Connected)
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", address, err)
		}
		if way.node == "" {
			return direct.DialContext(ctx, network, address)
		}
		conn, tunnelErr := s.dialTunnel(ctx, way)
		if conn != nil || tunnelErr != nil && final(ctx, tunnelErr) {
			return conn, tunnelErr
		}
		conn, err = direct.DialContext(ctx, network, way.direct)
		if err != nil {
			return nil, fmt.Errorf("node %s is not connected: %w", way.node, errors.Join(tunnelErr, err))
		}
		return conn, nil
	}
}

// dialTunnel dials through the node's tunnel, and once more if a new one took
// its place meanwhile. Both results are nil if there is no tunnel.
func (s *Server) dialTunnel(ctx context.Context, way route) (net.Conn, error) {
	first := s.session(way.node)
	if first == nil {
		return nil, nil
	}
	conn, err := first.dial(ctx, way.target)
	if err == nil || final(ctx, err) {
		return conn, err
	}
	if second := s.session(way.node); second != nil && second != first {
		return second.dial(ctx, way.target)
	}
	return nil, err
}

// final tells whether there is no point in trying another way: the node itself
// has answered, or nobody waits any more.
func final(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.As(err, new(answerError))
}
