// Package loadbalancer is how a node reaches the apiserver of a cluster that
// has several: a local TCP listener for the kubelet, kube-proxy and all else on
// the node, whose connections it passes on to one of the servers.
//
// It passes bytes, not requests: TLS stays end to end, so it holds no key, and
// the kernel moves the bytes from socket to socket (splice) without a copy.
//
// # Which server
//
// All connections go to the first server that is well, in an order that each
// node shuffles for itself. What a node reads thus comes from one apiserver,
// whose watch cache does not jump back in time as it would from connection to
// connection; only that one is watched over; and the nodes of a cluster spread
// evenly all the same. A server that is new to the list takes a random place in
// the order, and one that returns has its old place: both get their share of
// the new connections. A connection that works is never cut to spread load, for
// what is under way on it would fail; apiservers make clients of long
// connections reconnect with --goaway-chance. The default server is none of the
// learned ones, perhaps a DNS name that leads anywhere: it is the last resort.
//
// # When a server fails
//
//   - A client notices no failed dial: nothing has been sent yet, the next
//     server is dialed. While none answers the client waits, up to [HoldLimit].
//   - A failed dial makes a server suspect: it is not used for new connections
//     while another is well, and its health is checked at once. It is no reason
//     to cut connections that may work: many nodes that reconnect at the same
//     time overflow a server's backlog, and cutting would make them more.
//   - A server whose check fails has failed. Its connections are closed so that
//     clients reconnect elsewhere at once, but only if there is an elsewhere: a
//     slow check must not cut a node off from its only server.
//   - A server that vanishes without a word (no power, no network) is noticed
//     within 10 seconds: by the checks, and on each connection by TCP itself.
//     Only servers that have connections, or trouble, are checked: every 5
//     seconds, every second where the answer is waited for. A node at rest dials
//     one server every 5 seconds.
//   - The connections of a server that leaves the list are closed: it may go on
//     running, cut off from the cluster.
package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// HoldLimit is how long a client's connection is held while no server answers;
// then it is closed. Clients of Kubernetes give up a TLS handshake after the
// same time.
const HoldLimit = 10 * time.Second

// Options are what a [Balancer] is made from.
type Options struct {
	// Listen is the loopback address and port, 127.0.0.1:6444 or [::1]:6444;
	// port 0 is any free one.
	Listen string
	// Servers are the addresses (host:port) known at first, Default is the one
	// tried when all others fail. There must be one at least, here or in
	// StateFile.
	Servers []string
	Default string
	// StateFile keeps the learned servers, so that the node finds the cluster
	// after a restart even if none of the first servers is left. Empty: nothing
	// is kept.
	StateFile string
	// Dial connects to a server; a net.Dialer by default.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Healthy returns nil if the server can take requests. It must fail where
	// Dial does. By default it connects and closes.
	Healthy func(ctx context.Context, address string) error
	Logger  *slog.Logger
}

// timing is a part of a Balancer for its tests alone.
type timing struct {
	hold  time.Duration
	dial  time.Duration // of one dial or check
	calm  time.Duration // between checks
	alarm time.Duration // between checks while the answer is waited for
	proof int           // good checks in a row that bring back a failed server
}

// A cut shows within calm + 2*dial = 9 s. A dial has time for one lost SYN,
// which the kernel repeats after a second. A server that failed is back after
// 10 s without a flaw: one that crashes again and again gets no clients in
// between.
var defaultTiming = timing{
	hold:  HoldLimit,
	dial:  2 * time.Second,
	calm:  5 * time.Second,
	alarm: time.Second,
	proof: 3,
}

// Balancer is the load balancer of one node.
type Balancer struct {
	listener net.Listener
	dialer   func(ctx context.Context, network, address string) (net.Conn, error)
	healthy  func(ctx context.Context, address string) error
	log      *slog.Logger
	timing   timing

	// ctx ends with Run; all that runs belongs to wg.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	setting sync.Mutex // one SetServers at a time
	state   state

	mu       sync.Mutex
	learned  []*server     // in the order of preference
	fallback *server       // the default; nil if there is none
	lost     bool          // all servers have failed, and nothing has worked since
	better   chan struct{} // closed and replaced when there is a reason to try again
}

