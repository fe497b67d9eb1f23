package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// site is Caddy serving a fake cluster. There is one Caddy in a process: tests with
// one don't run in parallel.
type site struct {
	t           testing.TB
	cluster     *fakeCluster
	live        *live
	pools       *pools
	parsed      parsed
	settings    *settings
	http, https string // addresses
	ca          *authority
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func newSite(t testing.TB) *site {
	t.Helper()
	l, err := newLive()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, cluster: newFakeCluster(), live: l, settings: &settings{}, http: freePort(t), https: freePort(t), ca: newAuthority(t)}
	s.pools = &pools{slices: s.cluster.slicesOf}
	if err := startCaddy(l, listen{http: s.http, https: s.https, grace: time.Second}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// update serves what the cluster has now.
func (s *site) update() *build {
	b := newBuild(s.cluster, s.pools, &s.parsed, func(string) *tls.Certificate { return nil }, s.settings)
	s.live.settings.Store(s.settings)
	s.live.certificates.Store(&certificates{byName: b.certificates, fallback: s.live.certificates.Load().fallback})
	s.live.table.Store(newTable(b.routes))
	return b
}

// client finds all hosts here.
func (s *site) client() *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := s.http
			if strings.HasSuffix(address, ":443") {
				to = s.https
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
		},
		TLSClientConfig:   &tls.Config{RootCAs: s.ca.pool()},
		ForceAttemptHTTP2: true,
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// ask makes a request and gives status, headers and body.
func (s *site) ask(client *http.Client, method, url string, body io.Reader, headers ...string) (int, http.Header, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, url, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, url, err)
	}
	return response.StatusCode, response.Header, string(text)
}

