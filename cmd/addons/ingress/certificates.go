package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(CertificateGetter{})
}

// certificates are those of all hosts, by name. A change makes another set.
type certificates struct {
	byName   map[string]*tls.Certificate // *.example.com stands for the names one level below
	fallback *tls.Certificate            // for all others
}

// find gives the certificate for the name that a client asks for.
func (c *certificates) find(name string) *tls.Certificate {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if found := c.byName[name]; found != nil {
		return found
	}
	for labels, rest := 1, name; ; labels++ {
		dot := strings.IndexByte(rest, '.')
		if dot < 0 {
			break
		}
		rest = rest[dot:]
		found := c.byName["*"+rest]
		// Deeper names are those of a Gateway's listener.
		if found != nil && (labels == 1 || c.byName["**"+rest] != nil) {
			return found
		}
		rest = rest[1:]
	}
	if found := c.byName[""]; found != nil {
		return found
	}
	return c.fallback
}

// CertificateGetter is the Caddy module that finds the certificate for a TLS
// handshake among the live ones.
type CertificateGetter struct{ live *live }

// CaddyModule says how Caddy makes the module.
func (CertificateGetter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "tls.get_certificate.kedge_ingress", New: func() caddy.Module { return new(CertificateGetter) }}
}

// Provision finds the live certificates.
func (g *CertificateGetter) Provision(caddy.Context) error {
	g.live = current.Load()
	return nil
}

// GetCertificate gives the certificate for a handshake; there always is one.
func (g *CertificateGetter) GetCertificate(_ context.Context, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return g.live.certificates.Load().find(hello.ServerName), nil
}

// parsePair reads a certificate and its key.
func parsePair(certificate, key []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}

// names are those that a certificate is for.
func names(c *tls.Certificate) []string {
	found := make([]string, 0, len(c.Leaf.DNSNames)+1)
	for _, name := range c.Leaf.DNSNames {
		found = append(found, strings.ToLower(name))
	}
	if len(found) == 0 && c.Leaf.Subject.CommonName != "" {
		found = append(found, strings.ToLower(c.Leaf.Subject.CommonName))
	}
	return found
}

// selfSigned makes the certificate for hosts that have none.
func selfSigned() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "Kedge ingress: no certificate for this host"},
		DNSNames:     []string{"ingress.invalid"},
		NotBefore:    now.Add(-24 * time.Hour), // clocks differ
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate for hosts that have none: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
