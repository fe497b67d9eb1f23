package pki

import (
	"crypto/x509"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newCA(t *testing.T) (*CA, string) {
	t.Helper()
	dir := t.TempDir()
	ca, err := EnsureCA(KeyPair{Cert: filepath.Join(dir, "ca.crt"), Key: filepath.Join(dir, "ca.key")}, "test-ca")
	if err != nil {
		t.Fatal(err)
	}
	return ca, dir
}

func TestCAIsKept(t *testing.T) {
	ca, _ := newCA(t)
	again, err := EnsureCA(ca.Files, "other-name")
	if err != nil {
		t.Fatal(err)
	}
	if !again.Certificate.Equal(ca.Certificate) {
		t.Error("an existing CA was replaced")
	}
	if age := time.Since(ca.Certificate.NotBefore); age < 59*time.Minute {
		t.Errorf("valid only since %s ago, want an hour", age)
	}
	for _, file := range []string{ca.Files.Cert, ca.Files.Key} {
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", file, info.Mode(), err)
		}
	}
}

// TestCAIsMadeWhole ends the making of a CA before its certificate is written. What
// is left must not keep the next start from making one.
func TestCAIsMadeWhole(t *testing.T) {
	dir := t.TempDir()
	files := KeyPair{Cert: filepath.Join(dir, "absent", "ca.crt"), Key: filepath.Join(dir, "ca.key")}
	if _, err := EnsureCA(files, "ca"); err == nil {
		t.Fatal("a certificate is written where there is no directory")
	}
	if err := os.Mkdir(filepath.Dir(files.Cert), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureCA(files, "ca"); err != nil {
		t.Errorf("the second time: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.new")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestBadCAIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, ca *CA)
		want  string
	}{
		"key without certificate": {func(t *testing.T, ca *CA) { remove(t, ca.Files.Cert) }, "put the CA certificate beside its key"},
		"certificate without key": {func(t *testing.T, ca *CA) { remove(t, ca.Files.Key) }, "no such file"},
		"other key": {func(t *testing.T, ca *CA) {
			remove(t, ca.Files.Key)
			if _, err := EnsureKey(ca.Files.Key); err != nil {
				t.Fatal(err)
			}
		}, "is not the key of"},
		"garbage": {func(t *testing.T, ca *CA) {
			if err := os.WriteFile(ca.Files.Cert, []byte("garbage"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "holds no PEM certificate"},
		"not a CA": {func(t *testing.T, ca *CA) {
			key, err := loadKey(ca.Files.Key)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := ca.Sign(Request{CommonName: "leaf"}, key.Public())
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(ca.Files.Cert, leaf, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is not a CA certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			ca, _ := newCA(t)
			tc.spoil(t, ca)
			if _, err := EnsureCA(ca.Files, "test-ca"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestCertificateIsRenewedWhenItMust(t *testing.T) {
	ca, dir := newCA(t)
	files := KeyPair{Cert: filepath.Join(dir, "a.crt"), Key: filepath.Join(dir, "a.key")}
	req := Request{CommonName: "server", DNSNames: []string{"a", "b"}, IPs: []net.IP{net.IPv4(192, 0, 2, 1)}}
	issue := func(ca *CA, req Request) string {
		t.Helper()
		if err := ca.EnsureCertificate(files, req); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(files.Cert)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := issue(ca, req)
	reordered := req
	reordered.DNSNames = []string{"b", "a"}
	if issue(ca, reordered) != first {
		t.Error("a certificate that says the same was replaced")
	}
	more := req
	more.IPs = append(more.IPs, net.IPv4(192, 0, 2, 2))
	second := issue(ca, more)
	if second == first {
		t.Error("a certificate without a new address was kept")
	}
	other, _ := newCA(t)
	if issue(other, more) == second {
		t.Error("a certificate of another CA was kept")
	}
	cert, err := parseCertificate(files.Cert, []byte(issue(other, more)))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(other.Certificate)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "192.0.2.2"}); err != nil {
		t.Error(err)
	}
}

func TestClientCertificateCantServe(t *testing.T) {
	ca, dir := newCA(t)
	files := KeyPair{Cert: filepath.Join(dir, "c.crt"), Key: filepath.Join(dir, "c.key")}
	if err := ca.EnsureCertificate(files, Request{CommonName: "system:kube-scheduler"}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCertificate(files.Cert, data)
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("usages are %v, want client authentication only", cert.ExtKeyUsage)
	}
}

func TestKubeconfig(t *testing.T) {
	ca, dir := newCA(t)
	files := KeyPair{Cert: filepath.Join(dir, "c.crt"), Key: filepath.Join(dir, "c.key")}
	if err := ca.EnsureCertificate(files, Request{CommonName: "admin"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "kubeconfig")
	kubeconfig := Kubeconfig{Server: "https://192.0.2.1:6443", CA: ca.Files.Cert, Client: files}
	for name, write := range map[string]struct {
		do   func(string, fs.FileMode) error
		want string
	}{
		"files":    {kubeconfig.Write, "client-certificate: \"" + files.Cert + "\"\n"},
		"embedded": {kubeconfig.WriteEmbedded, "client-certificate-data: \"LS0t"},
	} {
		if err := write.do(path, 0o640); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(data), "server: \"https://192.0.2.1:6443\"\n") || !strings.Contains(string(data), write.want) {
			t.Errorf("%s: kubeconfig is %q, %v", name, data, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v, %v; want 0640", info.Mode(), err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestVouches(t *testing.T) {
	dir := t.TempDir()
	pair := func(name string) KeyPair {
		return KeyPair{Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
	}
	ca, err := EnsureCA(pair("ca"), "ca")
	if err != nil {
		t.Fatal(err)
	}
	other, err := EnsureCA(pair("other"), "ca")
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	request := Request{CommonName: "a", DNSNames: []string{"a.example"}}
	chain, err := ca.Sign(request, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	text, err := EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		ca         *CA
		chain, key []byte
		request    Request
		want       bool
	}{
		"its own":      {ca, chain, text, request, true},
		"another CA's": {other, chain, text, request, false},
		"other names":  {ca, chain, text, Request{CommonName: "a", DNSNames: []string{"b.example"}}, false},
		"nothing":      {ca, nil, nil, request, false},
		"another key":  {ca, chain, []byte("x"), request, false},
	} {
		if got := test.ca.Vouches(test.chain, test.key, test.request); got != test.want {
			t.Errorf("%s: got %t, want %t", name, got, test.want)
		}
	}
}

// TestLinkKubeconfig follows the choice of where the kubeconfig is.
func TestLinkKubeconfig(t *testing.T) {
	dir := t.TempDir()
	usual, first, second := filepath.Join(dir, "kedge", "kedge.yaml"), filepath.Join(dir, "first"), filepath.Join(dir, "second")
	for _, test := range []struct{ wanted, link string }{
		{usual, ""}, {first, first}, {first, first}, {second, second}, {usual, ""}, {first, first},
	} {
		if err := LinkKubeconfig(usual, test.wanted); err != nil {
			t.Fatal(err)
		}
		if link, _ := os.Readlink(usual); link != test.link {
			t.Errorf("for %s the usual place leads to %q, want %q", test.wanted, link, test.link)
		}
	}
	// A kubeconfig of an earlier run is in the way of a link, and stays where none is wanted.
	for _, test := range []struct{ wanted, content string }{{usual, "old"}, {first, "new"}} {
		if err := os.Remove(usual); err != nil {
			t.Fatal(err)
		}
		for path, content := range map[string]string{usual: "old", first: "new"} {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := LinkKubeconfig(usual, test.wanted); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(usual); err != nil || string(content) != test.content {
			t.Errorf("for %s it holds %q, error %v", test.wanted, content, err)
		}
	}
}
