package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/kedge-k8s/kedge/pkg/hostcheck"
)

const (
	diskWrites = 100
	diskLimit  = 3 * time.Second
	// slowDisk is the 99th percentile up to which etcd's documentation calls a disk
	// fast enough; verySlowDisk is where everything in the cluster waits for it.
	slowDisk     = 10 * time.Millisecond
	verySlowDisk = 100 * time.Millisecond
)

// checkDisk measures how long a small write takes until it is on the disk.
func (d *Doctor) checkDisk(ctx context.Context) []hostcheck.Finding {
	const name = "write latency"
	dir := d.paths().DataDir
	if d.running && d.self.Datastore.Dir != "" {
		dir = d.self.Datastore.Dir
	}
	times, err := measureSync(ctx, dir)
	if err != nil {
		return []hostcheck.Finding{unknownf(name, "%v", err)}
	}
	slices.Sort(times)
	median, high := times[len(times)/2], times[len(times)*99/100]
	detail := fmt.Sprintf("a write to %s is on the disk after %s (median), %s (99th percentile of %d)", dir, ms(median), ms(high), len(times))
	const fix = "put --data-dir on a faster disk, an SSD if possible; look for what else writes: iostat -x 1, or /proc/pressure/io"
	switch {
	case high > verySlowDisk:
		return []hostcheck.Finding{warning(name, detail+": the cluster's state is slow to write, and timeouts may follow", fix)}
	case high > slowDisk && d.self.Role != "agent":
		return []hostcheck.Finding{okf(name, "%s; %s or less would be fast", detail, slowDisk)}
	}
	return []hostcheck.Finding{okf(name, "%s", detail)}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// measureSync times small writes, each flushed to the disk, to a file in the
// directory, which is removed.
func measureSync(ctx context.Context, dir string) ([]time.Duration, error) {
	file, err := os.CreateTemp(dir, ".kedge-doctor-*")
	if err != nil {
		return nil, fmt.Errorf("measure the disk: %w", err)
	}
	defer func() {
		_ = file.Close()
		_ = os.Remove(file.Name())
	}()
	block := make([]byte, 2048)
	var times []time.Duration
	for end := time.Now().Add(diskLimit); len(times) < diskWrites && time.Now().Before(end) && ctx.Err() == nil; {
		began := time.Now()
		if _, err := file.Write(block); err != nil {
			return nil, fmt.Errorf("measure the disk: %w", err)
		}
		if err := file.Sync(); err != nil {
			return nil, fmt.Errorf("measure the disk: %w", err)
		}
		times = append(times, time.Since(began))
	}
	if len(times) == 0 {
		return nil, fmt.Errorf("measure the disk: %w", context.Cause(ctx))
	}
	return times, nil
}

// clockTolerance is more than the clock of a machine with NTP is ever off, with
// room for the full seconds in which HTTP tells the time.
const clockTolerance = 2 * time.Second

// checkClock compares an agent's clock with that of a server. Those of a server's
// nodes are compared from their pods.
func (d *Doctor) checkClock(ctx context.Context) []hostcheck.Finding {
	const name = "clock"
	if !d.running || d.self.Role != "agent" || d.rest == nil {
		return nil
	}
	theirs, ours, err := serverTime(ctx, d.rest)
	if err != nil {
		return []hostcheck.Finding{unknownf(name, "the server's clock can't be read: %v", err)}
	}
	return []hostcheck.Finding{clockFinding(name, "the server's", ours.Sub(theirs), clockTolerance)}
}

// clockFinding judges by how much a clock is ahead of another.
func clockFinding(name, of string, ahead, tolerance time.Duration) hostcheck.Finding {
	if ahead.Abs() <= tolerance {
		return okf(name, "as %s", of)
	}
	direction := "ahead of"
	if ahead < 0 {
		direction = "behind"
	}
	return warning(name, fmt.Sprintf("%s %s %s: certificates and tokens may be refused, logs mislead", ahead.Abs().Round(100*time.Millisecond), direction, of),
		"on that machine: timedatectl set-ntp true (or by hand: date -s '…')")
}

// serverTime returns what time a server says that it is, and what time it was
// here in the middle of asking.
func serverTime(ctx context.Context, c *rest.Config) (theirs, ours time.Time, err error) {
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		return theirs, ours, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Host+"/readyz", nil)
	if err != nil {
		return theirs, ours, err
	}
	began := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return theirs, ours, err
	}
	_ = response.Body.Close()
	ours = began.Add(time.Since(began) / 2)
	theirs, err = http.ParseTime(response.Header.Get("Date"))
	// It is cut to full seconds: half of one is the best guess of the rest.
	return theirs.Add(time.Second / 2), ours, err
}

// checkCertificates looks whether each certificate of the machine is signed by one
// of its authorities and fits its key, and whether the API serves with one that is.
func (d *Doctor) checkCertificates(ctx context.Context) []hostcheck.Finding {
	paths := d.paths()
	dirs := []string{paths.TLS(), paths.AgentPKI()}
	if d.running {
		dirs = d.self.Certificates
	}
	found := chainFindings(dirs)
	if d.rest != nil {
		found = append(found, d.servedFinding(ctx))
	}
	return found
}

// chainFindings looks at the certificates in directories and those below.
func chainFindings(dirs []string) []hostcheck.Finding {
	const name = "chains"
	const fix = "kedge certificate rotate makes new ones; if an authority itself was changed by hand, put the old one back"
	type leaf struct {
		file string
		cert *x509.Certificate
	}
	var leaves []leaf
	var found []hostcheck.Finding
	roots, authorities := x509.NewCertPool(), 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".crt" {
				return err
			}
			certs, err := readCertificates(path)
			if err != nil {
				found = append(found, warning(name, err.Error(), fix))
				return nil
			}
			if !certs[0].IsCA {
				leaves = append(leaves, leaf{path, certs[0]})
				return nil
			}
			for _, c := range certs {
				roots.AddCert(c)
				authorities++
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			found = append(found, unknownf(name, "%v", err))
		}
	}
	for _, l := range leaves {
		_, err := l.cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			found = append(found, warning(name, l.file+": "+err.Error(), fix))
			continue
		}
		key := strings.TrimSuffix(l.file, ".crt") + ".key"
		if _, err := tls.LoadX509KeyPair(l.file, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			found = append(found, warning(name, l.file+" does not fit its key: "+err.Error(), fix))
		}
	}
	if len(found) == 0 && len(leaves) > 0 {
		found = append(found, okf(name, "%d certificates are signed by this cluster's %d authorities and fit their keys", len(leaves), authorities))
	}
	return found
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return certs, nil
}

// servedFinding connects to the API as this machine's own parts do.
func (d *Doctor) servedFinding(ctx context.Context) hostcheck.Finding {
	const name = "API's certificate"
	config, err := rest.TLSConfigFor(d.rest)
	if err != nil {
		return unknownf(name, "%v", err)
	}
	address := strings.TrimPrefix(d.rest.Host, "https://")
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		var unverified *tls.CertificateVerificationError
		if errors.As(err, &unverified) {
			return warning(name, fmt.Sprintf("what answers at %s is not trusted: %v", address, err), "does another cluster's server, or a proxy, answer there? On the server: kedge certificate rotate")
		}
		return unknownf(name, "%v", err)
	}
	defer func() { _ = conn.Close() }()
	return okf(name, "trusted, at %s", address)
}
