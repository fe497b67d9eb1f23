package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/token"
	"github.com/kedge-k8s/kedge/pkg/version"
)

const secret = "0123456789abcdef0123456789abcdef"

// fakeStore is a cluster's tokens and machines in memory.
type fakeStore struct {
	token token.Token
	down  bool

	mu       sync.Mutex
	machines map[string]string
}

func (s *fakeStore) Check(_ context.Context, t token.Token) error {
	if s.down {
		return errors.New("the apiserver is starting")
	}
	if !s.token.Equal(t) {
		return ErrUnknownToken
	}
	return nil
}

func (s *fakeStore) IsServer(t token.Token) bool { return t.User == token.Server && s.token.Equal(t) }

func (s *fakeStore) Claim(_ context.Context, node, secret string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hash := s.machines[node]; hash != "" && !SecretMatches(hash, secret) {
		return ErrNameTaken
	}
	s.machines[node] = HashSecret(secret)
	return nil
}

func (s *fakeStore) Confirm(_ context.Context, node, secret string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch hash := s.machines[node]; {
	case hash == "":
		return ErrUnclaimed
	case !SecretMatches(hash, secret):
		return ErrNameTaken
	}
	return nil
}

// fixture is a server that nodes can join.
type fixture struct {
	*httptest.Server
	store    *fakeStore
	handler  *Handler
	serverCA *pki.CA
	clientCA *pki.CA
}