// echo starts a backend that answers with what it sees, and gives its address.
func echo(t testing.TB, name string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Backend", name)
		w.Header().Set("X-Removed", "here")
		_, _ = fmt.Fprintf(w, "%s %s host=%s for=%s proto=%s real=%s length=%d extra=%s", r.Method, r.URL.RequestURI(), r.Host,
			r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Real-Ip"), len(body), r.Header.Get("X-Extra"))
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestServe(t *testing.T) {
	s := newSite(t)
	c := s.cluster
	c.addService("web", echo(t, "web"))
	c.addService("empty")
	c.addService("down", freePort(t))
	c.simple(t, "a.test", "Prefix", "/", "web")
	c.simple(t, "missing.test", "Prefix", "/", "gone")
	c.simple(t, "empty.test", "Prefix", "/", "empty")
	c.simple(t, "down.test", "Prefix", "/", "down")
	c.simple(t, "https.test", "Prefix", "/", "web", "ingress.kedge.io/redirect-https", "true")
	c.simple(t, "small.test", "Prefix", "/", "web", "ingress.kedge.io/body-size", "1k")
	c.simple(t, "local.test", "Prefix", "/", "web", "ingress.kedge.io/allow-source", "127.0.0.0/8")
	c.simple(t, "remote.test", "Prefix", "/", "web", "ingress.kedge.io/allow-source", "10.0.0.0/8")
	c.simple(t, "locked.test", "Prefix", "/", "web", "ingress.kedge.io/auth-secret", "passwords", "ingress.kedge.io/auth-realm", "inside")
	c.simple(t, "shut.test", "Prefix", "/", "web", "ingress.kedge.io/auth-secret", "gone")
	c.simple(t, "moved.test", "Prefix", "/", "web", "nginx.ingress.kubernetes.io/permanent-redirect", "https://a.test/new")
	c.simple(t, "app.test", "Prefix", "/", "web", "nginx.ingress.kubernetes.io/app-root", "/start")
	c.simple(t, "strip.test", "Prefix", "/app", "web", "ingress.kedge.io/strip-prefix", "true")
	passwords := s.ca.secret("passwords", "1")
	passwords.Type, passwords.Data = "", map[string][]byte{"auth": []byte("sha:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")}
	c.secrets[objectName{"default", "passwords"}] = passwords
	s.update()

	client := s.client()
	for _, test := range []struct {
		name, method, url string
		body              string
		headers           []string
		status            int
		want              string // in the body
		header            string // NAME: VALUE
	}{
		{name: "proxied", url: "http://a.test/x?y=z", status: 200, want: "GET /x?y=z host=a.test for=127.0.0.1 proto=http real=127.0.0.1 length=0"},
		{name: "nobody is trusted", url: "http://a.test/", headers: []string{"X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "https", "X-Real-Ip", "1.2.3.4"}, status: 200, want: "for=127.0.0.1 proto=http real=127.0.0.1"},
		{name: "body", method: "POST", url: "http://a.test/", body: "12345", status: 200, want: "length=5"},
		{name: "no host", url: "http://other.test/", status: 404, want: "404 Not Found: nothing is served at this host and path\n"},
		{name: "no Service", url: "http://missing.test/", status: 503, want: "503 Service Unavailable: the Service is not there\n"},
		{name: "no endpoints", url: "http://empty.test/", status: 503, want: "503 Service Unavailable: the Service has no ready endpoints\n"},
		{name: "no answer", url: "http://down.test/", status: 502, want: "502 Bad Gateway: the Service does not answer\n"},
		{name: "redirect to HTTPS", url: "http://https.test/x?y", status: 308, header: "Location: https://https.test/x?y"},
		{name: "small enough", method: "POST", url: "http://small.test/", body: strings.Repeat("x", 1024), status: 200, want: "length=1024"},
		{name: "too large", method: "POST", url: "http://small.test/", body: strings.Repeat("x", 1025), status: 413},
		{name: "allowed source", url: "http://local.test/", status: 200},
		{name: "other source", url: "http://remote.test/", status: 403},
		{name: "no password", url: "http://locked.test/", status: 401, header: `Www-Authenticate: Basic realm="inside", charset="UTF-8"`},
		{name: "wrong password", url: "http://locked.test/", headers: []string{"Authorization", "Basic c2hhOnhYWA=="}, status: 401},
		{name: "password", url: "http://locked.test/", headers: []string{"Authorization", "Basic c2hhOnBhc3N3b3Jk"}, status: 200},
		{name: "passwords that are not there", url: "http://shut.test/", headers: []string{"Authorization", "Basic c2hhOnBhc3N3b3Jk"}, status: 503},
		{name: "redirect", url: "http://moved.test/x", status: 301, header: "Location: https://a.test/new"},
		{name: "root of an application", url: "http://app.test/", status: 302, header: "Location: /start"},
		{name: "inside of it", url: "http://app.test/x", status: 200, want: "GET /x "},
		{name: "prefix left out", url: "http://strip.test/app/x", status: 200, want: "GET /x "},
		{name: "challenge of nobody's", url: "http://a.test/.well-known/acme-challenge/x", status: 200, want: "GET /.well-known/acme-challenge/x "},
	} {
		status, header, body := s.ask(client, test.method, test.url, strings.NewReader(test.body), test.headers...)
		if status != test.status || !strings.Contains(body, test.want) {
			t.Errorf("%s: %d %q, want %d %q", test.name, status, body, test.status, test.want)
		}
		if name, value, _ := strings.Cut(test.header, ": "); header.Get(name) != value && name != "" {
			t.Errorf("%s: header %s is %q, want %q", test.name, name, header.Get(name), value)
		}
	}

	// A body whose size is not told first.
	reader, writer := io.Pipe()
	go func() {
		_, _ = writer.Write(bytes.Repeat([]byte("x"), 4096))
		_ = writer.Close()
	}()
	if status, _, _ := s.ask(client, "POST", "http://small.test/", reader); status != 413 {
		t.Errorf("a large body in pieces: %d, want 413", status)
	}

	s.settings = &settings{trustedProxies: c.trusted(t, "127.0.0.1")}
	s.update()
	if _, _, body := s.ask(client, "GET", "http://a.test/", nil, "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "https"); !strings.Contains(body, "for=1.2.3.4, 127.0.0.1 proto=https real=1.2.3.4") {
		t.Errorf("behind a trusted proxy: %s", body)
	}
	if status, _, _ := s.ask(client, "GET", "http://remote.test/", nil, "X-Forwarded-For", "10.1.2.3"); status != 200 {
		t.Errorf("an allowed address behind a trusted proxy: %d", status)
	}
}

func TestTLS(t *testing.T) {
	s := newSite(t)
	c := s.cluster
	c.addService("web", echo(t, "web"))
	c.addIngress(t, `
metadata: {name: secure}
spec:
	tls:
	- {hosts: [a.test], secretName: a}
	- {hosts: ["*.wild.test"], secretName: wild}
	rules:
	- http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}
`)
	name := objectName{"default", "a"}
	c.secrets[name] = s.ca.secret("a", "1", "a.test")
	c.secrets[objectName{"default", "wild"}] = s.ca.secret("wild", "1", "*.wild.test")
	s.update()
	if _, _, body := s.ask(s.client(), "GET", "https://a.test/x", nil); !strings.Contains(body, "GET /x host=a.test for=127.0.0.1 proto=https") {
		t.Errorf("over TLS: %s", body)
	}
	presented := func(host string) string {
		t.Helper()
		connection, err := tls.Dial("tcp", s.https, &tls.Config{ServerName: host, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = connection.Close() }()
		leaf := connection.ConnectionState().PeerCertificates[0]
		return leaf.Subject.CommonName + " " + strings.Join(leaf.DNSNames, " ")
	}
	for host, want := range map[string]string{
		"a.test":        "1 a.test",
		"A.test":        "1 a.test",
		"b.wild.test":   "1 *.wild.test",
		"c.b.wild.test": "Kedge ingress: no certificate for this host ingress.invalid",
		"other.test":    "Kedge ingress: no certificate for this host ingress.invalid",
		"":              "Kedge ingress: no certificate for this host ingress.invalid",
	} {
		if got := presented(host); got != want {
			t.Errorf("the certificate for %q is %q, want %q", host, got, want)
		}
	}
	// A new certificate is used for the next connection; the old one lives on.
	client := s.client()
	s.ask(client, "GET", "https://a.test/", nil)
	c.secrets[name] = s.ca.secret("a", "2", "a.test")
	s.update()
	if got := presented("a.test"); got != "2 a.test" {
		t.Errorf("after a change the certificate is %q", got)
	}
	s.ask(client, "GET", "https://a.test/", nil)
}

func TestHTTP3(t *testing.T) {
	s := newSite(t)
	s.cluster.addService("web", echo(t, "web"))
	s.cluster.addIngress(t, `
metadata: {name: secure}
spec:
	tls: [{hosts: [a.test], secretName: a}]
	rules:
	- http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
`)
	s.cluster.secrets[objectName{"default", "a"}] = s.ca.secret("a", "1", "a.test")
	s.update()
	_, header, _ := s.ask(s.client(), "GET", "https://a.test/", nil)
	if want := fmt.Sprintf(`h3=":%d"`, portOf(s.https)); !strings.Contains(header.Get("Alt-Svc"), want) {
		t.Errorf("Alt-Svc is %q, want %s", header.Get("Alt-Svc"), want)
	}
	transport := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: s.ca.pool(), ServerName: "a.test"}}
	defer func() { _ = transport.Close() }()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.https+"/x", strings.NewReader("12345"))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "a.test"
	response, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.ProtoMajor != 3 || !strings.Contains(string(body), "POST /x host=a.test for=127.0.0.1 proto=https") || !strings.Contains(string(body), "length=5") {
		t.Errorf("%s %s %v", response.Proto, body, err)
	}
}

func TestWebsocket(t *testing.T) {
	s := newSite(t)
	backend := httptest.NewServer(websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) }))
	t.Cleanup(backend.Close)
	s.cluster.addService("ws", backend.Listener.Addr().String())
	s.cluster.simple(t, "a.test", "Prefix", "/", "ws")
	s.update()
	config, err := websocket.NewConfig("ws://a.test/chat", "http://a.test/")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := net.Dial("tcp", s.http)
	if err != nil {
		t.Fatal(err)
	}
	connection, err := websocket.NewClient(config, plain)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetDeadline(time.Now().Add(20 * time.Second))
	for i := range 5 {
		sent := "message " + strconv.Itoa(i)
		if err := websocket.Message.Send(connection, sent); err != nil {
			t.Fatal(err)
		}
		var got string
		if err := websocket.Message.Receive(connection, &got); err != nil || got != sent {
			t.Fatalf("%q comes back as %q, %v", sent, got, err)
		}
		// Changes leave the connection be.
		s.cluster.simple(t, "b"+strconv.Itoa(i)+".test", "Prefix", "/", "ws")
		s.update()
	}
}

