// Package cluster talks to a cluster on a host of a testbed as its
// administrator. It is small on purpose: a client that costs much would take the
// processor from what is measured.
package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Client is a connection to one API server that is kept alive.
type Client struct {
	http   *http.Client
	server string
}

// Dial opens a connection from the host to an address of the form IP:port.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// kubeconfig is what a Client needs of such a file.
type kubeconfig struct {
	Clusters []struct {
		Cluster struct {
			Server string   `yaml:"server"`
			CA     embedded `yaml:"certificate-authority-data"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		User struct {
			Cert embedded `yaml:"client-certificate-data"`
			Key  embedded `yaml:"client-key-data"`
		} `yaml:"user"`
	} `yaml:"users"`
}

// embedded is a file within a kubeconfig.
type embedded []byte

// UnmarshalYAML decodes the base64 that the file is written in.
func (e *embedded) UnmarshalYAML(node *yaml.Node) (err error) {
	*e, err = base64.StdEncoding.DecodeString(node.Value)
	return err
}

// Connect makes a client out of a kubeconfig with embedded certificates. It
// opens no connection yet.
func Connect(path string, dial Dial) (*Client, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var config kubeconfig
	if err := yaml.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	if len(config.Clusters) != 1 || len(config.Users) != 1 {
		return nil, fmt.Errorf("kubeconfig %s has %d clusters and %d users, not one each", path, len(config.Clusters), len(config.Users))
	}
	in, user := config.Clusters[0].Cluster, config.Users[0].User
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(in.CA) {
		return nil, fmt.Errorf("kubeconfig %s holds no CA", path)
	}
	cert, err := tls.X509KeyPair(user.Cert, user.Key)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: client certificate: %w", path, err)
	}
	return &Client{
		server: in.Server,
		http: &http.Client{Transport: &http.Transport{
			DialContext:       dial,
			TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true, // as kubectl
		}},
	}, nil
}

// Close closes the connections that no request uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Do sends a request and reads its answer to the end. A status other than 2xx is
// an error.
func (c *Client) Do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	response, err := c.send(ctx, method, path, contentType, body)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return answer, nil
}

// Get is Do for reading.
func (c *Client) Get(ctx context.Context, path string) ([]byte, error) {
	return c.Do(ctx, http.MethodGet, path, "", nil)
}

// Create posts an object to its collection.
func (c *Client) Create(ctx context.Context, collection string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	_, err = c.Do(ctx, http.MethodPost, collection, "application/json", body)
	return err
}

func (c *Client) send(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		defer func() { _ = response.Body.Close() }()
		why, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, response.Status, strings.TrimSpace(string(why)))
	}
	return response, nil
}

// retryInterval is the pace at which something that isn't there yet is tried
// again. It is the error of what is measured by trying.
const retryInterval = 10 * time.Millisecond

// retry tries until it works or ctx ends.
func retry(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		case <-time.After(retryInterval):
		}
	}
}

// WaitReady waits until the API server says it is ready.
func (c *Client) WaitReady(ctx context.Context) error {
	return retry(ctx, func() error {
		_, err := c.Get(ctx, "/readyz")
		return err
	})
}

// WaitObject watches a collection until an object in it passes the check.
func (c *Client) WaitObject(ctx context.Context, collection, name string, check func(object []byte) bool) error {
	return retry(ctx, func() error { return c.watch(ctx, collection, name, check) })
}

func (c *Client) watch(ctx context.Context, collection, name string, check func(object []byte) bool) error {
	path := collection + "?watch=1&fieldSelector=metadata.name%3D" + name
	response, err := c.send(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	last := "nothing yet"
	for events := json.NewDecoder(response.Body); ; {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := events.Decode(&event); err != nil {
			return fmt.Errorf("watch %s: %w; last seen: %s", path, err, last)
		}
		last = string(event.Object)
		if event.Type == "ERROR" {
			return fmt.Errorf("watch %s: %s", path, last)
		}
		if event.Type != "DELETED" && check(event.Object) {
			return nil
		}
	}
}