var cluster = Cluster{
	Version:      version.Version,
	ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
	ClusterDNS: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, ClusterDomain: "cluster.local",
	FlannelBackend: "vxlan", EgressMode: "agent", NetworkPolicy: true, Servers: []string{"192.0.2.1:6443", "192.0.2.2:6443", "[2001:db8::2]:6443"},
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	ca := func(name string) *pki.CA {
		ca, err := pki.EnsureCA(pki.KeyPair{Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}, name)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	f := &fixture{serverCA: ca("server-ca"), clientCA: ca("client-ca")}
	valid, err := token.New(nil, token.Node, "joinsecret")
	if err != nil {
		t.Fatal(err)
	}
	f.store = &fakeStore{token: valid, machines: map[string]string{}}
	key := newKey(t)
	chain, err := f.serverCA.Sign(pki.Request{CommonName: "kube-apiserver", DNSNames: []string{"kubernetes", "kubernetes.default.svc", "server-1"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(192, 0, 2, 1), net.IPv4(10, 43, 0, 1)}}, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	serving := certificate(t, chain, key)
	f.handler = NewHandler(Config{
		Cluster: func() Cluster { return cluster }, ServerCA: f.serverCA, ClientCA: f.clientCA, Apiserver: serving.Leaf,
		Tokens: f.store, Machines: f.store, Log: slog.New(slog.DiscardHandler),
	})
	f.Server = httptest.NewUnstartedServer(f.handler.InFrontOf(http.NotFoundHandler()))
	f.TLS = &tls.Config{Certificates: []tls.Certificate{serving}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certificate(t *testing.T, chain []byte, key *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (f *fixture) client(t *testing.T, text string) *Client {
	t.Helper()
	c := &Client{Servers: []string{strings.TrimPrefix(f.URL, "https://")}, Log: slog.New(slog.DiscardHandler)}
	if text != "" {
		var err error
		if c.Token, err = token.Parse(text); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (f *fixture) token(t *testing.T) string {
	t.Helper()
	text, err := token.Format(f.serverCA.Bundle, token.Node, "joinsecret")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func keys(t *testing.T) Keys {
	k := Keys{}
	for _, identity := range Identities() {
		k[identity] = newKey(t)
	}
	return k
}

var names = Names{DNS: []string{"node-1"}, IPs: []net.IP{net.IPv4(192, 0, 2, 11)}}

func TestJoin(t *testing.T) {
	f := newFixture(t)
	c := f.client(t, f.token(t))
	if err := c.FindCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := c.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, cluster) {
		t.Errorf("the cluster is %+v, want %+v", got, cluster)
	}
	k := keys(t)
	certs, err := c.Certificates(t.Context(), "node-1", secret, k, names)
	if err != nil {
		t.Fatal(err)
	}
	for identity, want := range map[Identity]struct {
		user, group string
		ca          *pki.CA
	}{
		Kubelet:   {"system:node:node-1", "system:nodes", f.clientCA},
		KubeProxy: {"system:kube-proxy", "", f.clientCA},
		Agent:     {"system:kedge:node:node-1", AgentGroup, f.clientCA},
		Serving:   {"system:node:node-1", "", f.serverCA},
	} {
		cert := certificate(t, []byte(certs.Issued[identity]), k[identity].(*ecdsa.PrivateKey)).Leaf
		if cert.Subject.CommonName != want.user || strings.Join(cert.Subject.Organization, ",") != want.group {
			t.Errorf("%s is for %s", identity, cert.Subject)
		}
		if err := cert.CheckSignatureFrom(want.ca.Certificate); err != nil {
			t.Errorf("%s: %v", identity, err)
		}
	}

	// The certificate takes the place of the token.
	own := certificate(t, []byte(certs.Issued[Agent]), k[Agent].(*ecdsa.PrivateKey))
	again := f.client(t, "")
	again.CA, again.Certificate = []byte(certs.ServerCA), &own
	if _, err := again.Cluster(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := again.Certificates(t.Context(), "node-1", secret, keys(t), names); err != nil {
		t.Error(err)
	}
	if _, err := again.Certificates(t.Context(), "node-2", secret, keys(t), names); err == nil {
		t.Error("a node got the certificates of another one")
	}

	// Not when the node was deleted: then it takes a token.
	delete(f.store.machines, "node-1")
	if _, err := again.Certificates(t.Context(), "node-1", secret, keys(t), names); err == nil || !strings.Contains(err.Error(), "was deleted from the cluster") {
		t.Errorf("a deleted node asks with its certificate: %v", err)
	}
	if len(f.store.machines) > 0 {
		t.Error("a deleted node has its name again")
	}
	again.Token, err = token.Parse("K10" + token.HashCA(f.serverCA.Bundle) + "::node:wrong")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Certificates(t.Context(), "node-1", secret, keys(t), names); err == nil || !strings.Contains(err.Error(), "not, or no longer, one of this cluster") {
		t.Errorf("a deleted node asks with a wrong token: %v", err)
	}
	again.Token = c.Token
	if _, err := again.Certificates(t.Context(), "node-1", secret, keys(t), names); err != nil {
		t.Errorf("a deleted node joins again with a token: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	f := newFixture(t)
	f.store.machines["taken"] = HashSecret("another machine's secret, 32 and more")
	other := newFixture(t)
	join := func(text, node string, n Names) error {
		c := f.client(t, text)
		if err := c.FindCA(t.Context()); err != nil {
			return err
		}
		if _, err := c.Cluster(t.Context()); err != nil {
			return err
		}
		_, err := c.Certificates(t.Context(), node, secret, keys(t), n)
		return err
	}
	for name, test := range map[string]struct {
		token, node string
		names       Names
		want        string
	}{
		"wrong secret":                         {"K10" + token.HashCA(f.serverCA.Bundle) + "::node:wrong", "node-1", names, "not, or no longer, one of this cluster"},
		"bare wrong secret":                    {"wrong", "node-1", names, "not, or no longer, one of this cluster"},
		"expired bootstrap":                    {"abcdef.0123456789abcdef", "node-1", names, "not, or no longer, one of this cluster"},
		"another cluster":                      {other.token(t), "node-1", names, "impersonates"},
		"stolen name":                          {f.token(t), "taken", names, `kubectl delete node taken`},
		"bad name":                             {f.token(t), "Node_1", names, `"Node_1"`},
		"apiserver's name":                     {f.token(t), "node-1", Names{DNS: []string{"kubernetes"}}, "a server's"},
		"apiserver's address":                  {f.token(t), "node-1", Names{IPs: []net.IP{net.IPv4(192, 0, 2, 1)}}, "a server's"},
		"a name of the apiserver's as its own": {f.token(t), "kubernetes.default.svc", Names{DNS: []string{"kubernetes.default.svc"}}, "a server's"},
		"another server's address":             {f.token(t), "node-1", Names{IPs: []net.IP{net.IPv4(192, 0, 2, 2)}}, "a server's"},
		"another server's IPv6 address":        {f.token(t), "node-1", Names{IPs: []net.IP{net.ParseIP("2001:db8::2")}}, "a server's"},
		"address as its own name":              {f.token(t), "10.43.0.1", Names{DNS: []string{"10.43.0.1"}}, `"10.43.0.1"`},
		"address as a name":                    {f.token(t), "node-1", Names{DNS: []string{"10.43.0.1"}}, "no host name"},
		"wildcard":                             {f.token(t), "node-1", Names{DNS: []string{"*.default.svc"}}, "no host name"},
		"final dot":                            {f.token(t), "node-1", Names{DNS: []string{"kubernetes."}}, "no host name"},
		"capitals":                             {f.token(t), "node-1", Names{DNS: []string{"Kubernetes"}}, "a server's"},
		"loopback address":                     {f.token(t), "node-1", Names{IPs: []net.IP{net.IPv4(127, 0, 0, 2)}}, "127.0.0.2"},
		"no names":                             {f.token(t), "node-1", Names{}, "no names"},
		"without token's secret":               {"", "node-1", names, "neither a token nor"},
	} {
		t.Run(name, func(t *testing.T) {
			err := join(test.token, test.node, test.names)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "joinsecret") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestBareSecretJoins(t *testing.T) {
	f := newFixture(t)
	var log strings.Builder
	c := f.client(t, "joinsecret")
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	if err := c.FindCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Cluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || strings.Contains(log.String(), "joinsecret") {
		t.Errorf("want a warning without the secret, got %s", &log)
	}
}

func TestWaitsForServer(t *testing.T) {
	f := newFixture(t)
	f.store.down = true
	c := f.client(t, f.token(t))
	if err := c.FindCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var log strings.Builder
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	_, err := c.Cluster(ctx)
	if err == nil || !strings.Contains(err.Error(), "the apiserver is starting") {
		t.Errorf("got %v", err)
	}
	if n := strings.Count(log.String(), "waiting for a server"); n != 1 {
		t.Errorf("%d lines say what is waited for:\n%s", n, &log)
	}
}

func TestMachineSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node", "password")
	first, err := MachineSecret(path)
	if err != nil || len(first) < minSecret {
		t.Fatalf("got %d characters, %v", len(first), err)
	}
	second, err := MachineSecret(path)
	if err != nil || second != first {
		t.Errorf("the secret has changed, %v", err)
	}
	hash := HashSecret(first)
	if !SecretMatches(hash, first) || SecretMatches(hash, first+"x") || SecretMatches("", "") || strings.Contains(hash, first) {
		t.Errorf("hash %s", hash)
	}
}
