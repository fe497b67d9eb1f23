//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// writeCA puts a CA of the user's into a directory of a host.
func writeCA(t *testing.T, host *testbed.Host, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "Example Corp " + name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(host.Path(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	for suffix, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: cert}, ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(host.Path(filepath.Join(dir, name+suffix)), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRotateCA replaces the cluster's CAs, by ones that are made and by the user's,
// under an agent that runs and one that is off, and ends the trust in the old ones.
func TestRotateCA(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	a := f.agents[0]
	s := f.sandbox(t)
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
	nodeName: agent-1
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: BUSYBOX, command: [sh, -c, echo started; exec sleep 36000]}]
`)
	s.wait("condition=Ready", "pod/talker")
	const agentCA, serverCA = "/var/lib/kedge/agent/pki/server-ca.crt", "/var/lib/kedge/server/tls/server-ca.crt"
	const copied = "/var/lib/home/kubeconfig"
	read := func(host *testbed.Host, path string) string {
		t.Helper()
		content, err := os.ReadFile(host.Path(path))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	copyKubeconfig := func() {
		t.Helper()
		if err := os.MkdirAll(f.node.Path("/var/lib/home"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.node.Path(copied), []byte(read(f.node, "/etc/kedge/kedge.yaml")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	byCopy := func() error {
		_, err := f.node.Kubectl(t.Context(), "--kubeconfig="+copied, "get", "nodes")
		return err
	}
	// rotate runs the command and waits until the server is back with what is new.
	rotate := func(args ...string) {
		t.Helper()
		begin := time.Now()
		serial := func() string {
			text, err := servedSerial(t.Context(), f.node, f.node.Address.String()+":6443")
			if err != nil {
				return ""
			}
			return text
		}
		starts := func() int { return strings.Count(f.server.Log(), "is ready after") }
		before, started := serial(), starts()
		if _, err := f.node.Kedge(t.Context(), append([]string{"certificate", "rotate-ca"}, args...)...); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the server to be back", func() (bool, string) {
			if starts() == started {
				return false, "it has not started again"
			}
			retired := slices.Contains(args, "--retire") // the certificate stays
			now := serial()
			return now != "" && (retired || now != before) && byNow(t.Context(), f.node) == nil, now
		})
		t.Logf("rotate-ca %s: the server is back after %s", strings.Join(args, " "), time.Since(begin).Round(time.Millisecond))
	}
	// follows waits until the agent trusts what the server does, and is reached.
	follows := func() {
		t.Helper()
		begin := time.Now()
		eventually(t, "the agent to have the new CAs", func() (bool, string) {
			return read(a.host, agentCA) == read(f.node, serverCA), ""
		})
		f.waitNode(t, a.name)
		eventually(t, "exec in a pod of the agent", func() (bool, string) {
			out, err := s.try("exec", "talker", "--", "echo", "hello")
			return err == nil && strings.Contains(out, "hello"), fmt.Sprint(out, err)
		})
		t.Logf("the agent has followed after %s", time.Since(begin).Round(time.Millisecond))
	}
	certificates := func(host *testbed.Host, path string) int {
		t.Helper()
		return strings.Count(read(host, path), "BEGIN CERTIFICATE")
	}

	wantFailure(t, f.node, []string{"certificate", "rotate-ca", "--retire"}, "nothing to retire")
	wantFailure(t, f.node, []string{"certificate", "rotate-ca", "--path", "/var/lib/home/empty"}, "there is no CA in /var/lib/home/empty", "server-ca.crt")
	writeCA(t, f.node, "/var/lib/home/clients", "client-ca")
	wantFailure(t, f.node, []string{"certificate", "rotate-ca", "--path", "/var/lib/home/clients"}, "no server-ca.crt")
	wantFailure(t, a.host, []string{"certificate", "rotate-ca"}, "is an agent", "on a server")
	copyKubeconfig()
	first := read(f.node, serverCA)
	pid := a.process.PID()
	rotate()
	follows()
	if !a.process.Running() || a.process.PID() != pid || strings.Count(a.process.Log(), "node is Ready") != 1 {
		t.Error("the agent has started again")
	}
	if n := certificates(f.node, serverCA); n != 3 || !strings.HasSuffix(read(f.node, serverCA), first) {
		t.Errorf("the bundle holds %d certificates", n)
	}
	if err := byCopy(); err != nil {
		t.Errorf("a copy of the kubeconfig from before: %v", err)
	}

	// Off while the user's own CAs come, and again with the first token.
	stop(t, a.process)
	writeCA(t, f.node, "/var/lib/home/own", "server-ca")
	writeCA(t, f.node, "/var/lib/home/own", "client-ca")
	rotate("--path", "/var/lib/home/own")
	if err := byCopy(); err != nil {
		t.Errorf("a copy of the kubeconfig from before both: %v", err)
	}
	wantFailure(t, f.node, []string{"certificate", "rotate-ca", "--retire"}, "don't know the new CAs yet: agent-1", "--force")
	start := func() {
		t.Helper()
		var err error
		a.process, err = a.host.Start("agent", "--server", f.serverURL(), "--token-file", "/etc/kedge/token")
		if err != nil {
			t.Fatal(err)
		}
	}
	start()
	follows()
	// Who joins now may have the first token too.
	newcomer := newHost(t, f.bed, "newcomer")
	if err := os.MkdirAll(newcomer.Path("/etc/kedge"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(newcomer.Path("/etc/kedge/token"), []byte(read(a.host, "/etc/kedge/token")), 0o600); err != nil {
		t.Fatal(err)
	}
	process, err := newcomer.Start("agent", "--server", f.serverURL(), "--token-file", "/etc/kedge/token")
	if err != nil {
		t.Fatal(err)
	}
	f.waitNode(t, "newcomer")
	stop(t, process)

	rotate("--retire")
	follows()
	if n := certificates(f.node, serverCA); n != 1 {
		t.Errorf("after --retire the bundle holds %d certificates", n)
	}
	if err := byCopy(); err == nil {
		t.Error("a copy of the kubeconfig from before is still taken")
	}
	stop(t, a.process)
	start()
	f.waitNode(t, a.name)
	follows()
}

// byNow asks the API with the kubeconfig of now.
func byNow(ctx context.Context, host *testbed.Host) error {
	_, err := host.Kubectl(ctx, "get", "nodes")
	return err
}
