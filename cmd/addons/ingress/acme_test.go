package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddypki/acmeserver"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	"github.com/caddyserver/certmagic"
	"github.com/smallstep/certificates/acme"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestStorage(t *testing.T) {
	s := &secretStorage{secrets: fake.NewClientset().CoreV1().Secrets("kube-system")}
	ctx := t.Context()
	if _, err := s.Load(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load what is not there: %v", err)
	}
	for path, content := range map[string]string{"a/b/c.txt": "one", "a/b/d@e.txt": "two", "a/f": "three"} {
		if err := s.Store(ctx, path, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Load(ctx, "a/b/d@e.txt"); err != nil || string(got) != "two" {
		t.Errorf("load: %q, %v", got, err)
	}
	if got, err := s.List(ctx, "a", false); err != nil || !slices.Equal(got, []string{"a/b", "a/f"}) {
		t.Errorf("list: %q, %v", got, err)
	}
	if got, err := s.List(ctx, "a", true); err != nil || !slices.Equal(got, []string{"a/b", "a/b/c.txt", "a/b/d@e.txt", "a/f"}) {
		t.Errorf("list all: %q, %v", got, err)
	}
	if info, err := s.Stat(ctx, "a/f"); err != nil || !info.IsTerminal || info.Size != 5 || time.Since(info.Modified) > time.Hour {
		t.Errorf("stat: %+v, %v", info, err)
	}
	if info, err := s.Stat(ctx, "a/b"); err != nil || info.IsTerminal {
		t.Errorf("stat of a directory: %+v, %v", info, err)
	}
	if err := s.Delete(ctx, "a/b"); err != nil || s.Exists(ctx, "a/b/c.txt") || !s.Exists(ctx, "a/f") {
		t.Errorf("delete a directory: %v", err)
	}
	if err := s.Lock(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := s.Lock(short, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("lock what is locked: %v", err)
	}
	if err := s.Unlock(ctx, "x"); err != nil {
		t.Error(err)
	}
}

// TestACME has Caddy's own ACME server, in the same process, certify a host whose
// challenges are answered here.
func TestACME(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	s := newSite(t)
	ca := freePort(t)
	_, caPort, _ := net.SplitHostPort(ca)
	acme.InsecurePortHTTP01 = portOf(s.http)
	t.Cleanup(func() { acme.InsecurePortHTTP01 = 0 })

	// The same Caddy with one more server.
	raw, err := caddyConfig(listen{http: s.http, https: s.https, grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var config object
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	apps := config["apps"].(map[string]any)
	apps["pki"] = object{"certificate_authorities": object{"local": object{"install_trust": false}}}
	apps["http"].(map[string]any)["servers"].(map[string]any)["ca"] = object{
		"listen": []string{ca}, "automatic_https": object{"disable": true},
		"tls_connection_policies": []any{object{}}, "protocols": []string{"h1"},
		"routes": []any{object{"handle": []any{object{"handler": "acme_server", "host": "localhost:" + caPort}}}},
	}
	config["storage"] = object{"module": "file_system", "root": t.TempDir()}
	if raw, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(raw, true); err != nil {
		t.Fatal(err)
	}

	client := fake.NewClientset()
	var mu sync.Mutex
	var failures []string
	a := &acmeClient{
		storage: &secretStorage{secrets: client.CoreV1().Secrets("kube-system")}, httpPort: portOf(s.http),
		failed: func(name string, err error) {
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, acmeProblem(name, "the server", err))
		},
	}
	answer := a.answer
	s.live.challenge.Store(&answer)
	s.settings = &settings{acme: acmeSettings{server: "https://localhost:" + caPort + "/acme/local/directory", ca: string(s.ca.pem)}}
	// The server's own certificate, as that of an Ingress.
	c := s.cluster
	c.addService("web", echo(t, "web"))
	c.secrets[objectName{"default", "ca"}] = s.ca.secret("ca", "1", "localhost")
	withCA := c.addIngress(t, `{metadata: {name: ca}, spec: {tls: [{hosts: [localhost], secretName: ca}], defaultBackend: {service: {name: web, port: {number: 80}}}}}`)
	s.update()
	if err := a.configure(s.settings.acme); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.stop()
	})

	wanted := c.simple(t, "localhost", "Prefix", "/", "web", "ingress.kedge.io/acme", "true")
	b := s.update()
	if names := sortedKeys(b.acmeNames); !slices.Equal(names, []string{"localhost"}) || len(b.problems(wanted.Name)) > 0 {
		t.Fatalf("certificates are asked for %q, problems %q", names, b.problems(wanted.Name))
	}
	a.manage(t.Context(), []string{"localhost"}, true)
	var pair *tls.Certificate
	for limit := time.Now().Add(time.Minute); pair == nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			mu.Lock()
			t.Fatalf("no certificate; %s", strings.Join(failures, "\n"))
		}
		secret, err := client.CoreV1().Secrets("kube-system").Get(t.Context(), acmeSecret, metav1.GetOptions{})
		if err != nil {
			continue
		}
		if pair, err = a.certificate(storedFiles(secret), "localhost"); err != nil {
			t.Fatal(err)
		}
	}
	if got := pair.Leaf.DNSNames; !slices.Equal(got, []string{"localhost"}) || !strings.Contains(pair.Leaf.Issuer.CommonName, "Caddy Local Authority") {
		t.Errorf("the certificate is for %q, from %s", got, pair.Leaf.Issuer)
	}
	// It is served, in place of the first one, whose Ingress goes.
	c.list = slices.DeleteFunc(c.ingresses(), func(i *networkingv1.Ingress) bool { return i == withCA })
	made := newBuild(c, s.pools, &s.parsed, func(string) *tls.Certificate { return pair }, s.settings)
	s.live.certificates.Store(&certificates{byName: made.certificates, fallback: s.live.certificates.Load().fallback})
	connection, err := tls.Dial("tcp", s.https, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	if !connection.ConnectionState().PeerCertificates[0].Equal(pair.Leaf) {
		t.Error("another certificate is served")
	}
}

// TestACMEOffByDefault: nobody is asked for certificates unless settings name a server.
func TestACMEOffByDefault(t *testing.T) {
	a := &acmeClient{failed: func(name string, err error) { t.Error(name, err) }}
	if err := a.configure(acmeSettings{}); err != nil {
		t.Fatal(err)
	}
	a.manage(t.Context(), []string{"a.test"}, true)
	if a.config != nil || a.answer(nil, request("GET", "http://a.test/.well-known/acme-challenge/x")) {
		t.Error("there is a client of an ACME server")
	}
	if err := a.configure(acmeSettings{server: "https://x/", ca: "nonsense"}); err == nil || err.Error() != "acme-ca has no certificate in PEM form" {
		t.Errorf("a CA that is none: %v", err)
	}
}

// TestChallengeOfAnybody: challenges are looked for in the informer's copy alone, and
// for the hosts alone that ask for certificates.
func TestChallengeOfAnybody(t *testing.T) {
	client := fake.NewClientset()
	var known atomic.Pointer[corev1.Secret]
	storage := &secretStorage{secrets: client.CoreV1().Secrets("kube-system"), copied: known.Load}
	a := &acmeClient{storage: storage, failed: func(string, error) {}}
	if err := a.configure(acmeSettings{server: "https://ca.test/directory"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.stop()
	})
	a.manage(t.Context(), []string{"a.test"}, false)
	ask := func(host string) string {
		w := httptest.NewRecorder()
		if !a.answer(w, request("GET", "http://"+host+"/.well-known/acme-challenge/token")) {
			return ""
		}
		return w.Body.String()
	}
	for _, host := range []string{"a.test", "b.test"} {
		if got := ask(host); got != "" {
			t.Errorf("%s: %s", host, got)
		}
	}
	if len(client.Actions()) > 0 {
		t.Errorf("who asks for a challenge has the cluster asked: %v", client.Actions())
	}
	// Another pod makes challenges.
	for _, host := range []string{"a.test", "b.test"} {
		content := `{"type": "http-01", "token": "token", "keyAuthorization": "token.key", "identifier": {"type": "dns", "value": "` + host + `"}}`
		if err := storage.Store(t.Context(), "acme/"+certmagic.StorageKeys.Safe(a.issuer.IssuerKey())+"/challenge_tokens/"+host+".json", []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	time.AfterFunc(2*copyInterval, func() { // the informer is a little late
		secret, err := storage.get(context.Background())
		if err != nil {
			t.Error(err)
		}
		known.Store(secret)
	})
	if got := ask("a.test"); got != "token.key" {
		t.Errorf("the challenge is answered with %q", got)
	}
	if got := ask("b.test"); got != "" {
		t.Errorf("the challenge of a host that asks for none is answered with %q", got)
	}
}

func TestCleanStorage(t *testing.T) {
	storage := &secretStorage{secrets: fake.NewClientset().CoreV1().Secrets("kube-system")}
	a := &acmeClient{storage: storage, failed: func(string, error) {}}
	if err := a.configure(acmeSettings{server: "https://ca.test/directory"}); err != nil {
		t.Fatal(err)
	}
	a.wanted = map[string]bool{"wanted.test": true}
	ca := newAuthority(t)
	valid := ca.secret("valid", "1", "valid.test").Data["tls.crt"]
	ended := endedCertificate(t)
	key := a.issuer.IssuerKey()
	for name, chain := range map[string][]byte{"wanted.test": ended, "valid.test": valid, "ended.test": ended, "nonsense.test": []byte("nonsense")} {
		for file, content := range map[string][]byte{
			certmagic.StorageKeys.SiteCert(key, name): chain, certmagic.StorageKeys.SitePrivateKey(key, name): []byte("key"),
		} {
			if err := storage.Store(t.Context(), file, content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := storage.Store(t.Context(), "acme/account.crt", ended); err != nil {
		t.Fatal(err)
	}
	secret, err := storage.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.clean(t.Context(), storedFiles(secret))
	for limit := time.Now().Add(10 * time.Second); storage.Exists(t.Context(), certmagic.StorageKeys.SiteCert(key, "ended.test")); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("an old certificate of a name that nobody wants stays")
		}
	}
	if secret, err = storage.get(t.Context()); err != nil || len(secret.Data) != 7 {
		t.Errorf("%d files are left, want 7; %v", len(secret.Data), err)
	}
}

// endedCertificate is one that has ended, PEM.
func endedCertificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
