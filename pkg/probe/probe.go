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
	return WaitFor(ctx, url, caFile, func(string) error { return nil })
}

// WaitFor is Wait for an answer whose body check accepts.
func WaitFor(ctx context.Context, url, caFile string, check func(body string) error) error {
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
	return wait(ctx, &http.Client{Transport: transport}, url, check)
}

// WaitWith is Wait with a client of the caller's, for an endpoint that answers those
// only whom it knows.
func WaitWith(ctx context.Context, client *http.Client, url string) error {
	return wait(ctx, client, url, func(string) error { return nil })
}

func wait(ctx context.Context, client *http.Client, url string, check func(body string) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last error
	for {
		body, err := get(ctx, client, url)
		if err == nil {
			err = check(body)
		}
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

func get(ctx context.Context, client *http.Client, url string) (body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	body = string(data)
	if resp.StatusCode == http.StatusOK {
		return body, nil
	}
	return "", fmt.Errorf("%s answers %d: %s", url, resp.StatusCode, summary(body))
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
