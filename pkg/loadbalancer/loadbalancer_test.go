package loadbalancer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for machines that have other things to do.
const patience = 20 * time.Second

// quick checks often, but is as patient as the real timing.
var quick = timing{hold: patience, dial: 5 * time.Second, calm: 20 * time.Millisecond, alarm: 5 * time.Millisecond, proof: 3}

// backend is a server that says its name and then echoes.
type backend struct {
	t        *testing.T
	name     string
	address  string
	listener net.Listener
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func startBackend(t *testing.T, name string) *backend {
	t.Helper()
	s := &backend{t: t, name: name, address: "127.0.0.1:0"}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *backend) start() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.listener, s.address = l, l.Addr().String()
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(conn) })
		}
	})
}

func (s *backend) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	fmt.Fprintln(conn, s.name)
	buffer := make([]byte, 1024)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// kill ends the server with its connections, like the end of its process.
func (s *backend) kill() {
	_ = s.listener.Close()
	for done := false; !done; {
		s.mu.Lock()
		for _, conn := range s.conns {
			_ = conn.Close()
		}
		s.conns = nil
		s.mu.Unlock()
		done = within(50*time.Millisecond, s.wg.Wait)
	}
}

func within(limit time.Duration, wait func()) bool {
	done := make(chan struct{})
	go func() { wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// messages collects what is logged.
type messages struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (m *messages) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.Write(p)
}

func (m *messages) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out.String()
}

type balancer struct {
	*Balancer
	t    *testing.T
	log  *messages
	stop func()
}

// start runs a Balancer whose order of preference is that of o.Servers, and
// checks at the test's end that it leaves nothing behind.
func start(t *testing.T, o Options, change func(*timing)) *balancer {
	t.Helper()
	before := runtime.NumGoroutine()
	log := &messages{}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.timing = quick
	if change != nil {
		change(&b.timing)
	}
	slices.SortStableFunc(b.learned, func(x, y *server) int {
		return slices.Index(o.Servers, x.address) - slices.Index(o.Servers, y.address)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Fatal("Run does not end")
		}
		for _, s := range b.Servers() {
			if s.Connections != 0 {
				t.Errorf("after Run: %+v", s)
			}
		}
	})
	t.Cleanup(func() {
		stop()
		// Clients, and what serves them in the backends, have ended by now.
		eventually(t, "goroutines are left", func() bool { return runtime.NumGoroutine() <= before })
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return &balancer{Balancer: b, t: t, log: log, stop: stop}
}

func (b *balancer) dial() *client {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.Addr())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &client{TCPConn: conn.(*net.TCPConn), t: b.t, in: bufio.NewReader(conn)}
}

func (b *balancer) state(address string) State {
	for _, s := range b.Servers() {
		if s.Address == address {
			return s.State
		}
	}
	return "none"
}

func (b *balancer) awaitState(address string, want State) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("%s does not become %s", address, want), func() bool { return b.state(address) == want })
}

// logged expects n lines with the text.
func (b *balancer) logged(text string, n int) {
	b.t.Helper()
	if got := strings.Count(b.log.String(), text); got != n {
		b.t.Errorf("logged %q %d times, want %d:\n%s", text, got, n, b.log.String())
	}
}

type client struct {
	*net.TCPConn
	t  *testing.T
	in *bufio.Reader
}

// at expects the client to be served by the named backend.
func (c *client) at(name string) *client {
	c.t.Helper()
	got, err := c.in.ReadString('\n')
	if err != nil || got != name+"\n" {
		c.t.Fatalf("connected to %q, %v; want %s", got, err, name)
	}
	return c
}

// works expects an echo.
func (c *client) works() {
	c.t.Helper()
	const text = "are you there?\n"
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
	if got, err := c.in.ReadString('\n'); err != nil || got != text {
		c.t.Fatalf("echo is %q, %v", got, err)
	}
}

// closed expects the end of the connection.
func (c *client) closed() {
	c.t.Helper()
	if _, err := c.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("the connection is not closed: %v", err)
	}
}