// New opens the listener, so that [Balancer.Addr] is known and clients can
// connect. They are served from [Balancer.Run] on, which must follow.
func New(o Options) (*Balancer, error) {
	b := &Balancer{
		dialer:  o.Dial,
		healthy: o.Healthy,
		log:     o.Logger,
		timing:  defaultTiming,
		state:   state{path: o.StateFile},
		better:  make(chan struct{}),
	}
	if b.dialer == nil {
		b.dialer = (&net.Dialer{}).DialContext
	}
	if b.healthy == nil {
		b.healthy = b.connects
	}
	if b.log == nil {
		b.log = slog.Default()
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if err := b.init(o); err != nil {
		b.cancel()
		return nil, fmt.Errorf("load balancer: %w", err)
	}
	return b, nil
}

func (b *Balancer) init(o Options) error {
	servers, err := addresses(o.Servers)
	if err != nil {
		return err
	}
	kept, err := b.state.load()
	if err != nil {
		b.log.Warn("The learned servers are ignored: their file can't be read", "file", o.StateFile, "err", err)
	}
	if o.Default != "" {
		if err := checkAddress(o.Default); err != nil {
			return err
		}
		b.fallback = b.newServer(o.Default)
	}
	b.setLearned(append(servers, kept...))
	if b.fallback == nil && len(b.learned) == 0 {
		return errors.New("there is no server to connect to")
	}
	listen, err := netip.ParseAddrPort(o.Listen)
	if err != nil {
		return fmt.Errorf("listen address %q: %w", o.Listen, err)
	}
	// Others than this node's own clients have no business here.
	if !listen.Addr().IsLoopback() {
		return fmt.Errorf("listen address %s is not a loopback address", o.Listen)
	}
	// Neither is of use on the loopback interface.
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	b.listener, err = config.Listen(b.ctx, "tcp", listen.String())
	return err
}

// Addr is the address clients connect to.
func (b *Balancer) Addr() string { return b.listener.Addr().String() }

// Run serves clients until ctx ends, then closes all connections. It returns an
// error if the listener fails. It can be called once.
func (b *Balancer) Run(ctx context.Context) error {
	defer b.wg.Wait()
	defer b.cancel()
	defer func() { _ = b.listener.Close() }()
	defer context.AfterFunc(ctx, b.cancel)()
	defer context.AfterFunc(b.ctx, func() { _ = b.listener.Close() })()

	var pause time.Duration
	for {
		client, err := b.listener.Accept()
		switch {
		case b.ctx.Err() != nil:
			if err == nil {
				_ = client.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("load balancer: %w", err)
		case err != nil:
			// No file descriptors left, most likely: connections that end
			// give some back.
			if pause == 0 {
				b.log.Warn("The load balancer can't accept connections", "err", err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-b.ctx.Done():
			}
			continue
		}
		pause = 0
		b.wg.Go(func() { b.serve(client) })
	}
}

// serve passes one client on.
func (b *Balancer) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	upstream, s, up, err := b.connect()
	if err != nil {
		return
	}
	defer b.release(s)
	pass(up, client, upstream)
}

// connect returns a connection to the best server that answers. The connection
// has to be closed when the context ends.
func (b *Balancer) connect() (net.Conn, *server, context.Context, error) {
	ctx, cancel := context.WithTimeout(b.ctx, b.timing.hold)
	defer cancel()
	for {
		tried := map[*server]bool{}
		better := b.hope() // before the round: what changes during it counts
		for {
			s, up := b.pick(tried)
			if s == nil {
				break
			}
			tried[s] = true
			conn, err := b.dial(ctx, up, s)
			if err == nil {
				return conn, s, up, nil
			}
			if ctx.Err() != nil {
				return nil, nil, nil, err
			}
		}
		select {
		case <-better:
		case <-ctx.Done():
			return nil, nil, nil, ctx.Err()
		}
	}
}

// dial connects to s, and notes how that went. The end of up ends it: whoever
// waits for a server that left or failed goes on to the next.
func (b *Balancer) dial(ctx, up context.Context, s *server) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timing.dial)
	defer cancel()
	defer context.AfterFunc(up, cancel)()
	conn, err := b.dialer(ctx, "tcp", s.address)
	if err != nil {
		if up.Err() == nil {
			b.suspect(s, err)
		}
		return nil, err
	}
	if up.Err() != nil {
		_ = conn.Close()
		return nil, up.Err()
	}
	if err := tune(conn); err != nil {
		b.log.Debug("The options of a connection can't be set", "server", s.address, "err", err)
	}
	b.use(s)
	return conn, nil
}

// connects is the default health check.
func (b *Balancer) connects(ctx context.Context, address string) error {
	conn, err := b.dialer(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
