package tunnel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const limit = time.Minute // for what should take milliseconds

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", limit, what)
		}
	}
}

// within fails the test if f takes longer than the limit.
func within[T any](t *testing.T, what string, f func() T) T {
	t.Helper()
	done := make(chan T, 1)
	go func() { done <- f() }()
	select {
	case v := <-done:
		return v
	case <-time.After(limit):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs\n%s", what, stacks[:runtime.Stack(stacks, true)])
		panic("unreachable")
	}
}

// checkLeaks fails the test if goroutines are left over when all else that was
// registered after it is cleaned up.
func checkLeaks(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(limit); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	})
}

// authority signs the certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert: cert, key: key, pool: pool}
}

func (a *authority) issue(t *testing.T, name string, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// nodeOf is how a server knows nodes: CN system:node:NAME, signed by the authority.
func (a *authority) nodeOf(r *http.Request) (string, bool) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", false
	}
	cert := r.TLS.PeerCertificates[0]
	if _, err := cert.Verify(x509.VerifyOptions{Roots: a.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return "", false
	}
	return strings.CutPrefix(cert.Subject.CommonName, "system:node:")
}

// rig is a server, which can be restarted at its address, for agents and targets.
type rig struct {
	*Server
	t       *testing.T
	ca      *authority
	address string
	timing  timing
	http    *http.Server
}

func newRig(t *testing.T, shorten func(*timing)) *rig {
	t.Helper()
	checkLeaks(t)
	r := &rig{t: t, ca: newAuthority(t), address: "127.0.0.1:0", timing: defaultTiming}
	if shorten != nil {
		shorten(&r.timing)
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) start() {
	r.t.Helper()
	var listener net.Listener
	eventually(r.t, "listen on "+r.address, func() (ok bool) {
		l, err := net.Listen("tcp", r.address)
		listener = l
		return err == nil
	})
	r.address = listener.Addr().String()
	r.Server = NewServer(ServerOptions{Authenticate: r.ca.nodeOf, Log: slog.New(slog.DiscardHandler), timing: r.timing})
	mux := http.NewServeMux()
	mux.Handle(Path, r.Server)
	r.http = &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	config := &tls.Config{
		Certificates: []tls.Certificate{r.ca.issue(r.t, "server", x509.ExtKeyUsageServerAuth)},
		ClientAuth:   tls.RequestClientCert, // as the apiserver
		NextProtos:   []string{"h2", "http/1.1"},
	}
	go func() { _ = r.http.Serve(tls.NewListener(listener, config)) }()
}

func (r *rig) stop() {
	_ = r.http.Close()
	r.Close()
}

// agent is a Client that runs.
type agent struct {
	*Client
	stop func()
	log  *lines
}

// tls is a node's configuration.
func (r *rig) tls(node string) func() (*tls.Config, error) {
	cert := r.ca.issue(r.t, "system:node:"+node, x509.ExtKeyUsageClientAuth)
	return func() (*tls.Config, error) {
		return &tls.Config{RootCAs: r.ca.pool, Certificates: []tls.Certificate{cert}}, nil
	}
}

func anything(a netip.AddrPort) (netip.AddrPort, bool) { return a, true }

// agent runs a Client of node n1 that is connected.
func (r *rig) agent(change func(*ClientOptions)) *agent {
	r.t.Helper()
	const node = "n1"
	log := &lines{}
	o := ClientOptions{TLS: r.tls(node), Allow: anything, Log: slog.New(slog.NewTextHandler(log, nil)), timing: r.timing}
	if change != nil {
		change(&o)
	}
	a := &agent{Client: NewClient(o), log: log}
	a.SetServers([]string{r.address})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { a.Run(ctx); close(ended) }()
	a.stop = func() {
		cancel()
		within(r.t, "the client's end", func() any { <-ended; return nil })
	}
	r.t.Cleanup(a.stop)
	eventually(r.t, node+" is connected", func() bool { return r.Connected(node) && strings.Contains(log.String(), "is open") })
	return a
}

// dial dials in the given mode, for a node that has all of 127.0.0.0/8 as pods.
func (r *rig) dial(address string) (net.Conn, error) {
	r.SetNode("n1", nil, 10250, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return r.Dialer(Pod)(ctx, "tcp", address)
}

// tunneled is dial that must go through the tunnel.
func (r *rig) tunneled(address string) *stream {
	r.t.Helper()
	conn, err := r.dial(address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	s, ok := conn.(*stream)
	if !ok {
		r.t.Fatalf("dialed past the tunnel")
	}
	return s
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) count(text string) int { return strings.Count(l.String(), text) }

// target is a TCP server.
func target(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				defer stop()
				defer func() { _ = conn.Close() }()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		within(t, "the target's end", func() any { serving.Wait(); return nil })
	})
	return l.Addr().String()
}

func echo(c *net.TCPConn)  { _, _ = io.Copy(c, c) }
func sink(c *net.TCPConn)  { _, _ = io.Copy(io.Discard, c) }
func flood(c *net.TCPConn) { _, _ = io.Copy(c, zeros{}) }

// silent is a target that accepts connections and neither reads nor writes.
func silent(t *testing.T) string {
	done := make(chan struct{})
	address := target(t, func(*net.TCPConn) { <-done })
	t.Cleanup(func() { close(done) })
	return address
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// unused is an address on which nothing listens.
func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// wire carries TCP connections to an address until it is cut (the connections
// break) or frozen (they stay, and nothing arrives any more).
type wire struct {
	address string
	mu      sync.Mutex
	thaw    chan struct{} // closed while not frozen
	conns   []net.Conn
}

func newWire(t *testing.T, to string) *wire {
	w := &wire{thaw: make(chan struct{})}
	close(w.thaw)
	w.address = target(t, func(near *net.TCPConn) {
		far, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		w.mu.Lock()
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		var both sync.WaitGroup
		carry := func(to, from net.Conn) {
			_, _ = io.Copy(to, frozenReader{w, from})
			_ = to.Close()
			_ = from.Close()
		}
		both.Go(func() { carry(far, near) })
		both.Go(func() { carry(near, far) })
		both.Wait()
	})
	t.Cleanup(func() { w.melt(); w.cut() })
	return w
}

// frozenReader holds back what it has read while the wire is frozen.
type frozenReader struct {
	wire *wire
	conn net.Conn
}

func (f frozenReader) Read(p []byte) (int, error) {
	n, err := f.conn.Read(p)
	f.wire.mu.Lock()
	thaw := f.wire.thaw
	f.wire.mu.Unlock()
	<-thaw
	return n, err
}

func (w *wire) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.thaw = make(chan struct{})
}

func (w *wire) melt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.thaw:
	default:
		close(w.thaw)
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// over has the agent's connections go over the wire.
func (w *wire) over(o *ClientOptions) {
	o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, w.address)
	}
}

type result[T any] struct {
	v   T
	err error
}

// within2 is within for two results.
func within2[T any](t *testing.T, what string, f func() (T, error)) (T, error) {
	t.Helper()
	r := within(t, what, func() result[T] { v, err := f(); return result[T]{v, err} })
	return r.v, r.err
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