func eventually(t *testing.T, complaint string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%s\n%s", complaint, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func TestSticksToOneServer(t *testing.T) {
	a, b := startBackend(t, "a"), startBackend(t, "b")
	lb := start(t, Options{Servers: []string{a.address, b.address}}, nil)
	for range 20 {
		lb.dial().at("a").works()
	}
	if got := lb.state(b.address); got != Idle {
		t.Errorf("the unused server is %s", got)
	}
}

func TestIPv6(t *testing.T) {
	a := startBackend(t, "a")
	lb := start(t, Options{Listen: "[::1]:0", Servers: []string{a.address}}, nil)
	if !strings.HasPrefix(lb.Addr(), "[::1]:") {
		t.Errorf("listens on %s", lb.Addr())
	}
	lb.dial().at("a")
}

func TestOrderSpreads(t *testing.T) {
	list := []string{"a:1", "b:1", "c:1"}
	first, firstNew := map[string]int{}, 0
	for range 600 {
		b := &Balancer{ctx: t.Context()}
		b.setLearned(list)
		first[b.learned[0].address]++
		b.setLearned(append(list, "d:1"))
		if b.learned[0].address == "d:1" {
			firstNew++
		}
	}
	// 200 and 150 are expected; less than 100 is six standard deviations away
	// and more.
	for _, address := range list {
		if first[address] < 100 {
			t.Errorf("first among 600: %v", first)
		}
	}
	if firstNew < 80 {
		t.Errorf("a new server is first for %d of 600", firstNew)
	}
}

func TestFailoverAtDial(t *testing.T) {
	b := startBackend(t, "b")
	dead := closedPort(t)
	lb := start(t, Options{Servers: []string{dead, b.address}}, nil)
	c := lb.dial()
	c.at("b").works()
	lb.awaitState(dead, Failed)
	lb.dial().at("b").works()
	c.works()
	lb.logged("does not answer, the others are used", 1)
	lb.logged("No server", 0)
}

func TestServerKilledAndBack(t *testing.T) {
	a, b := startBackend(t, "a"), startBackend(t, "b")
	lb := start(t, Options{Servers: []string{a.address, b.address}}, nil)
	var clients []*client
	for range 10 {
		clients = append(clients, lb.dial().at("a"))
	}
	a.kill()
	for _, c := range clients {
		c.closed()
	}
	onB := lb.dial().at("b")
	lb.awaitState(a.address, Failed)

	a.start()
	eventually(t, "the server does not come back", func() bool { return lb.state(a.address) == Idle })
	lb.dial().at("a").works()
	onB.works() // and is not cut
	lb.logged("is back", 1)
}

func TestServerRemoved(t *testing.T) {
	a, b := startBackend(t, "a"), startBackend(t, "b")
	lb := start(t, Options{Servers: []string{a.address, b.address}}, nil)
	c := lb.dial().at("a")
	if err := lb.SetServers([]string{b.address}); err != nil {
		t.Fatal(err)
	}
	c.closed()
	c = lb.dial().at("b")
	if err := lb.SetServers([]string{a.address, b.address}); err != nil {
		t.Fatal(err)
	}
	c.works()
	if err := lb.SetServers(nil); err == nil {
		t.Error("an empty list is taken")
	}
	if err := lb.SetServers([]string{"nonsense"}); err == nil {
		t.Error("nonsense is taken")
	}
	c.works()
	if got := len(lb.Servers()); got != 2 {
		t.Errorf("%d servers are left", got)
	}
}

func TestRestartWithStateFile(t *testing.T) {
	a, b := startBackend(t, "a"), startBackend(t, "b")
	file := filepath.Join(t.TempDir(), "servers.json")
	lb := start(t, Options{Servers: []string{a.address}, StateFile: file}, nil)
	lb.dial().at("a")
	if err := lb.SetServers([]string{b.address}); err != nil {
		t.Fatal(err)
	}
	lb.stop()
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}

	lb = start(t, Options{StateFile: file}, nil)
	lb.dial().at("b")
	lb.stop()
	a.kill()
	lb = start(t, Options{Servers: []string{a.address}, StateFile: file}, nil)
	lb.dial().at("b")
	if err := lb.SetServers([]string{b.address}); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(file); err != nil || !os.SameFile(info, again) {
		t.Errorf("the same list is written again: %v", err)
	}
}

