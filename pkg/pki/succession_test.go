package pki

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/pkg/token"
)

// cluster makes the authorities of a cluster.
func cluster(t *testing.T) Layout {
	t.Helper()
	layout := NewLayout(t.TempDir())
	for _, dir := range layout.Dirs() {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for files, name := range layout.authorities() {
		if _, err := EnsureCA(files, name); err != nil {
			t.Fatal(err)
		}
	}
	return layout
}

// verify checks a chain as a client does that trusts a bundle.
func verify(chain, bundle []byte) error {
	certs := parseBundle(chain)
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	for _, cert := range certs[1:] {
		intermediates.AddCert(cert)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

func load(t *testing.T, files KeyPair) *CA {
	t.Helper()
	ca, err := LoadCA(files)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func sign(t *testing.T, ca *CA) []byte {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.Sign(Request{CommonName: "x", DNSNames: []string{"x"}}, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestSuccession(t *testing.T) {
	layout := cluster(t)
	first := load(t, layout.ServerCA())
	old := sign(t, first)
	pinned, err := token.New(first.Bundle, token.Node, "secret")
	if err != nil {
		t.Fatal(err)
	}
	var bundles [][]byte
	for range 2 {
		bundles = append(bundles, load(t, layout.ServerCA()).Bundle)
		files, err := layout.ReplaceAuthorities("", false)
		if err != nil || len(files) != 3 {
			t.Fatalf("%v, %v", files, err)
		}
	}
	second := load(t, layout.ServerCA())
	chain := sign(t, second)
	for i, bundle := range append(bundles, second.Bundle) {
		if err := verify(chain, bundle); err != nil {
			t.Errorf("who trusts bundle %d refuses a new certificate: %v", i, err)
		}
	}
	if err := verify(old, second.Bundle); err != nil {
		t.Errorf("an old certificate is refused: %v", err)
	}
	if err := pinned.VerifyCA(second.Bundle); err != nil {
		t.Errorf("an old token: %v", err)
	}
	// A bundle with somebody else's CA beside the known one is not the cluster's.
	stranger := load(t, cluster(t).ServerCA())
	if err := pinned.VerifyCA(append(stranger.Bundle, second.Bundle...)); err == nil {
		t.Error("a stranger's CA is taken with the cluster's")
	}

	files, err := layout.RetireAuthorities()
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	last := load(t, layout.ServerCA())
	if len(parseBundle(last.Bundle)) != 1 || verify(old, last.Bundle) == nil || verify(chain, last.Bundle) != nil || pinned.VerifyCA(last.Bundle) == nil {
		t.Error("the old authority is still trusted, or the new one is not")
	}
	if files, err := layout.RetireAuthorities(); err != nil || len(files) != 0 {
		t.Errorf("the second time: %v, %v", files, err)
	}
}

func TestOwnAuthorities(t *testing.T) {
	layout, theirs := cluster(t), cluster(t)
	dir := filepath.Dir(theirs.ServerCA().Cert)
	before := load(t, layout.ClientCA()).Bundle
	for _, files := range []KeyPair{theirs.ClientCA(), theirs.RequestHeaderCA()} {
		for _, file := range []string{files.Cert, files.Key} {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	trusted := load(t, layout.ServerCA()).Bundle
	files, err := layout.ReplaceAuthorities(dir, false)
	if err != nil || len(files) != 1 || files[0] != layout.ServerCA().Cert {
		t.Fatalf("%v, %v", files, err)
	}
	if err := verify(sign(t, load(t, layout.ServerCA())), trusted); err != nil {
		t.Errorf("who trusts the old CA refuses a certificate of the user's: %v", err)
	}
	if string(load(t, layout.ClientCA()).Bundle) != string(before) {
		t.Error("a CA that the user did not bring has changed")
	}
	if _, err := layout.ReplaceAuthorities(dir, false); err == nil || !strings.Contains(err.Error(), "has the key of") {
		t.Errorf("the same CA again: %v", err)
	}
	if err := os.Remove(theirs.ServerCA().Key); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{dir: "there is only one", t.TempDir(): "there is no CA"} {
		if _, err := layout.ReplaceAuthorities(dir, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
}

func TestClientAuthorityAlone(t *testing.T) {
	layout, theirs := cluster(t), cluster(t)
	dir := filepath.Dir(theirs.ServerCA().Cert)
	for _, file := range []string{theirs.ServerCA().Cert, theirs.ServerCA().Key} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	before := load(t, layout.ClientCA()).Bundle
	if _, err := layout.ReplaceAuthorities(dir, false); err == nil || !strings.Contains(err.Error(), "no server-ca.crt") {
		t.Errorf("got %v", err)
	}
	if string(load(t, layout.ClientCA()).Bundle) != string(before) {
		t.Error("the CA is replaced all the same")
	}
}
