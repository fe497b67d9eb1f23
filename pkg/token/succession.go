package token

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
)

// succeeds says whether a bundle holds the CA with the hash and, beside it, only
// CAs that it has signed, or whose keys it has: those of a cluster whose CA was
// replaced. Whoever trusts that one CA may trust the bundle.
func succeeds(bundle []byte, hash string) bool {
	var certs []*x509.Certificate
	trusted := -1
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return false
		}
		if HashCA(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})) == hash {
			trusted = len(certs)
		}
		certs = append(certs, cert)
	}
	if trusted < 0 {
		return false
	}
	known := []*x509.Certificate{certs[trusted]}
	has := func(cert *x509.Certificate) bool {
		return slices.ContainsFunc(known, func(k *x509.Certificate) bool {
			return bytes.Equal(k.RawSubject, cert.RawSubject) && bytes.Equal(k.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo)
		})
	}
	for grown := true; grown; {
		grown = false
		for _, cert := range certs {
			if has(cert) {
				continue
			}
			if slices.ContainsFunc(known, func(k *x509.Certificate) bool { return cert.CheckSignatureFrom(k) == nil }) {
				known, grown = append(known, cert), true
			}
		}
	}
	return !slices.ContainsFunc(certs, func(cert *x509.Certificate) bool { return !has(cert) })
}