func TestStateFileIsCorrupt(t *testing.T) {
	a := startBackend(t, "a")
	for _, content := range []string{"", "{", `{"servers":["nonsense"]}`, `{"servers":"a:1"}`} {
		file := filepath.Join(t.TempDir(), "servers.json")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		lb := start(t, Options{Servers: []string{a.address}, StateFile: file}, nil)
		lb.logged("level=WARN", 1)
		lb.logged(file, 1)
		lb.dial().at("a")
		if err := lb.SetServers([]string{a.address}); err != nil {
			t.Fatal(err)
		}
		kept, err := (&state{path: file}).load()
		if err != nil || !slices.Equal(kept, []string{a.address}) {
			t.Errorf("kept %v, %v", kept, err)
		}
		lb.stop()
	}
}

func TestStateFileCannotBeWritten(t *testing.T) {
	a, b := startBackend(t, "a"), startBackend(t, "b")
	lb := start(t, Options{Servers: []string{a.address}, StateFile: filepath.Join(t.TempDir(), "none", "servers.json")}, nil)
	if err := lb.SetServers([]string{b.address}); err == nil {
		t.Error("no error")
	}
	lb.dial().at("b")
}

func TestDefaultIsTheLastResort(t *testing.T) {
	a, d := startBackend(t, "a"), startBackend(t, "default")
	lb := start(t, Options{Servers: []string{a.address}, Default: d.address}, nil)
	lb.dial().at("a")
	a.kill()
	onDefault := lb.dial().at("default")
	lb.awaitState(a.address, Failed)
	lb.dial().at("default")
	a.start()
	lb.awaitState(a.address, Idle)
	lb.dial().at("a")
	onDefault.works()

	// The default may be one of the learned, and stop to be one.
	if err := lb.SetServers([]string{d.address}); err != nil {
		t.Fatal(err)
	}
	onDefault.works()
	if got := lb.Servers(); len(got) != 1 || !got[0].Default {
		t.Errorf("servers are %+v", got)
	}
	if err := lb.SetServers([]string{a.address}); err != nil {
		t.Fatal(err)
	}
	onDefault.closed()
	lb.dial().at("a")
}

func TestAllDownAndBack(t *testing.T) {
	a, b := startBackend(t, "a"), startBackend(t, "b")
	lb := start(t, Options{Servers: []string{a.address, b.address}}, nil)
	lb.dial().at("a")
	a.kill()
	b.kill()
	var held []*client
	for range 20 {
		c := lb.dial()
		if _, err := io.WriteString(c, "sent before anybody listens\n"); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	lb.awaitState(a.address, Failed)
	lb.awaitState(b.address, Failed)
	b.start()
	for _, c := range held {
		c.at("b")
		if got, err := c.in.ReadString('\n'); err != nil || got != "sent before anybody listens\n" {
			t.Fatalf("echo is %q, %v", got, err)
		}
	}
	lb.logged("No server of the cluster answers any more", 1)
	lb.logged("level=WARN", 1)
	lb.logged("answers again", 1)
}

func TestHoldLimit(t *testing.T) {
	lb := start(t, Options{Servers: []string{closedPort(t)}, Default: closedPort(t)}, func(t *timing) { t.hold = 50 * time.Millisecond })
	for range 5 {
		lb.dial().closed()
	}
	eventually(t, "nothing is logged", func() bool { return strings.Contains(lb.log.String(), "No server") })
	lb.logged("level=", 2) // the first that failed, and the last
	lb.logged("No server", 1)
}

func TestHalfClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	lb := start(t, Options{Servers: []string{l.Addr().String()}, Healthy: func(context.Context, string) error { return nil }}, nil)
	c := lb.dial()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	up := conn.(*net.TCPConn)
	defer func() { _ = up.Close() }()
	_ = up.SetDeadline(time.Now().Add(patience))
	for _, side := range []struct {
		name     string
		from, to *net.TCPConn
	}{{"client", c.TCPConn, up}, {"server", up, c.TCPConn}} {
		text := strings.Repeat("all of it ", 100_000)
		go func() {
			_, _ = io.WriteString(side.from, text)
			_ = side.from.CloseWrite()
		}()
		got, err := io.ReadAll(side.to)
		if err != nil || string(got) != text {
			t.Fatalf("%s: %d bytes arrived, %v", side.name, len(got), err)
		}
	}
}

