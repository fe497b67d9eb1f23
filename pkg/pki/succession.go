package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// minCALifetime is what is left at least of an authority that a user brings.
const minCALifetime = 30 * 24 * time.Hour

// authorities are those that can be replaced, with the names that new ones get.
func (l Layout) authorities() map[KeyPair]string {
	return map[KeyPair]string{
		l.ServerCA():        "kedge-server-ca",
		l.ClientCA():        "kedge-client-ca",
		l.RequestHeaderCA(): "kedge-request-header-ca",
	}
}

// succession is an authority that takes the place of another.
type succession struct {
	files  KeyPair
	next   *CA
	bundle []byte
}

// ReplaceAuthorities puts new authorities in the place of the old ones: those in
// dir, named as the layout names them, or, without a dir, ones that are made. Each
// is cross-signed by its predecessor, and the bundles hold both, so that who
// trusts only the old authority, or has a certificate of it, goes on. With force
// this is given up where the predecessor can't sign. It returns the files that are
// new. Certificates are issued anew at the next start.
func (l Layout) ReplaceAuthorities(dir string, force bool) ([]string, error) {
	if dir != "" {
		if err := l.checkOwn(dir); err != nil {
			return nil, err
		}
	}
	var all []succession
	for files, name := range l.authorities() {
		next, err := nextCA(files, name, dir)
		if err != nil {
			return nil, err
		}
		if next == nil {
			continue // the user brings others
		}
		bundle, err := succeed(files, next)
		if err != nil && !force {
			return nil, fmt.Errorf("%w; --force replaces it all the same, and then every node has to join again", err)
		}
		if err != nil {
			bundle = next.Bundle
		}
		all = append(all, succession{files, next, bundle})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no CA in %s: put server-ca.crt and server-ca.key there, and client-ca and request-header-ca too if they are to be replaced", dir)
	}
	var changed []string
	for _, s := range all {
		if err := WritePair(s.files, s.bundle, s.next.key); err != nil {
			return changed, err
		}
		changed = append(changed, s.files.Cert)
	}
	return changed, nil
}

// checkOwn refuses to replace the authority of clients alone: it is by a new one of
// servers that nodes notice, and ask for certificates of both.
func (l Layout) checkOwn(dir string) error {
	has := func(files KeyPair) bool {
		_, err := os.Stat(filepath.Join(dir, filepath.Base(files.Cert)))
		return err == nil
	}
	if has(l.ClientCA()) && !has(l.ServerCA()) {
		return fmt.Errorf("there is a client-ca.crt in %s but no server-ca.crt, by which the nodes would notice: put server-ca.crt and server-ca.key there too", dir)
	}
	return nil
}

// nextCA is a new authority, or the one that the user has put into dir; nil if
// there is none.
func nextCA(files KeyPair, name, dir string) (*CA, error) {
	if dir == "" {
		return makeCA(name)
	}
	given := KeyPair{Cert: filepath.Join(dir, filepath.Base(files.Cert)), Key: filepath.Join(dir, filepath.Base(files.Key))}
	next, err := LoadCA(given)
	if errors.Is(err, fs.ErrNotExist) {
		for _, file := range []string{given.Cert, given.Key} {
			if _, err := os.Stat(file); err == nil {
				return nil, fmt.Errorf("of %s and %s there is only one: put both there", given.Cert, given.Key)
			}
		}
		return nil, nil //nolint:nilnil // said above
	}
	if err != nil {
		return nil, err
	}
	if left := time.Until(next.Certificate.NotAfter); left < minCALifetime {
		return nil, fmt.Errorf("the CA in %s ends on %s: bring one that lasts longer", given.Cert, next.Certificate.NotAfter.Format(time.DateOnly))
	}
	if time.Now().Before(next.Certificate.NotBefore) {
		return nil, fmt.Errorf("the CA in %s is not valid before %s: wait, or look at the clock", given.Cert, next.Certificate.NotBefore.Format(time.RFC3339))
	}
	if usage := next.Certificate.KeyUsage; usage != 0 && usage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("the CA in %s may not sign certificates (keyUsage lacks keyCertSign)", given.Cert)
	}
	return next, nil
}

