// Package pki makes and keeps a cluster's certificate authorities, keys and
// certificates. Keys are ECDSA P-256; every file is written atomically, 0600.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"slices"
	"time"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	certLifetime = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is replaced.
	renewBefore = 120 * 24 * time.Hour
	// backdate makes certificates valid on machines whose clock lags.
	backdate = time.Hour

	keyMode = 0o600
)

// KeyPair names a certificate's files.
type KeyPair struct {
	Cert string
	Key  string
}

// CA is a certificate authority that can sign.
type CA struct {
	Files KeyPair
	// Certificate signs; Bundle is the whole PEM file, for those who trust it.
	Certificate *x509.Certificate
	Bundle      []byte

	key crypto.Signer
}

// Request says what a certificate is to attest.
type Request struct {
	CommonName   string
	Organization []string
	// DNSNames and IPs make it a serving certificate; without both it is
	// for clients.
	DNSNames []string
	IPs      []net.IP
	// Peer makes a serving certificate one for clients too.
	Peer bool
}

// EnsureCA loads the authority whose files exist, also when a user put them
// there, and otherwise makes one.
func EnsureCA(files KeyPair, commonName string) (*CA, error) {
	if err := Settle(files); err != nil {
		return nil, err
	}
	bundle, err := os.ReadFile(files.Cert)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(files.Key); err == nil {
			return nil, fmt.Errorf("%s exists but %s does not: put the CA certificate beside its key, or move the key away to have a new CA made", files.Key, files.Cert)
		}
		return createCA(files, commonName)
	}
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(files.Cert, bundle)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("%s is not a CA certificate (basicConstraints lacks CA:TRUE)", files.Cert)
	}
	if now := time.Now(); now.After(cert.NotAfter) {
		return nil, fmt.Errorf("the CA in %s expired on %s", files.Cert, cert.NotAfter.Format(time.DateOnly))
	}
	key, err := loadKey(files.Key)
	if err != nil {
		return nil, err
	}
	if !samePublicKey(cert.PublicKey, key.Public()) {
		return nil, fmt.Errorf("%s is not the key of %s", files.Key, files.Cert)
	}
	return &CA{Files: files, Certificate: cert, Bundle: bundle, key: key}, nil
}

// LoadCA is EnsureCA for an authority that must be there.
func LoadCA(files KeyPair) (*CA, error) {
	if _, err := os.Stat(files.Cert); err != nil {
		return nil, err
	}
	return EnsureCA(files, "")
}

// LoadCertificate reads the first certificate of a PEM file.
func LoadCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseCertificate(path, data)
}

func createCA(files KeyPair, commonName string) (*CA, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	ca, err := selfSigned(files, commonName, key)
	if err != nil {
		return nil, err
	}
	return ca, WritePair(files, ca.Bundle, key)
}

// selfSigned makes an authority and writes nothing.
func selfSigned(files KeyPair, commonName string, key crypto.Signer) (*CA, error) {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%s@%d", commonName, now.Unix())},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", commonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{Files: files, Certificate: cert, Bundle: encodePEM("CERTIFICATE", der), key: key}, nil
}

// EnsureCertificate makes files hold a certificate for req signed by ca. One
// that is there is kept while it is from this CA, says the same and is not
// near its end.
func (ca *CA) EnsureCertificate(files KeyPair, req Request) error {
	_, err := ca.Update(files, req)
	return err
}

// Update is EnsureCertificate, and reports whether it issued a certificate. The
// key stays the same, so that readers never find one that is not the
// certificate's.
func (ca *CA) Update(files KeyPair, req Request) (issued bool, err error) {
	if err := Settle(files); err != nil {
		return false, err
	}
	if ca.stillGood(files, req) {
		return false, nil
	}
	key, err := EnsureKey(files.Key)
	if err != nil {
		return false, err
	}
	chain, err := ca.Sign(req, key.Public())
	if err != nil {
		return false, err
	}
	return true, atomicfile.Write(files.Cert, chain, keyMode)
}

