// Package probe waits for the health endpoints of components.
package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	// interval is short: what waits for a component waits at start-up only.
	interval       = 20 * time.Millisecond
	requestTimeout = 5 * time.Second
)

// Wait returns nil once url answers 200; otherwise, when ctx ends, what the
// last answer was. An HTTPS endpoint must show a certificate of the bundle in
// caFile.
func Wait(ctx context.Context, url, caFile string) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if caFile != "" {
		bundle, err := os.ReadFile(caFile)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(bundle)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	client := &http.Client{Transport: transport, Timeout: requestTimeout}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last error
	for {
		err := get(ctx, client, url)
		if err == nil {
			return nil
		}
		// The request that ctx cut off says less than the one before it.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return last
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("%s answers %d: %s", url, resp.StatusCode, summary(string(body)))
}

// summary picks the failing checks ("[-]name failed: …") out of a Kubernetes
// health endpoint's answer.
func summary(body string) string {
	var failing []string
	for line := range strings.Lines(body) {
		if name, ok := strings.CutPrefix(line, "[-]"); ok {
			failing = append(failing, strings.TrimSpace(name))
		}
	}
	if len(failing) == 0 {
		return strings.TrimSpace(strings.ReplaceAll(body, "\n", " "))
	}
	return strings.Join(failing, "; ")
}
