package join

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/kedge-k8s/kedge/pkg/token"
	"github.com/kedge-k8s/kedge/pkg/version"
)

const (
	requestLimit = 15 * time.Second
	// retryInterval is short at first: a server that restarts is back in seconds.
	retryInterval    = 500 * time.Millisecond
	maxRetryInterval = 5 * time.Second
	notice           = 10 * time.Second
)

// Refused is the answer of a server that asking again will not change.
type Refused struct {
	Server  string
	Message string
}

func (e *Refused) Error() string { return "server " + e.Server + " refuses: " + e.Message }

// Client speaks to the servers of a cluster for one machine.
type Client struct {
	Servers []string    // host:port, tried in this order
	Token   token.Token // may be the zero value with a Certificate
	// Certificate is the node's of identity Agent, if it has one.
	Certificate *tls.Certificate
	// CA is the bundle that servers are recognized by, once it is known.
	CA []byte
	// User is what a bare secret without a user is shown as: token.Node if empty.
	User string
	// Former are the hashes of bundles of before, which tokens may still have.
	Former []string
	Log    *slog.Logger
}

// FindCA gets the bundle that servers are recognized by, unless it is known, and
// checks it against the token.
func (c *Client) FindCA(ctx context.Context) error {
	if len(c.CA) > 0 {
		err := c.Token.VerifyCA(c.CA)
		if err == nil || errors.Is(err, token.ErrNoCAHash) || slices.Contains(c.Former, c.Token.CAHash) {
			return nil
		}
		// The token may be of a CA that has taken the place of the known one since.
		if bundle, err := c.CurrentCA(ctx); err == nil && c.Token.VerifyCA(bundle) == nil {
			return nil
		}
		return fmt.Errorf("this machine has joined another cluster before: %w; to leave that one, stop Kedge and remove the agent directory of its data directory", err)
	}
	var bundle []byte
	// The one request to somebody unknown: nothing secret is in it, and the answer
	// is not believed before it is checked.
	unknown := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // see above
	err := c.each(ctx, func(ctx context.Context, server string) error {
		answer, err := c.do(ctx, unknown, http.MethodGet, server, caPath, nil, false)
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(answer) {
			return &Refused{server, "its CA bundle holds no certificate: is it a Kedge server?"}
		}
		bundle = answer
		return nil
	})
	if err != nil {
		return err
	}
	switch err := c.Token.VerifyCA(bundle); {
	case errors.Is(err, token.ErrNoCAHash):
		c.Log.Warn("the token does not say which CA the cluster has, so the server that answered is trusted: use the full token, which begins with K10, to be sure", "ca", token.HashCA(bundle))
	case err != nil:
		return err
	}
	c.CA = bundle
	return nil
}

// CurrentCA asks a server that is recognized by the known bundle for the bundle
// of now.
func (c *Client) CurrentCA(ctx context.Context) (bundle []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	err = c.each(ctx, func(ctx context.Context, server string) error {
		bundle, err = c.do(ctx, c.tls(), http.MethodGet, server, caPath, nil, false)
		return err
	})
	return bundle, err
}

// Cluster asks for what all nodes agree on.
func (c *Client) Cluster(ctx context.Context) (Cluster, error) {
	var cluster Cluster
	err := c.each(ctx, func(ctx context.Context, server string) error {
		answer, err := c.do(ctx, c.tls(), http.MethodGet, server, clusterPath, nil, true)
		if err != nil {
			return err
		}
		return decode(server, answer, &cluster)
	})
	return cluster, err
}

// Keys are a node's private keys by identity.
type Keys map[Identity]crypto.Signer

// Names are what a node's kubelet serves as.
type Names struct {
	DNS []string
	IPs []net.IP
}