// WriteCertificate puts the certificate that signs, alone, at path.
func (ca *CA) WriteCertificate(path string) error {
	_, err := atomicfile.Update(path, encodePEM("CERTIFICATE", ca.Certificate.Raw), keyMode)
	return err
}

// Sign returns the PEM of a certificate for req and public, followed by those of
// the CA's bundle.
func (ca *CA) Sign(req Request, public crypto.PublicKey) ([]byte, error) {
	now := time.Now()
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if req.serving() {
		usage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if req.Peer {
			usage = append(usage, x509.ExtKeyUsageClientAuth)
		}
	}
	notAfter := now.Add(certLifetime)
	if ca.Certificate.NotAfter.Before(notAfter) {
		notAfter = ca.Certificate.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: req.CommonName, Organization: req.Organization},
		NotBefore:    laterOf(now.Add(-backdate), ca.Certificate.NotBefore),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  usage,
		DNSNames:     req.DNSNames,
		IPAddresses:  req.IPs,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate %q: %w", req.CommonName, err)
	}
	return append(encodePEM("CERTIFICATE", der), ca.chain()...), nil
}

func (ca *CA) stillGood(files KeyPair, req Request) bool {
	data, err := os.ReadFile(files.Cert)
	if err != nil {
		return false
	}
	cert, err := parseCertificate(files.Cert, data)
	if err != nil {
		return false
	}
	key, err := loadKey(files.Key)
	if err != nil || !samePublicKey(cert.PublicKey, key.Public()) {
		return false
	}
	return ca.vouches(cert, req)
}

// Vouches says whether a certificate and its key, both PEM, are from this CA, say
// what the request does, and are not near their end.
func (ca *CA) Vouches(chain, key []byte, req Request) bool {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return false
	}
	return ca.vouches(pair.Leaf, req)
}

func (ca *CA) vouches(cert *x509.Certificate, req Request) bool {
	return cert.CheckSignatureFrom(ca.Certificate) == nil &&
		time.Now().After(cert.NotBefore) && !Due(cert, ca.Certificate) && req.matches(cert)
}

func (r Request) serving() bool { return len(r.DNSNames) > 0 || len(r.IPs) > 0 }

func (r Request) matches(cert *x509.Certificate) bool {
	return cert.Subject.CommonName == r.CommonName &&
		sameSet(cert.Subject.Organization, r.Organization) &&
		sameSet(cert.DNSNames, r.DNSNames) &&
		sameSet(addresses(cert.IPAddresses), addresses(r.IPs))
}

// EnsureKey loads the private key at path, or makes one.
func EnsureKey(path string) (crypto.Signer, error) {
	key, err := LoadOrNewKey(path)
	if err != nil {
		return nil, err
	}
	return key, WriteKey(path, key)
}

// LoadOrNewKey loads the private key at path, or makes one and writes nothing.
func LoadOrNewKey(path string) (crypto.Signer, error) {
	key, err := loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	return NewKey()
}

// NewKey makes a private key.
func NewKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// WriteKey keeps a key at path, unless a key is there already.
func WriteKey(path string, key crypto.Signer) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	text, err := EncodeKey(key)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, text, keyMode)
}

// EncodeKey returns the PEM of a private key.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	if own, ok := key.(*ecdsa.PrivateKey); ok {
		// The one form in which Kubernetes takes a private key for a public one.
		der, err := x509.MarshalECPrivateKey(own)
		return encodePEM("EC PRIVATE KEY", der), err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return encodePEM("PRIVATE KEY", der), err
}

func loadKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM private key", path)
	}
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return key, nil
	case "RSA PRIVATE KEY":
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return key, nil
	default:
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("%s: a %T can't sign", path, key)
		}
		return signer, nil
	}
}

func parseCertificate(path string, data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func samePublicKey(a, b crypto.PublicKey) bool {
	aDER, errA := x509.MarshalPKIXPublicKey(a)
	bDER, errB := x509.MarshalPKIXPublicKey(b)
	return errA == nil && errB == nil && bytes.Equal(aDER, bDER)
}

// serial is 127 random bits: unique, and positive as RFC 5280 4.1.2.2 asks.
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

func addresses(ips []net.IP) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.String()
	}
	return out
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
