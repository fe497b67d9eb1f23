package cluster

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/pki"
)

func TestPaths(t *testing.T) {
	const manifest = `# nothing but a comment
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: b}
data: {key: value}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:c}
`
	objects, err := Parse([]byte(manifest))
	if err != nil || len(objects) != 2 {
		t.Fatalf("got %v, error %v", objects, err)
	}
	for i, want := range []string{
		"/api/v1/namespaces/b/configmaps/a",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:c",
	} {
		if got, err := pathOf(objects[i]); err != nil || got != want {
			t.Errorf("got %s, error %v, want %s", got, err, want)
		}
	}
	if _, err := pathOf(Object{"kind": "ConfigMap"}); err == nil {
		t.Error("an object without a name has a path")
	}
	if _, err := Parse([]byte("a: [")); err == nil {
		t.Error("a broken manifest is taken")
	}
}

// serve starts an API of the test's own and connects to it.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	files := pki.KeyPair{Cert: filepath.Join(dir, "crt"), Key: filepath.Join(dir, "key")}
	ca, err := pki.EnsureCA(pki.KeyPair{Cert: filepath.Join(dir, "ca.crt"), Key: filepath.Join(dir, "ca.key")}, "ca")
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.EnsureCertificate(files, pki.Request{CommonName: "me"}); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root.crt")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(root, content, 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "kubeconfig")
	if err := (pki.Kubeconfig{Server: server.URL, CA: root, Client: files}).WriteEmbedded(config, 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := Connect(config, new(net.Dialer).DialContext)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestRequests(t *testing.T) {
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			http.Error(w, "no such thing", http.StatusNotFound)
			return
		}
		fmt.Fprint(w, r.Method, " ", r.URL)
	})
	if got, err := client.Get(t.Context(), "/a"); err != nil || string(got) != "GET /a" {
		t.Errorf("got %q, error %v", got, err)
	}
	if _, err := client.Get(t.Context(), "/missing"); err == nil || !strings.Contains(err.Error(), "404") || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("got error %v", err)
	}
}

func TestWaitObject(t *testing.T) {
	requests := 0
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests == 1 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, `{"type":"ADDED","object":{"n":1}}`)
		if requests > 2 { // the first watch ends too early
			fmt.Fprintln(w, `{"type":"MODIFIED","object":{"n":2}}`)
		}
	})
	err := client.WaitObject(t.Context(), "/things", "one", func(object []byte) bool { return string(object) == `{"n":2}` })
	if err != nil || requests != 3 {
		t.Errorf("error %v after %d requests", err, requests)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = client.WaitObject(ctx, "/things", "one", func([]byte) bool { return false })
	if err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("got error %v", err)
	}
}

func TestConnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	for _, text := range []string{
		"", "clusters: [{cluster: {server: x}}]\nusers: [{}]",
		"clusters: [{cluster: {certificate-authority-data: '!'}}]\nusers: [{}]",
		"clusters: [{cluster: {certificate-authority-data: " + base64.StdEncoding.EncodeToString([]byte("x")) + "}}]\nusers: [{}]",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Connect(path, nil); err == nil {
			t.Errorf("%q is taken for a kubeconfig", text)
		}
	}
}

func TestWaitDNS(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	go answer(server)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != DNSAddress+":53" {
			return nil, fmt.Errorf("asked %s", address)
		}
		return new(net.Dialer).DialContext(ctx, network, server.LocalAddr().String())
	}
	began := time.Now()
	if err := WaitDNS(t.Context(), dial); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > queryLimit {
		t.Errorf("took %s, although only the first queries were lost", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, os.ErrInvalid }
	if err := WaitDNS(ctx, refuse); err == nil || !strings.Contains(err.Error(), "invalid") {
		t.Errorf("got error %v", err)
	}
}

// answer leaves some queries unanswered, and gives the others an address.
func answer(server net.PacketConn) {
	packet := make([]byte, 512)
	for count := 0; ; count++ {
		n, from, err := server.ReadFrom(packet)
		if err != nil {
			return
		}
		if count < 4 {
			continue
		}
		// RFC 1035 4.1: the question ends after the name, type and class.
		end := 12
		for packet[end] != 0 {
			end += int(packet[end]) + 1
		}
		end += 5
		if end > n {
			continue
		}
		response := append([]byte{}, packet[:end]...)
		response[2], response[3] = 0x84, 0                          // an authoritative answer
		copy(response[6:], []byte{0, 1, 0, 0, 0, 0})                // one record
		response = append(response, 0xc0, 12, 0, 1, 0, 1)           // the same name, A, IN
		response = append(response, 0, 0, 0, 5, 0, 4, 10, 43, 0, 1) // 5 s, 4 bytes
		_, _ = server.WriteTo(response, from)
	}
}
