package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// quick notices dead connections soon.
func quick(t *timing) {
	t.handshake = 2 * time.Second
	t.serverIdle = 500 * time.Millisecond
	t.agentIdle = 600 * time.Millisecond
	t.pingTimeout = 4 * time.Second
	t.backoffMin = 10 * time.Millisecond
	t.backoffMax = 100 * time.Millisecond
}

func TestRefusedAddress(t *testing.T) {
	r := newRig(t, nil)
	allowed := target(t, echo)
	refused := target(t, func(*net.TCPConn) { t.Error("a refused address is dialed") })
	r.agent(func(o *ClientOptions) {
		o.Allow = func(a netip.AddrPort) (netip.AddrPort, bool) { return a, a.String() != refused }
	})
	open := r.tunneled(allowed)
	for range 3 {
		if _, err := r.dial(refused); err == nil || !strings.Contains(err.Error(), "node n1") || !strings.Contains(err.Error(), "servers may not connect to "+refused) {
			t.Errorf("a refused address: %v", err)
		}
	}
	nobody := unused(t)
	if _, err := r.dial(nobody); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a closed port: %v", err)
	}
	// The tunnel and its other streams go on.
	if _, err := open.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestAllowMapsAddresses(t *testing.T) {
	r := newRig(t, nil)
	to := netip.MustParseAddrPort(target(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("kubelet")) }))
	access := Access{
		Mode: Agent, KubeletPort: to.Port(), KubeletOnLoopback: true,
		Addresses: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("203.0.113.7")} },
	}
	r.agent(func(o *ClientOptions) { o.Allow = access.Allow })
	r.SetNode("n1", access.Addresses(), to.Port(), nil)
	for _, host := range []string{"n1", "203.0.113.7"} {
		conn, err := r.Dialer(Agent)(t.Context(), "tcp", net.JoinHostPort(host, strconv.Itoa(int(to.Port()))))
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if text, err := io.ReadAll(conn); string(text) != "kubelet" || err != nil {
			t.Errorf("%s: %q, %v", host, text, err)
		}
		_ = conn.Close()
	}
}

func TestCertificates(t *testing.T) {
	r := newRig(t, nil)
	other := newAuthority(t)
	for _, test := range []struct {
		name string
		cert *tls.Certificate
		want string // part of the error; empty if the tunnel opens
	}{
		{"a node's", new(r.ca.issue(t, "system:node:n1", x509.ExtKeyUsageClientAuth)), ""},
		{"none", nil, "401"},
		{"of another authority", new(other.issue(t, "system:node:n1", x509.ExtKeyUsageClientAuth)), "401"},
		{"not a node's", new(r.ca.issue(t, "admin", x509.ExtKeyUsageClientAuth)), "401"},
		{"of a nameless node", new(r.ca.issue(t, "system:node:", x509.ExtKeyUsageClientAuth)), "401"},
		{"for servers", new(r.ca.issue(t, "system:node:n1", x509.ExtKeyUsageServerAuth)), "401"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := &tls.Config{RootCAs: r.ca.pool}
			if test.cert != nil {
				// Sent whatever authorities the server asks for.
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return test.cert, nil }
			}
			c := NewClient(ClientOptions{
				TLS: func() (*tls.Config, error) { return config, nil },
				Log: slog.New(slog.DiscardHandler), timing: r.timing,
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := within(t, "connect", func() error { return c.connect(ctx, r.address, cancel) })
			if opened := ctx.Err() != nil; opened != (test.want == "") {
				t.Errorf("opened: %t, %v", opened, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v does not say %s", err, test.want)
			}
		})
	}
	t.Run("server of another authority", func(t *testing.T) {
		c := NewClient(ClientOptions{
			TLS: func() (*tls.Config, error) { return &tls.Config{RootCAs: other.pool}, nil },
			Log: slog.New(slog.DiscardHandler),
		})
		if err := c.connect(t.Context(), r.address, func() { t.Error("opened") }); !errors.As(err, new(*tls.CertificateVerificationError)) {
			t.Errorf("a wrong server: %v", err)
		}
	})
}

// A tunnel comes back after its server did, with the certificate of that time,
// and the log says so once.
func TestServerRestarts(t *testing.T) {
	r := newRig(t, quick)
	var connects atomic.Int32
	a := r.agent(func(o *ClientOptions) {
		config := o.TLS
		o.TLS = func() (*tls.Config, error) { connects.Add(1); return config() }
	})
	conn := r.tunneled(target(t, echo))
	r.stop()
	if _, err := within2(t, "read", func() (int, error) { return conn.Read(make([]byte, 1)) }); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a stream of a server that stops ends with %v", err)
	}
	tried := connects.Load()
	eventually(t, "several attempts", func() bool { return connects.Load() > tried+3 })
	r.start()
	eventually(t, "connected again", func() bool { return r.Connected("n1") && a.log.count("is open") > 1 })
	if lost := a.log.count("level=WARN"); lost != 1 {
		t.Errorf("the loss is logged %d times:\n%s", lost, a.log)
	}
	r.tunneled(target(t, echo))
}