func TestGRPC(t *testing.T) {
	s := newSite(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	status := health.NewServer()
	healthpb.RegisterHealthServer(server, status)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	h2c := "kubernetes.io/h2c"
	s.cluster.addService("grpc", listener.Addr().String()).Spec.Ports[0].AppProtocol = &h2c
	i := s.cluster.simple(t, "a.test", "Prefix", "/", "grpc")
	i.Spec.TLS = append(i.Spec.TLS, tlsEntry("a", "a.test"))
	s.cluster.secrets[objectName{"default", "a"}] = s.ca.secret("a", "1", "a.test")
	s.update()

	connection, err := grpc.NewClient("passthrough:///"+s.https, grpc.WithTransportCredentials(
		credentials.NewTLS(&tls.Config{RootCAs: s.ca.pool(), ServerName: "a.test"})), grpc.WithAuthority("a.test"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := healthpb.NewHealthClient(connection)
	answer, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || answer.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("a call: %v, %v", answer, err)
	}
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: "unknown"}); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("a call that fails, whose status is in the trailers: %v", err)
	}
	stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		got, err := stream.Recv()
		if err != nil || got.Status != want {
			t.Fatalf("the stream has %v, %v; want %v", got, err, want)
		}
		status.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	}
}

func TestUpstreamHTTPS(t *testing.T) {
	s := newSite(t)
	backend := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "tls ", r.TLS != nil, " host ", r.Host)
	}))
	t.Cleanup(backend.Close)
	s.cluster.addService("web", backend.Listener.Addr().String())
	s.cluster.simple(t, "a.test", "Prefix", "/", "web", "nginx.ingress.kubernetes.io/backend-protocol", "HTTPS")
	s.cluster.simple(t, "checked.test", "Prefix", "/", "web", "ingress.kedge.io/backend-protocol", "HTTPS", "ingress.kedge.io/backend-verify", "true")
	s.update()
	client := s.client()
	if _, _, body := s.ask(client, "GET", "http://a.test/", nil); body != "tls true host a.test" {
		t.Errorf("%s", body)
	}
	if status, _, _ := s.ask(client, "GET", "http://checked.test/", nil); status != http.StatusBadGateway {
		t.Errorf("a certificate that can't be verified: %d, want 502", status)
	}
}

