//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/token"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// TestEndedCertificate starts an agent whose certificate has ended by its clock, and
// that is given no token.
func TestEndedCertificate(t *testing.T) {
	t.Parallel()
	host := newHost(t, testbed.New(t), "node")
	files := pki.KeyPair{Cert: host.Path("/var/lib/kedge/agent/pki/agent.crt"), Key: host.Path("/var/lib/kedge/agent/pki/agent.key")}
	if err := os.MkdirAll(filepath.Dir(files.Cert), 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ended := time.Now().Add(-time.Hour).UTC()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: ended.Add(-time.Hour), NotAfter: ended}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.WritePair(files, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key); err != nil {
		t.Fatal(err)
	}
	if _, err := host.Kedge(t.Context(), "version"); err != nil { // unpacks
		t.Fatal(err)
	}
	result, err := host.Run(t.Context(), nil, host.Binary, "agent", "--server", "https://198.18.0.250:6443")
	if err != nil {
		t.Fatal(err)
	}
	const minute = "2006-01-02 15:04 UTC"
	refused(t, result, "certificate ended at "+ended.Format(minute), "clock says 2", "set the clock", "--token-file")
}

// TestJoin tries what keeps a machine from joining, and what lets it in again.
func TestJoin(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	stranger := newHost(t, f.bed, "stranger")
	content, err := os.ReadFile(f.node.Path("/var/lib/kedge/server/node-token"))
	if err != nil {
		t.Fatal(err)
	}
	good, err := token.Parse(strings.TrimSpace(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	agentToken, err := os.ReadFile(f.node.Path("/var/lib/kedge/server/agent-token"))
	if err != nil {
		t.Fatal(err)
	}
	// agent runs an agent that is to end by itself.
	agent := func(t *testing.T, token string, args ...string) testbed.Result {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		result, err := stranger.Run(ctx, strings.NewReader(token), "sh", append([]string{"-c",
			`read -r KEDGE_TOKEN; export KEDGE_TOKEN; exec "$@"`, "sh", stranger.Binary, "agent"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	join := []string{"--server", f.serverURL()}
	if _, err := stranger.Exec(t.Context(), "sh", "-c", "busybox nc -l -p 7777 > /dev/null 2>&1 & for i in $(seq 100); do grep -q ':1E61 .* 0A ' /proc/net/tcp* && exit 0; sleep 0.1; done; exit 1"); err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		name  string
		token string
		args  []string
		want  []string
	}{
		{"no token", "", join, []string{"has not joined yet", "--token-file"}},
		{"wrong token", "K10" + good.CAHash + "::server:0123456789abcdef", join, []string{"not, or no longer, one of this cluster"}},
		{"unknown bootstrap token", "K10" + good.CAHash + "::abcdef.0123456789abcdef", join, []string{"kedge token create"}},
		{"malformed token", "K10abc", join, []string{"K10", "::"}},
		{"another cluster's token", "K10" + strings.Repeat("0", 64) + "::server:" + good.Secret(), join, []string{"impersonates", good.CAHash}},
		{"stolen name", good.Reveal(), append(join, "--node-name=agent-1"), []string{`"agent-1" belongs to another machine`, "kedge kubectl delete node agent-1"}},
		{"the server's name", good.Reveal(), append(join, "--node-name=node"), []string{`"node" is a server's`, "--node-name"}},
		{"not a Kedge server", good.Reveal(), []string{"--server", "https://" + f.node.Address.String() + ":10250"}, []string{"10250"}},
		{"wrong URL", good.Reveal(), []string{"--server", f.node.Address.String()}, []string{"--server", "https://"}},
		{"port in use", good.Reveal(), append(join, "--lb-server-port=7777"), []string{"7777", "busybox", "--lb-server-port"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			result := agent(t, test.token, test.args...)
			if result.Code <= 0 || !strings.Contains(result.Stderr, "kedge: ") {
				t.Errorf("ends with code %d: %s", result.Code, result.Stderr)
			}
			last := lastLine(result.Stderr, "kedge: ")
			for _, want := range test.want {
				if !strings.Contains(last, want) {
					t.Errorf("doesn't say %q, but: %s", want, last)
				}
			}
			if strings.Contains(result.Stderr, good.Secret()) {
				t.Errorf("shows the token's secret: %s", result.Stderr)
			}
			if _, err := os.Stat(stranger.Path("/var/lib/kedge/agent/pki")); err == nil {
				t.Error("a half-joined node is left")
			}
		})
	}
	if out, err := f.node.Kubectl(t.Context(), "get", "nodes", "-o", "name"); err != nil || out != "node/agent-1\nnode/node\n" {
		t.Errorf("the nodes are %q, error %v", out, err)
	}
	if out, err := f.node.Kubectl(t.Context(), "get", "nodes", "-l", "node-role.kubernetes.io/control-plane", "-o", "name"); err != nil || out != "node/node\n" {
		t.Errorf("nodes of the control plane: %q, error %v", out, err)
	}

	t.Run("rights of a node", func(t *testing.T) {
		for _, verb := range []string{"patch", "update", "delete", "create"} {
			for _, resource := range []string{"nodes", "nodes/status", "pods", "services"} {
				out, err := f.node.Kubectl(t.Context(), "auth", "can-i", verb, resource, "--as=system:kedge:node:agent-1", "--as-group=system:kedge:nodes")
				if !strings.HasPrefix(out, "no") {
					t.Errorf("an agent may %s %s: %q, %v", verb, resource, out, err)
				}
			}
		}
	})

	t.Run("newer agent", func(t *testing.T) {
		conn, err := f.node.Dial(t.Context(), "tcp", f.node.Address.String()+":6443")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.serverURL()+"/v1-kedge/cluster", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth("server", good.Secret())
		request.Header.Set("Kedge-Version", "v1.99.0+kedge1")
		request.Close = true
		if err := request.Write(secure); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(secure)
		if err != nil {
			t.Fatal(err)
		}
		out := string(answer)
		if !strings.Contains(out, "409 Conflict") || !strings.Contains(out, "v1.99.0+kedge1") || !strings.Contains(out, "newer than this server, v1.") {
			t.Errorf("the server answers %q", out)
		}
	})

	t.Run("server that can't be reached", func(t *testing.T) {
		a, err := stranger.Start("agent", "--server", "https://198.18.0.250:6443", "--token", good.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the agent to say what it waits for", func() (bool, string) {
			return strings.Contains(a.Log(), "waiting for a server") && strings.Contains(a.Log(), "198.18.0.250:6443"), a.Log()
		})
		// A token on the command line is not for everybody's eyes.
		ps, err := stranger.Exec(t.Context(), "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
		if err != nil || strings.Contains(ps, good.Secret()) || !strings.Contains(ps, "198.18.0.250") {
			t.Errorf("the processes, error %v: %s", err, ps)
		}
		if took, code, err := a.Stop(10 * time.Second); err != nil || code != 0 {
			t.Errorf("stopping took %s and ended with code %d, error %v", took, code, err)
		}
	})

	t.Run("agent token and a bare secret", func(t *testing.T) {
		bare, err := token.Parse(strings.TrimSpace(string(agentToken)))
		if err != nil {
			t.Fatal(err)
		}
		a, err := stranger.Start("agent", "--server", f.serverURL(), "--token", bare.Secret(), "--with-node-id",
			"--node-external-ip=192.0.2.77", "--node-external-dns=stranger.example.com", "--node-label=tier=edge", "--node-taint=zone=dmz:NoSchedule")
		if err != nil {
			t.Fatal(err)
		}
		name := ""
		eventually(t, "the node to appear", func() (bool, string) {
			out, err := f.node.Kubectl(t.Context(), "get", "nodes", "-l", "tier=edge", "-o", "jsonpath={.items[*].metadata.name}")
			name = out
			return err == nil && strings.HasPrefix(name, "stranger-"), fmt.Sprint(out, err)
		})
		f.waitNode(t, name)
		if !strings.Contains(a.Log(), "the server that answered is trusted") {
			t.Errorf("no warning about the CA:\n%s", a.Log())
		}
		eventually(t, "the node's addresses", func() (bool, string) {
			out, err := f.node.Kubectl(t.Context(), "get", "node", name, "-o", "jsonpath={.status.addresses} {.spec.taints}")
			ok := err == nil && strings.Contains(out, "192.0.2.77") && strings.Contains(out, "stranger.example.com") && strings.Contains(out, `"zone"`)
			return ok, fmt.Sprint(out, err)
		})
		// It is known by its certificate from now on.
		if took, code, err := a.Stop(30 * time.Second); err != nil || code != 0 || took > 10*time.Second {
			t.Errorf("stopping took %s and ended with code %d, error %v", took, code, err)
		}
		a, err = stranger.Start("agent", "--server", f.serverURL(), "--with-node-id")
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the node to be Ready again", func() (bool, string) {
			return strings.Contains(a.Log(), "node is Ready"), a.Log()
		})
		if _, _, err := a.Stop(30 * time.Second); err != nil {
			t.Error(err)
		}
		// Not after its node was deleted.
		if _, err := f.node.Kubectl(t.Context(), "delete", "node", name); err != nil {
			t.Fatal(err)
		}
		if _, err := f.node.Kubectl(t.Context(), "-n", "kube-system", "wait", "--for=delete", "--timeout=60s", "secret/"+name+".node-password.kedge"); err != nil {
			t.Fatal(err)
		}
		result := agent(t, "", append(join, "--with-node-id")...)
		if result.Code <= 0 || !strings.Contains(lastLine(result.Stderr, "kedge: "), "was deleted from the cluster") {
			t.Errorf("a deleted node starts without a token: code %d: %s", result.Code, result.Stderr)
		}
	})

	t.Run("wiped machine", func(t *testing.T) {
		old := f.agents[0]
		if err := old.host.PowerCut(); err != nil {
			t.Fatal(err)
		}
		result := agent(t, good.Reveal(), append(join, "--node-name=agent-1")...)
		if !strings.Contains(result.Stderr, "kedge kubectl delete node agent-1") {
			t.Errorf("the refusal says %s", result.Stderr)
		}
		if _, err := f.node.Kubectl(t.Context(), "delete", "node", "agent-1"); err != nil {
			t.Fatal(err)
		}
		if _, err := stranger.Start("agent", "--server", f.serverURL(), "--token", good.Reveal(), "--node-name=agent-1"); err != nil {
			t.Fatal(err)
		}
		f.waitNode(t, "agent-1")
	})
}
