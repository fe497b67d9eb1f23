package pki

import (
	"crypto/x509"
	"fmt"
	"path/filepath"
	"time"
)

// CheckInterval is how often a running process looks whether certificates are
// near their end. Renewal begins months before, so that nothing depends on it.
const CheckInterval = 6 * time.Hour

// NearEnd says whether a certificate should be replaced by one that lasts longer.
func NearEnd(cert *x509.Certificate) bool { return nearEnd(cert, time.Now()) }

func nearEnd(cert *x509.Certificate, now time.Time) bool {
	return now.Add(renewBefore).After(cert.NotAfter)
}

// Due says whether a certificate is near its end and the CA can sign one that
// lasts longer: none outlives its CA.
func Due(cert, ca *x509.Certificate) bool {
	return NearEnd(cert) && cert.NotAfter.Before(ca.NotAfter)
}

// Lapsed says whether nobody takes a certificate whose clock says now: it has ended,
// or not yet begun.
func Lapsed(cert *x509.Certificate, now time.Time) bool {
	return now.After(cert.NotAfter) || now.Before(cert.NotBefore)
}

// Reissue makes files hold a new key and a certificate for it, whatever they held.
func (ca *CA) Reissue(files KeyPair, req Request) error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	chain, err := ca.Sign(req, key.Public())
	if err != nil {
		return err
	}
	return WritePair(files, chain, key)
}

// ReissueAll makes new keys and certificates, which say the same, for all that
// authorities of the directory have signed there. Nobody else may write to the
// directory meanwhile. It returns how many.
func ReissueAll(dir string) (count int, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.crt"))
	if err != nil {
		return 0, err
	}
	var authorities []*CA
	leaves := map[KeyPair]*x509.Certificate{}
	for _, path := range paths {
		files := KeyPair{Cert: path, Key: path[:len(path)-len("crt")] + "key"}
		cert, err := LoadCertificate(path)
		if err != nil {
			return 0, err
		}
		if !cert.IsCA {
			leaves[files] = cert
			continue
		}
		ca, err := LoadCA(files)
		if err != nil {
			return 0, err
		}
		authorities = append(authorities, ca)
	}
	for files, cert := range leaves {
		ca := issuer(authorities, cert)
		if ca == nil {
			return count, fmt.Errorf("%s is signed by no CA in %s: it can't be made anew here; remove it, and the next start makes it", files.Cert, dir)
		}
		if err := ca.Reissue(files, requestOf(cert)); err != nil {
			return count, err
		}
		count++
	}
	return count, nil
}

func issuer(authorities []*CA, cert *x509.Certificate) *CA {
	for _, ca := range authorities {
		if cert.CheckSignatureFrom(ca.Certificate) == nil {
			return ca
		}
	}
	return nil
}

// requestOf is what the certificate was made for.
func requestOf(cert *x509.Certificate) Request {
	return Request{
		CommonName:   cert.Subject.CommonName,
		Organization: cert.Subject.Organization,
		DNSNames:     cert.DNSNames,
		IPs:          cert.IPAddresses,
		Peer:         len(cert.ExtKeyUsage) > 1,
	}
}