// A first connection that fails is only logged after a while, and once.
func TestServerIsLate(t *testing.T) {
	checkLeaks(t)
	for _, test := range []struct {
		patience time.Duration
		warnings int
	}{{time.Hour, 0}, {0, 1}} {
		log := &lines{}
		timing := defaultTiming
		quick(&timing)
		timing.patience = test.patience
		var attempts atomic.Int32
		c := NewClient(ClientOptions{
			TLS: func() (*tls.Config, error) { attempts.Add(1); return nil, errors.New("not yet") },
			Log: slog.New(slog.NewTextHandler(log, nil)), timing: timing,
		})
		c.SetServers([]string{"127.0.0.1:1"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		eventually(t, "several attempts", func() bool { return attempts.Load() > 3 })
		cancel()
		<-ended
		if got := log.count("level=WARN"); got != test.warnings {
			t.Errorf("%d warnings, want %d:\n%s", got, test.warnings, log)
		}
	}
}

func TestNewestSessionWins(t *testing.T) {
	r := newRig(t, nil) // slow to notice that a tunnel is dead
	to := func(text string) func(*ClientOptions) {
		address := netip.MustParseAddrPort(target(t, func(c *net.TCPConn) {
			_, _ = c.Write([]byte(text))
			_, _ = io.Copy(io.Discard, c)
		}))
		return func(o *ClientOptions) {
			o.Allow = func(netip.AddrPort) (netip.AddrPort, bool) { return address, true }
		}
	}
	read := func(conn net.Conn) string {
		p := make([]byte, 3)
		_, _ = io.ReadFull(conn, p)
		return string(p)
	}
	w := newWire(t, r.address)
	old := r.agent(func(o *ClientOptions) { to("old")(o); w.over(o) })
	conn := r.tunneled("127.0.0.1:1")
	if got := read(conn); got != "old" {
		t.Fatalf("read %q", got)
	}
	w.freeze() // the server does not see that the old tunnel is dead
	first := r.session("n1")
	pending := make(chan net.Conn, 1)
	go func() { c, _ := r.dial("127.0.0.1:1"); pending <- c }()
	eventually(t, "a dial through the old tunnel", func() bool { return first.conn.InFlight() == 2 })
	r.agent(to("new"))
	eventually(t, "the new tunnel", func() bool { s := r.session("n1"); return s != nil && s != first })
	if got := read(r.tunneled("127.0.0.1:1")); got != "new" {
		t.Errorf("the dial goes to the %q tunnel", got)
	}
	if _, err := within2(t, "read", func() (int, error) { return conn.Read(make([]byte, 1)) }); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a stream of the old tunnel ends with %v", err)
	}
	c := within(t, "the dial through the old tunnel", func() net.Conn { return <-pending })
	if c == nil {
		t.Fatal("a dial through the old tunnel does not go to the new one")
	}
	_ = c.Close()
	old.stop()
	if !r.Connected("n1") {
		t.Error("the end of the old tunnel ends the new one")
	}
}

// The connection breaks while streams are open, idle and busy.
func TestConnectionBreaks(t *testing.T) {
	r := newRig(t, quick)
	w := newWire(t, r.address)
	r.agent(w.over)
	reader := r.tunneled(target(t, sink))
	writer := r.tunneled(silent(t))
	unread := r.tunneled(target(t, flood))
	written := make(chan error, 1)
	go func() { _, err := io.Copy(writer, zeros{}); written <- err }()
	w.freeze()
	w.cut()
	w.melt()
	if _, err := within2(t, "read", func() (int, error) { return reader.Read(make([]byte, 1)) }); !errors.Is(err, syscall.ECONNRESET) || !strings.Contains(err.Error(), "node n1") {
		t.Errorf("read: %v", err)
	}
	if err := within(t, "write", func() error { return <-written }); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
	if _, err := within2(t, "read", func() (int64, error) { return io.Copy(io.Discard, unread) }); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read of what was not read before: %v", err)
	}
	eventually(t, "connected again", func() bool { return r.Connected("n1") })
}

// Nothing arrives any more, and nobody says so.
func TestBlackhole(t *testing.T) {
	r := newRig(t, quick)
	w := newWire(t, r.address)
	a := r.agent(w.over)
	conn := r.tunneled(target(t, echo))
	frozen := r.session("n1")
	w.freeze()
	// The dial gives the tunnel up and goes past it.
	past, err := r.dial(target(t, echo))
	if err != nil {
		t.Fatal(err)
	}
	_ = past.Close()
	if _, tunneled := past.(*stream); tunneled {
		t.Error("the dial goes through a dead tunnel")
	}
	if _, err := r.dial(unused(t)); err == nil || !strings.Contains(err.Error(), "node n1 is not connected: ") {
		t.Errorf("neither way leads there: %v", err)
	}
	if _, err := within2(t, "read", func() (int, error) { return conn.Read(make([]byte, 1)) }); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	eventually(t, "the server notices", func() bool { return r.session("n1") != frozen })
	// New connections, too, are accepted and hang. All is well when they do not.
	eventually(t, "the agent notices", func() bool { return a.log.count("level=WARN") == 1 })
	w.melt()
	eventually(t, "connected again", func() bool { return r.Connected("n1") && a.log.count("is open") > 1 })
}

