package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// ClientOptions make a Client.
type ClientOptions struct {
	// TLS is asked at each connect, as certificates are renewed. It carries the
	// node's client certificate and the authority of the servers.
	TLS func() (*tls.Config, error)
	// Allow returns what is dialed for an address that a server asks for, or
	// false to refuse it; see [Access]. Without it all is refused.
	Allow func(address netip.AddrPort) (target netip.AddrPort, ok bool)
	// Handler answers what servers ask of this node's agent with
	// [Server.RoundTrip]. Without it all is refused.
	Handler http.Handler
	// Dial connects to a server; nil dials directly.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Opened, if any, is called at once when a tunnel is open. It must not block.
	Opened func()
	Log    *slog.Logger

	timing timing
}

// Client keeps a tunnel to each server open.
type Client struct {
	options ClientOptions

	mu      sync.Mutex
	servers []string
	changed chan struct{} // holds a token after a change
}

// NewClient makes a Client. It has nothing to do before SetServers.
func NewClient(o ClientOptions) *Client {
	if o.timing == (timing{}) {
		o.timing = defaultTiming
	}
	if o.Allow == nil {
		o.Allow = func(netip.AddrPort) (netip.AddrPort, bool) { return netip.AddrPort{}, false }
	}
	if o.Handler == nil {
		o.Handler = http.NotFoundHandler()
	}
	return &Client{options: o, changed: make(chan struct{}, 1)}
}

// SetServers says which servers there are, as host:port. The tunnels of those
// that are gone end. It may be called at any time.
func (c *Client) SetServers(addresses []string) {
	c.mu.Lock()
	c.servers = slices.Clone(addresses)
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Run keeps the tunnels until ctx ends, and returns when all are closed.
func (c *Client) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tunnels := map[string]context.CancelFunc{}
	for {
		c.mu.Lock()
		servers := c.servers
		c.mu.Unlock()
		for server, end := range tunnels {
			if !slices.Contains(servers, server) {
				end()
				delete(tunnels, server)
			}
		}
		for _, server := range servers {
			if tunnels[server] == nil {
				tunnelCtx, end := context.WithCancel(ctx)
				tunnels[server] = end
				running.Go(func() { c.keep(tunnelCtx, server) })
			}
		}
		select {
		case <-c.changed:
		case <-ctx.Done():
			return
		}
	}
}

// keep keeps the tunnel to one server open. It logs when the tunnel is lost
// and when it is back, not each attempt; and for a while nothing at all, as
// servers start at the same time as their nodes.
func (c *Client) keep(ctx context.Context, server string) {
	t := c.options.timing
	log := c.options.Log.With("server", server)
	start := time.Now()
	delay := t.backoffMin
	silent, down := true, false
	for {
		var opened time.Time
		err := c.connect(ctx, server, func() {
			opened = time.Now()
			log.Info("The tunnel to the server is open")
			silent, down = false, false
			if c.options.Opened != nil {
				c.options.Opened()
			}
		})
		if ctx.Err() != nil {
			return
		}
		if !opened.IsZero() && time.Since(opened) >= t.stable {
			delay = t.backoffMin
		}
		switch {
		case down || silent && time.Since(start) < t.patience:
			log.Debug("There is no tunnel to the server", "err", err)
		default:
			log.Warn("There is no tunnel to the server; logs and exec of this node may not work through it. It is tried again", "err", err)
			down = true
		}
		// Agents that lost the same server do not come back at the same time.
		wait := time.NewTimer(delay/2 + rand.N(delay)/2) //nolint:gosec // no secret
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		delay = min(2*delay, t.backoffMax)
	}
}

// connect opens a tunnel and serves it until it ends, which is an error.
func (c *Client) connect(ctx context.Context, server string, opened func()) error {
	config, err := c.options.TLS()
	if err != nil {
		return fmt.Errorf("certificate for the tunnel: %w", err)
	}
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"} // a websocket is opened by it
	dialer := websocket.Dialer{
		NetDialContext:   c.options.Dial,
		TLSClientConfig:  config,
		HandshakeTimeout: c.options.timing.handshake,
		WriteBufferSize:  websocketBuffer,
		WriteBufferPool:  &websocketBuffers,
	}
	ws, response, err := dialer.DialContext(ctx, "wss://"+server+Path, nil)
	if response != nil {
		defer func() { _ = response.Body.Close() }()
	}
	if errors.Is(err, websocket.ErrBadHandshake) && response != nil {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		return fmt.Errorf("the server answers %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	if err != nil {
		return fmt.Errorf("open tunnel: %w", err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the server answers %s", response.Status)
	}
	opened()
	t := &targets{allow: c.options.Allow, handler: c.options.Handler, log: c.options.Log, timing: c.options.timing}
	return t.serve(ctx, newSocket(ws))
}