func makeCA(name string) (*CA, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	return selfSigned(KeyPair{}, name, key)
}

// succeed is the bundle of next that those accept who trust the authority of now:
// next itself, its certificate by the old one, and the old bundle.
func succeed(files KeyPair, next *CA) ([]byte, error) {
	old, err := LoadCA(files)
	if err != nil {
		return nil, err
	}
	if samePublicKey(old.Certificate.PublicKey, next.Certificate.PublicKey) {
		return nil, fmt.Errorf("the new CA has the key of the one in %s: make a new key", files.Cert)
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		RawSubject:            next.Certificate.RawSubject,
		Subject:               pkix.Name{CommonName: next.Certificate.Subject.CommonName},
		SubjectKeyId:          next.Certificate.SubjectKeyId,
		NotBefore:             laterOf(old.Certificate.NotBefore, time.Now().Add(-backdate)),
		NotAfter:              next.Certificate.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if old.Certificate.NotAfter.Before(template.NotAfter) {
		template.NotAfter = old.Certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, old.Certificate, next.Certificate.PublicKey, old.key)
	if err != nil {
		return nil, fmt.Errorf("cross-sign the successor of %s: %w", files.Cert, err)
	}
	cross, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if err := cross.CheckSignatureFrom(old.Certificate); err != nil {
		return nil, fmt.Errorf("the CA in %s can't sign another: %w", files.Cert, err)
	}
	return bytes.Join([][]byte{withNewline(next.Bundle), encodePEM("CERTIFICATE", der), old.Bundle}, nil), nil
}

// RetireAuthorities ends the trust in predecessors: the bundles hold no more than
// the authorities of now. It returns the files that have changed.
func (l Layout) RetireAuthorities() ([]string, error) {
	var changed []string
	for files := range l.authorities() {
		ca, err := LoadCA(files)
		if err != nil {
			return changed, err
		}
		own := ownBundle(ca.Bundle)
		if len(own) == len(ca.Bundle) {
			continue
		}
		if err := WritePair(files, own, ca.key); err != nil {
			return changed, err
		}
		changed = append(changed, files.Cert)
	}
	return changed, nil
}

// HasPredecessor says whether the bundle at path trusts an authority of before.
func HasPredecessor(path string) (bool, error) {
	bundle, err := os.ReadFile(path)
	return len(ownBundle(bundle)) < len(bundle), err
}

// ownBundle is a bundle up to the certificate of its first key by a predecessor.
func ownBundle(bundle []byte) []byte {
	certs := parseBundle(bundle)
	for i := 1; i < len(certs); i++ {
		if samePublicKey(certs[i].PublicKey, certs[0].PublicKey) {
			return encodeBundle(certs[:i])
		}
	}
	return bundle
}

// chain is what follows a leaf: first what leads to other authorities that the
// other side may trust, then the authorities. Some libraries take the first
// issuer that they find and look no further.
func (ca *CA) chain() []byte {
	var crossed, roots []*x509.Certificate
	for _, cert := range parseBundle(ca.Bundle) {
		if bytes.Equal(cert.RawIssuer, cert.RawSubject) {
			roots = append(roots, cert)
		} else {
			crossed = append(crossed, cert)
		}
	}
	return encodeBundle(append(crossed, roots...))
}

func parseBundle(bundle []byte) []*x509.Certificate {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return certs
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
}

func encodeBundle(certs []*x509.Certificate) []byte {
	var out []byte
	for _, cert := range certs {
		out = append(out, encodePEM("CERTIFICATE", cert.Raw)...)
	}
	return out
}

func withNewline(text []byte) []byte {
	if bytes.HasSuffix(text, []byte("\n")) {
		return text
	}
	return append(bytes.Clone(text), '\n')
}