// TestPlaceholders has what Caddy replaces by files and variables of the ingress
// where users write words of their own: it must come out as it is.
func TestPlaceholders(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("secret.test"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEDGE_TEST", "secret.test")
	s := newSite(t)
	secured := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "name=%s", r.TLS.ServerName)
	}))
	t.Cleanup(secured.Close)
	s.cluster.addService("secured", secured.Listener.Addr().String())
	s.cluster.addService("web", echo(t, "web"))
	for _, placeholder := range []string{"{file." + secret + "}", "{env.KEDGE_TEST}", "{http.request.host}", "{system.os}"} {
		s.cluster.list = nil
		s.cluster.simple(t, "name.test", "Prefix", "/", "secured", "ingress.kedge.io/backend-protocol", "HTTPS", "ingress.kedge.io/backend-server-name", placeholder)
		s.cluster.simple(t, "target.test", "Prefix", "/", "web", "ingress.kedge.io/rewrite-target", "/"+placeholder)
		s.cluster.simple(t, "moved.test", "Prefix", "/", "web", "ingress.kedge.io/redirect", "/"+placeholder)
		s.cluster.simple(t, "app.test", "Prefix", "/", "web", "ingress.kedge.io/app-root", "/"+placeholder)
		s.update()
		for _, r := range s.live.table.Load().exact["target.test"] { // as a filter of an HTTPRoute
			r.request.set = []header{{"X-Extra", placeholder}}
			r.response.set = []header{{"X-Added", placeholder}}
		}
		client := s.client()
		if _, _, body := s.ask(client, "GET", "http://name.test/", nil); body != "name=" {
			t.Errorf("%s: the backend is asked for by its name: %s", placeholder, body)
		}
		escaped := (&url.URL{Path: "/" + placeholder}).EscapedPath()
		_, headers, body := s.ask(client, "GET", "http://target.test/", nil)
		if !strings.HasPrefix(body, "GET "+escaped+" ") || !strings.Contains(body, "extra="+placeholder) || headers.Get("X-Added") != placeholder {
			t.Errorf("%s: %s, X-Added: %s", placeholder, body, headers.Get("X-Added"))
		}
		for _, host := range []string{"moved.test", "app.test"} {
			if _, headers, _ := s.ask(client, "GET", "http://"+host+"/", nil); headers.Get("Location") != "/"+placeholder {
				t.Errorf("%s: %s redirects to %s", placeholder, host, headers.Get("Location"))
			}
		}
		key := transportKey{protocol: protocolHTTPS, options: upstreamOptions{serverName: placeholder}}
		if _, err := new(transports).get(key); err == nil {
			t.Errorf("%s: connections are made with it as a name", placeholder)
		}
	}
}

