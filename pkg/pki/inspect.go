package pki

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	// warnBefore is how long before its end a certificate is worth a warning:
	// renewal has failed for a month then.
	warnBefore = renewBefore - 30*24*time.Hour
	// warnCABefore is the same for authorities, which nobody renews.
	warnCABefore = 365 * 24 * time.Hour
)

// Status says how a certificate is.
type Status string

// What a certificate can be. One that is not valid yet is worth a warning: the
// clock is wrong.
const (
	OK      Status = "OK"
	Warning Status = "WARNING"
	Expired Status = "EXPIRED"
)

// Entry describes one certificate.
type Entry struct {
	File      string    `json:"file"`
	Subject   string    `json:"subject"`
	Usage     string    `json:"usage"` // CA, serving, client
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	DaysLeft  int       `json:"daysLeft"`
	Status    Status    `json:"status"`
}

// InspectFile is Inspect of a PEM file.
func InspectFile(path string) ([]Entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Inspect(path, data)
}

// Inspect describes the certificate in PEM data, or, where that begins with an
// authority's, all of the bundle. File is where the data comes from.
func Inspect(file string, data []byte) ([]Entry, error) {
	return inspect(file, data, time.Now())
}

func inspect(file string, data []byte, now time.Time) ([]Entry, error) {
	var entries []Entry
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		entries = append(entries, describe(file, cert, now))
		if !cert.IsCA {
			break // its CA follows, which has a file of its own
		}
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return entries, nil
}

func describe(file string, cert *x509.Certificate, now time.Time) Entry {
	left := cert.NotAfter.Sub(now)
	warn := warnBefore
	if cert.IsCA {
		warn = warnCABefore
	}
	status := OK
	switch {
	case left <= 0:
		status = Expired
	case left < warn, now.Before(cert.NotBefore):
		status = Warning
	}
	return Entry{
		File:      file,
		Subject:   cert.Subject.String(),
		Usage:     usage(cert),
		Serial:    fmt.Sprintf("%x", cert.SerialNumber),
		NotBefore: cert.NotBefore,
		NotAfter:  cert.NotAfter,
		DaysLeft:  int(left / (24 * time.Hour)),
		Status:    status,
	}
}

func usage(cert *x509.Certificate) string {
	if cert.IsCA {
		return "CA"
	}
	var uses []string
	for _, use := range cert.ExtKeyUsage {
		switch use {
		case x509.ExtKeyUsageServerAuth:
			uses = append(uses, "serving")
		case x509.ExtKeyUsageClientAuth:
			uses = append(uses, "client")
		}
	}
	return strings.Join(uses, ", ")
}