// Certificates asks for certificates for a node's keys.
func (c *Client) Certificates(ctx context.Context, node, secret string, keys Keys, names Names) (Certificates, error) {
	req := certificatesRequest{Node: node, Secret: secret, Requests: map[Identity]string{}}
	for identity, key := range keys {
		template := &x509.CertificateRequest{}
		if identity == Serving {
			template.DNSNames, template.IPAddresses = names.DNS, names.IPs
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err != nil {
			return Certificates{}, fmt.Errorf("make a certificate request: %w", err)
		}
		req.Requests[identity] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	}
	body, err := json.Marshal(req) //nolint:gosec // the secret is what the request shows, over TLS
	if err != nil {
		return Certificates{}, err
	}
	var certificates Certificates
	err = c.each(ctx, func(ctx context.Context, server string) error {
		answer, err := c.do(ctx, c.tls(), http.MethodPost, server, certificatesPath, body, true)
		if err != nil {
			return err
		}
		certificates = Certificates{} // not mixed with another server's
		if err := decode(server, answer, &certificates); err != nil {
			return err
		}
		for identity := range keys {
			if certificates.Issued[identity] == "" {
				return &Refused{server, fmt.Sprintf("its answer lacks a certificate for %s", identity)}
			}
		}
		return nil
	})
	return certificates, err
}

// each calls do with one server after the other, again and again with pauses,
// until one answers, or one refuses and none of the others answers, or ctx ends.
func (c *Client) each(ctx context.Context, do func(ctx context.Context, server string) error) error {
	pause := retryInterval
	began, noticed := time.Now(), time.Now()
	var last error
	for {
		var no error
		for _, server := range c.Servers {
			err := do(ctx, server)
			var refused *Refused
			switch {
			case err == nil:
				return nil
			case errors.As(err, &refused):
				no = cmp.Or(no, err)
			case ctx.Err() == nil || last == nil:
				last = err
			}
		}
		if no != nil {
			return no
		}
		first := pause == retryInterval
		if ctx.Err() == nil && (first || time.Since(noticed) >= notice) {
			c.Log.Warn("waiting for a server", "component", "join", "for", time.Since(began).Round(time.Second), "err", last)
			noticed = time.Now()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no server could be reached: %w", last)
		case <-time.After(pause):
			pause = min(2*pause, maxRetryInterval)
		}
	}
}

// tls is for servers of this cluster.
func (c *Client) tls() *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.CA)
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if c.Certificate != nil {
		config.Certificates = []tls.Certificate{*c.Certificate}
	}
	return config
}

func (c *Client) do(ctx context.Context, config *tls.Config, method, server, path string, body []byte, authenticate bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+server+path, bytes.NewReader(body))
	if err != nil {
		return nil, &Refused{server, err.Error()}
	}
	req.Header.Set(versionHeader, version.Version)
	if user, password := c.Token.BasicAuth(cmp.Or(c.User, token.Node)); authenticate && password != "" {
		req.SetBasicAuth(user, password)
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, explain(server, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", server, err)
	}
	if resp.StatusCode == http.StatusOK {
		return answer, nil
	}
	var f failure
	if json.Unmarshal(answer, &f) != nil || f.Message == "" {
		f.Message = fmt.Sprintf("it answers %s: is it a Kedge server, and of this version?", resp.Status)
	}
	// A server that starts or has lost its datastore for a moment is asked again.
	if resp.StatusCode >= http.StatusInternalServerError {
		return nil, fmt.Errorf("server %s: %s", server, f.Message)
	}
	return nil, &Refused{server, f.Message}
}

func decode(server string, answer []byte, into any) error {
	if err := json.Unmarshal(answer, into); err != nil {
		return &Refused{server, fmt.Sprintf("its answer can't be read: %v", err)}
	}
	return nil
}

// explain says what an error of a request means for the person who joins.
func explain(server string, err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("server %s: its certificate is valid from %s to %s, and this machine's clock says %s: set the clock (with timedatectl, or date)",
			server, day(invalid.Cert.NotBefore), day(invalid.Cert.NotAfter), day(time.Now()))
	}
	var authority x509.UnknownAuthorityError
	if errors.As(err, &authority) {
		return &Refused{server, "its certificate is not signed by the cluster's CA: this is not a server of the cluster the token was made for, or somebody impersonates it"}
	}
	var hostname x509.HostnameError
	if errors.As(err, &hostname) {
		return &Refused{server, hostname.Error() + ": name the server by an address it knows, or give the server this one with --tls-san"}
	}
	return fmt.Errorf("server %s: %w", server, err)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