func TestTimeouts(t *testing.T) {
	s := newSite(t)
	done := make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-done:
		}
	}))
	t.Cleanup(backend.Close)
	t.Cleanup(func() { close(done) })
	s.cluster.addService("slow", backend.Listener.Addr().String())
	s.cluster.simple(t, "a.test", "Prefix", "/", "slow", "ingress.kedge.io/read-timeout", "200ms")
	s.update()
	if status, _, body := s.ask(s.client(), "POST", "http://a.test/", nil); status != http.StatusGatewayTimeout {
		t.Errorf("%d %s, want 504", status, body)
	}
}

func TestAffinity(t *testing.T) {
	s := newSite(t)
	var all []string
	for i := range 4 {
		all = append(all, echo(t, strconv.Itoa(i)))
	}
	s.cluster.addService("web", all...)
	s.cluster.simple(t, "a.test", "Prefix", "/", "web", "ingress.kedge.io/affinity", "cookie", "ingress.kedge.io/affinity-cookie", "sid")
	s.cluster.simple(t, "b.test", "Prefix", "/", "web")
	s.update()

	seen := make(map[string]bool)
	for range 12 {
		_, header, _ := s.ask(s.client(), "GET", "http://b.test/", nil)
		seen[header.Get("Backend")] = true
	}
	if len(seen) != 4 {
		t.Errorf("without a cookie %d of 4 endpoints answer", len(seen))
	}
	client := s.client()
	client.Jar, _ = cookiejar.New(nil)
	_, header, _ := s.ask(client, "GET", "http://a.test/", nil)
	first := header.Get("Backend")
	for range 12 {
		if _, header, _ := s.ask(client, "GET", "http://a.test/", nil); header.Get("Backend") != first || header.Get("Set-Cookie") != "" {
			t.Fatalf("the client comes to %s after %s, is given the cookie %q", header.Get("Backend"), first, header.Get("Set-Cookie"))
		}
	}
	// Its endpoint goes: it gets another one, and a cookie for that.
	n, _ := strconv.Atoi(first)
	rest := append(append([]string(nil), all[:n]...), all[n+1:]...)
	s.cluster.slices["default/web"] = endpointSlices("http", rest...)
	s.pools.refresh("default", "web")
	_, header, _ = s.ask(client, "GET", "http://a.test/", nil)
	second := header.Get("Backend")
	if second == first || !strings.HasPrefix(header.Get("Set-Cookie"), "sid=") {
		t.Errorf("after its endpoint has gone the client comes to %s, cookie %q", second, header.Get("Set-Cookie"))
	}
	if _, header, _ = s.ask(client, "GET", "http://a.test/", nil); header.Get("Backend") != second {
		t.Errorf("then to %s, want %s", header.Get("Backend"), second)
	}
}