func TestThousandConnections(t *testing.T) {
	const n = 1000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 12*n {
		t.Skipf("only %d file descriptors", limit.Cur)
	}
	a, b := startBackend(t, "a"), startBackend(t, "b")
	lb := start(t, Options{Servers: []string{a.address, b.address}}, nil)
	clients := make([]*client, n)
	for _, name := range []string{"a", "b"} {
		for i := range clients {
			clients[i] = lb.dial()
		}
		for _, c := range clients {
			c.at(name).works()
		}
		if name == "a" {
			a.kill()
			for _, c := range clients {
				c.closed()
				_ = c.Close()
			}
		}
	}
	eventually(t, "connections are miscounted", func() bool {
		s := lb.Servers()
		return s[0].Connections == 0 && s[1].Connections == n
	})
}

// blackhole is a listener that never answers: its backlog is full.
func blackhole(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range 10 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the backlog does not fill")
	return ""
}

func TestBlackholedServerStallsNobody(t *testing.T) {
	b := startBackend(t, "b")
	hole := blackhole(t)
	var dials atomic.Int32
	lb := start(t, Options{
		Servers: []string{hole, b.address},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == hole {
				dials.Add(1)
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
		Healthy: func(ctx context.Context, address string) error {
			if address == hole {
				<-ctx.Done()
			}
			return ctx.Err()
		},
	}, func(t *timing) { t.dial = time.Second })
	for range 50 {
		lb.dial().at("b").works()
	}
	if got := dials.Load(); got != 1 {
		t.Errorf("%d clients had to try the blackholed server", got)
	}
	lb.awaitState(hole, Failed)
}

// sick is a health check that hangs for an address.
type sick struct{ address atomic.Value }

func (s *sick) check(ctx context.Context, address string) error {
	if s.address.Load() == address {
		<-ctx.Done()
	}
	return ctx.Err()
}

func TestVanishedServer(t *testing.T) {
	a, b := startBackend(t, "a"), startBackend(t, "b")
	var health sick
	lb := start(t, Options{Servers: []string{a.address, b.address}, Healthy: health.check}, func(t *timing) { t.dial = time.Second })
	c := lb.dial().at("a")
	health.address.Store(a.address)
	c.closed()
	if got := lb.state(a.address); got != Failed {
		t.Errorf("the server is %s", got)
	}
	lb.dial().at("b").works()
}

func TestTheOnlyServerIsNotCutOff(t *testing.T) {
	a, b := startBackend(t, "a"), startBackend(t, "b")
	var health sick
	health.address.Store(a.address)
	lb := start(t, Options{Servers: []string{a.address}, Healthy: health.check}, func(t *timing) { t.dial = time.Second })
	c := lb.dial().at("a")
	lb.awaitState(a.address, Failed)
	c.works()
	last := lb.dial().at("a")
	lb.logged("level=WARN", 1)
	// As soon as there is another, clients should go there.
	if err := lb.SetServers([]string{a.address, b.address}); err != nil {
		t.Fatal(err)
	}
	c.closed()
	last.closed()
	lb.dial().at("b")
}

func TestFailedDialCutsNothing(t *testing.T) {
	a, b := startBackend(t, "a"), startBackend(t, "b")
	var fail atomic.Bool
	lb := start(t, Options{
		Servers: []string{a.address, b.address},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == a.address && fail.Load() {
				return nil, errors.New("no")
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
		Healthy: func(context.Context, string) error { return nil },
	}, nil)
	c := lb.dial().at("a")
	fail.Store(true)
	lb.dial().at("b")
	fail.Store(false)
	lb.awaitState(a.address, Healthy)
	lb.dial().at("a")
	c.works()
	lb.logged("level=", 0)
}

func TestNobodyConnectedNothingChecked(t *testing.T) {
	a := startBackend(t, "a")
	var checks atomic.Int32
	lb := start(t, Options{Servers: []string{a.address}, Healthy: func(context.Context, string) error {
		checks.Add(1)
		return nil
	}}, nil)
	c := lb.dial().at("a")
	eventually(t, "a server in use is not checked", func() bool { return checks.Load() > 2 })
	_ = c.Close()
	lb.awaitState(a.address, Idle)
	lb.mu.Lock()
	defer lb.mu.Unlock()
	if lb.learned[0].watched {
		t.Error("an idle server is watched")
	}
}

func TestJudge(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", unix.ECONNREFUSED)}
	slow := context.DeadlineExceeded
	for _, test := range []struct {
		name   string
		choice bool
		checks []error
		want   []State
	}{
		{"one slow answer", true, []error{slow, nil, slow, nil}, []State{Healthy, Healthy, Healthy, Healthy}},
		{"two slow answers", true, []error{slow, slow}, []State{Healthy, Failed}},
		{"refused", true, []error{refused}, []State{Failed}},
		{"back with proof", true, []error{refused, nil, nil, slow, nil, nil, nil}, []State{Failed, Failed, Failed, Failed, Failed, Failed, Healthy}},
		{"back at once", false, []error{refused, nil}, []State{Failed, Healthy}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &Balancer{ctx: t.Context(), timing: quick, log: slog.New(slog.DiscardHandler), better: make(chan struct{})}
			list := []string{"a:1"}
			if test.choice {
				list = append(list, "b:1")
			}
			b.setLearned(list)
			s := b.learned[0]
			s.state = Healthy
			var got []State
			for _, err := range test.checks {
				b.judge(s, time.Now(), err)
				got = append(got, s.state)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestConnectionOptions(t *testing.T) {
	a := startBackend(t, "a")
	conns := make(chan *net.TCPConn, 1)
	lb := start(t, Options{
		Servers: []string{a.address},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err == nil {
				conns <- conn.(*net.TCPConn)
			}
			return conn, err
		},
		Healthy: func(context.Context, string) error { return nil },
	}, nil)
	lb.dial().at("a")
	raw, err := (<-conns).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range []struct {
		name               string
		level, value, want int
	}{
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 5},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 2},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 2},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 8000},
	} {
		var got int
		var failed error
		if err := raw.Control(func(fd uintptr) { got, failed = unix.GetsockoptInt(int(fd), option.level, option.value) }); err != nil || failed != nil || got != option.want {
			t.Errorf("%s is %d, %v, %v; want %d", option.name, got, err, failed, option.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
		want    string
	}{
		{"no server", Options{Listen: "127.0.0.1:0"}, "no server"},
		{"no port", Options{Listen: "127.0.0.1:0", Servers: []string{"host"}}, `"host"`},
		{"no host", Options{Listen: "127.0.0.1:0", Servers: []string{":6443"}}, `":6443"`},
		{"port zero", Options{Listen: "127.0.0.1:0", Servers: []string{"host:0"}}, `"host:0"`},
		{"default", Options{Listen: "127.0.0.1:0", Default: "https://host:6443"}, `"https://host:6443"`},
		{"listen", Options{Listen: "127.0.0.1", Default: "host:6443"}, `"127.0.0.1"`},
		{"everybody", Options{Listen: "0.0.0.0:0", Default: "host:6443"}, "loopback"},
	} {
		if _, err := New(test.options); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := New(Options{Listen: l.Addr().String(), Default: "host:6443"}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a port that is taken: %v", err)
	}
}