// A server that accepts connections and says nothing does not hold the agent up.
func TestServerHangs(t *testing.T) {
	r := newRig(t, quick)
	hanging := silent(t)
	c := NewClient(ClientOptions{TLS: r.tls("n1"), Log: slog.New(slog.DiscardHandler), timing: r.timing})
	if err := within(t, "connect", func() error { return c.connect(t.Context(), hanging, func() { t.Error("opened") }) }); !isTimeout(err) {
		t.Errorf("a server that hangs: %v", err)
	}
}

func TestDirect(t *testing.T) {
	r := newRig(t, quick)
	address := target(t, echo)
	conn, err := r.dial(address)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if _, tunneled := conn.(*stream); tunneled {
		t.Error("a tunnel out of nothing")
	}
	_, err = r.dial(unused(t))
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "node n1 is not connected: ") {
		t.Errorf("no tunnel, and nothing listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Dialer(Pod)(ctx, "tcp", address); !errors.Is(err, context.Canceled) {
		t.Errorf("a dial that nobody waits for: %v", err)
	}
}

// An agent that does not answer a dial is not waited for, by its tunnel's
// limit or its caller's.
func TestDialIsGivenUp(t *testing.T) {
	for _, test := range []struct {
		name  string
		limit time.Duration
		want  error
	}{
		{"by the limit", 50 * time.Millisecond, context.DeadlineExceeded},
		{"by the caller", time.Hour, context.Canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, func(t *timing) { t.tunnelDial = test.limit })
			release := make(chan struct{})
			asked := make(chan struct{}, 2)
			r.agent(func(o *ClientOptions) {
				o.Allow = func(a netip.AddrPort) (netip.AddrPort, bool) {
					asked <- struct{}{}
					<-release
					return a, false
				}
			})
			t.Cleanup(func() { close(release) })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.limit == time.Hour {
				go func() { <-asked; cancel() }()
			}
			nobody := netip.MustParseAddrPort(unused(t))
			r.SetNode("n1", []netip.Addr{nobody.Addr()}, nobody.Port(), nil)
			_, err := within2(t, "dial", func() (net.Conn, error) { return r.Dialer(Agent)(ctx, "tcp", nobody.String()) })
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), "node n1") {
				t.Errorf("a dial that is not answered: %v", err)
			}
		})
	}
}

func TestSetServers(t *testing.T) {
	one := newRig(t, nil)
	two := newRig(t, nil)
	two.ca.pool.AddCert(one.ca.cert)
	one.ca.pool.AddCert(two.ca.cert)
	a := one.agent(nil)
	a.SetServers([]string{one.address, two.address, two.address})
	eventually(t, "both", func() bool { return one.Connected("n1") && two.Connected("n1") })
	stays := one.session("n1")
	a.SetServers([]string{two.address})
	eventually(t, "only the second", func() bool { return !one.Connected("n1") && two.Connected("n1") })
	a.SetServers([]string{one.address, two.address})
	eventually(t, "both again", func() bool { return one.Connected("n1") && two.Connected("n1") })
	if one.session("n1") == stays {
		t.Error("the tunnel did not end")
	}
	if a.log.count("level=WARN") != 0 {
		t.Errorf("it warns of what was asked for:\n%s", a.log)
	}
}

func TestCloseRefuses(t *testing.T) {
	r := newRig(t, quick)
	a := r.agent(nil)
	r.Close()
	if r.Connected("n1") {
		t.Error("a tunnel outlives its server")
	}
	err := within(t, "connect", func() error {
		return a.connect(t.Context(), r.address, func() { t.Error("a closed server takes tunnels") })
	})
	if err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a closed server: %v", err)
	}
}

// TestRequest has servers ask the agent itself.
func TestRequest(t *testing.T) {
	r := newRig(t, nil)
	ask := func(method, path string) (code int, answer string, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, method, "http://node"+path, strings.NewReader("question"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := r.RoundTrip("n1", request)
		if err != nil {
			return 0, "", err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, string(body), err
	}
	if _, _, err := ask(http.MethodGet, "/"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("without a tunnel: %v, want %v", err, ErrNotConnected)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /x", func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(append(body, " answered"...))
	})
	a := r.agent(func(o *ClientOptions) { o.Handler = mux })
	if code, answer, err := ask(http.MethodPost, "/x"); err != nil || code != http.StatusTeapot || answer != "question answered" {
		t.Errorf("%d %q, error %v", code, answer, err)
	}
	a.stop()
	eventually(t, "the tunnel's end", func() bool { return !r.Connected("n1") })
	r.agent(nil)
	if code, _, err := ask(http.MethodPost, "/x"); err != nil || code != http.StatusNotFound {
		t.Errorf("an agent without a handler answers %d, error %v", code, err)
	}
}