// TestEndpointChanges changes the endpoints a hundred times under load, and all
// routes as often: endpoints come, go while requests are on their way, and are
// known for a while after they stopped listening. No request may fail.
func TestEndpointChanges(t *testing.T) {
	s := newSite(t)
	s.cluster.addService("web")
	s.cluster.simple(t, "a.test", "Prefix", "/", "web")

	start := func() *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			time.Sleep(2 * time.Millisecond)
			_, _ = io.WriteString(w, "well")
		}))
	}
	var running []*httptest.Server
	publish := func() {
		var all []string
		for _, server := range running {
			all = append(all, server.Listener.Addr().String())
		}
		s.cluster.slices["default/web"] = endpointSlices("http", all...)
		s.pools.refresh("default", "web")
	}
	for range 3 {
		running = append(running, start())
	}
	publish()
	s.update()

	var asked, failed atomic.Int64
	var firstFailure atomic.Pointer[string]
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for i := range 8 {
		client, method := s.client(), []string{"GET", "POST"}[i%2]
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				asked.Add(1)
				if err := once(client, method); err != nil {
					failed.Add(1)
					text := err.Error()
					firstFailure.CompareAndSwap(nil, &text)
				}
			}
		})
	}
	for i := range 100 {
		old := running[0]
		running = append(running[1:], start())
		if i%10 == 9 {
			// This one stops listening before it is known to go.
			_ = old.Listener.Close()
			time.Sleep(5 * time.Millisecond)
		}
		publish()
		s.cluster.simple(t, "b"+strconv.Itoa(i)+".test", "Prefix", "/", "web")
		s.update()
		time.Sleep(20 * time.Millisecond) // as pods are given time to end
		old.Close()                       // waits for the requests it has
	}
	close(stop)
	workers.Wait()
	for _, server := range running {
		server.Close()
	}
	if text := firstFailure.Load(); text != nil {
		t.Errorf("%d of %d requests failed, the first: %s", failed.Load(), asked.Load(), *text)
	}
	if asked.Load() < 100 {
		t.Errorf("only %d requests were made", asked.Load())
	}
	t.Logf("%d requests during 100 changes", asked.Load())
}

func once(client *http.Client, method string) error {
	r, err := http.NewRequest(method, "http://a.test/", nil)
	if err != nil {
		return err
	}
	if method == "POST" {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader("body")), 4
	}
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || string(body) != "well") {
		err = errors.New(response.Status + " " + string(body))
	}
	return err
}

// BenchmarkChange makes the routes of 500 Ingresses anew, as after any change.
func BenchmarkChange(b *testing.B) {
	c := newFakeCluster()
	ca := newAuthority(b)
	for i := range 500 {
		n := strconv.Itoa(i)
		c.addService("web"+n, "10.0.0.1:80", "10.0.0.2:80")
		in := c.simple(b, "host"+n+".test", "Prefix", "/", "web"+n,
			"nginx.ingress.kubernetes.io/proxy-body-size", "8m", "ingress.kedge.io/redirect-https", "true")
		in.Spec.TLS = append(in.Spec.TLS, tlsEntry("tls"+n, "host"+n+".test"))
		c.secrets[objectName{"default", "tls" + n}] = ca.secret("tls"+n, "1", "host"+n+".test")
	}
	p, known := &pools{slices: c.slicesOf}, &parsed{}
	b.ReportAllocs()
	for b.Loop() {
		made := newBuild(c, p, known, func(string) *tls.Certificate { return nil }, &settings{})
		newTable(made.routes)
	}
}

// BenchmarkMatch finds a route among those of 500 Ingresses.
func BenchmarkMatch(b *testing.B) {
	c := newFakeCluster()
	c.addService("web", "10.0.0.1:80")
	for i := range 500 {
		c.simple(b, "host"+strconv.Itoa(i)+".test", "Prefix", "/", "web")
	}
	table, r := newTable(c.build().routes), request("GET", "http://host250.test/some/path")
	b.ReportAllocs()
	for b.Loop() {
		if table.match(r) == nil {
			b.Fatal("no route")
		}
	}
}
