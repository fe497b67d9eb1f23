//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// statusReport is what kedge status -o json says, as far as it is looked at.
type statusReport struct {
	State, Role, Node string
	Nodes             []struct {
		Name  string
		Ready bool
	}
	AddOns   []struct{ Name, State string }
	Problems []struct{ What, Do string }
}

// statusOf runs kedge status on a host.
func statusOf(t *testing.T, host *testbed.Host) (report statusReport, code int) {
	t.Helper()
	result, err := host.Run(t.Context(), nil, host.Binary, "status", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(result.Stdout), &report); err != nil {
		t.Fatalf("%v: %s%s", err, result.Stdout, result.Stderr)
	}
	return report, result.Code
}

// TestStatus looks at a cluster that is well, at one with trouble, and at one that
// has stopped, through status, doctor and metrics.
func TestStatus(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	f := &fleet{cluster: &cluster{node: newHost(t, bed, "node")}, bed: bed}
	a := &agent{name: "agent-1", host: newHost(t, bed, "agent-1")}
	if report, code := statusOf(t, f.node); code != 2 || report.State != "stopped" || report.Role != "" {
		t.Errorf("where nothing has run: code %d, %+v", code, report)
	}
	const password = "a-registry-password"
	registries := f.node.Path("/etc/kedge/registries.yaml")
	if err := os.MkdirAll(path.Dir(registries), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(registries, []byte("configs: {reg.example: {auth: {username: me, password: "+password+"}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start(t, "--supervisor-metrics")
	f.join(t, a)
	f.waitNode(t, a.name)

	eventually(t, "all to be well", func() (bool, string) {
		report, code := statusOf(t, f.node)
		ready := code == 0 && len(report.Nodes) == 2 && len(report.AddOns) >= 5
		for _, add := range report.AddOns {
			ready = ready && add.State == "ready"
		}
		return ready, fmt.Sprintf("code %d, %+v", code, report)
	})
	if report, code := statusOf(t, a.host); code != 0 || report.Role != "agent" || len(report.Nodes) != 1 || report.Nodes[0].Name != a.name {
		t.Errorf("on the agent: code %d, %+v", code, report)
	}
	text, err := f.node.Kedge(t.Context(), "status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Kedge server node", "all is well", "SQLite", "agent-1", "coredns", "certificates"} {
		if !strings.Contains(text, want) || strings.Contains(text, "\x1b") {
			t.Errorf("%q is missing, or colours are not, in:\n%s", want, text)
		}
	}

	t.Run("Metrics", func(t *testing.T) { testSupervisorMetrics(t, f, a) })
	t.Run("Doctor", func(t *testing.T) { testDoctor(t, f, password) })

	t.Run("Stopped", func(t *testing.T) {
		if _, _, err := a.process.Stop(30 * time.Second); err != nil {
			t.Fatal(err)
		}
		if report, code := statusOf(t, a.host); code != 2 || report.State != "stopped" || report.Role != "agent" {
			t.Errorf("on an agent that has stopped: code %d, %+v", code, report)
		}
	})
}

// testSupervisorMetrics reads Kedge's own metrics on a server and on an agent.
func testSupervisorMetrics(t *testing.T, f *fleet, a *agent) {
	for host, wants := range map[*testbed.Host][]string{
		f.node: {`kedge_build_info{node="node",role="server"`, "kedge_certificate_expiration_seconds{", "kedge_tunnel_nodes 1", "kedge_datastore_size_bytes{", "apiserver_request_total"},
		a.host: {`kedge_build_info{node="agent-1",role="agent"`, "kedge_loadbalancer_server_health{", "kedge_loadbalancer_server_connections{", "kedge_loadbalancer_dial_duration_seconds_count{", "kubelet_node_name"},
	} {
		server := "https://" + host.Address.String() + ":6443"
		out, err := f.node.Kubectl(t.Context(), "--server", server, "get", "--raw", "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%s is missing in the metrics of %s", want, host.Name)
			}
		}
		// Others than those whom the cluster allows are refused.
		for user, want := range map[string]string{"": "Unauthorized", "system:serviceaccount:default:default": "orbidden"} {
			args := []string{"--server", server, "get", "--raw", "/metrics"}
			if user == "" {
				args = append(args, "--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--token=no")
			} else {
				token, err := f.node.Kubectl(t.Context(), "create", "token", "default")
				if err != nil {
					t.Fatal(err)
				}
				args = append(args, "--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--token="+strings.TrimSpace(token))
			}
			if out, err := f.node.Kubectl(t.Context(), args...); err == nil || !strings.Contains(fmt.Sprint(err), want) && !strings.Contains(fmt.Sprint(err), "provide credentials") {
				t.Errorf("%q reads the metrics of %s: %v %.100s", user, host.Name, err, out)
			}
		}
	}
}

// testDoctor makes trouble, and wants it to be found, and no secret in the bundle.
func testDoctor(t *testing.T, f *fleet, password string) {
	const secret = "the-secret-of-a-pod"
	_, err := f.node.KubectlIn(t.Context(), `
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {key: `+secret+`}
---
apiVersion: v1
kind: Pod
metadata: {name: trouble}
spec:
  tolerations: [{operator: Exists}]
  containers:
  - {name: main, image: "nowhere.invalid/nothing:1", args: ["--password=`+secret+`"], env: [{name: KEY, value: `+secret+`}]}
`, "apply", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the trouble to be seen", func() (bool, string) {
		report, code := statusOf(t, f.node)
		return code == 1 && len(report.Problems) == 1 && strings.Contains(report.Problems[0].What, "default/trouble"), fmt.Sprintf("code %d, %+v", code, report.Problems)
	})
	result, err := f.node.Run(t.Context(), nil, f.node.Binary, "doctor", "--bundle", "/var/lib/bundle.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	if result.Code != 1 {
		t.Errorf("doctor ends with code %d", result.Code)
	}
	for _, want := range []string{
		"default/trouble can't have image", "signed by this cluster's", "write latency", "to agent-1", "from agent-1",
		"agent-1: cluster names", "node: pods on agent-1", "agent-1: pods on node", "clock of agent-1", "/var/lib/bundle.tar.gz",
	} {
		if !strings.Contains(result.Stdout, want) {
			t.Errorf("doctor doesn't say %q:\n%s%s", want, result.Stdout, result.Stderr)
		}
	}
	for line := range strings.Lines(result.Stdout) {
		if strings.Contains(line, "warning") && (strings.Contains(line, "pods on") || strings.Contains(line, "agent-1") && !strings.Contains(line, "trouble")) {
			t.Errorf("doctor finds wrong what is well: %s", line)
		}
	}
	if left, err := f.node.Kubectl(t.Context(), "get", "pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=kedge-doctor", "-o", "name"); err != nil || strings.TrimSpace(left) != "" {
		// What is being deleted may still be there for a moment.
		eventually(t, "doctor's pods to be gone", func() (bool, string) {
			left, err := f.node.Kubectl(context.Background(), "get", "pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=kedge-doctor", "-o", "name")
			return err == nil && strings.TrimSpace(left) == "", left
		})
	}

	bundle := f.node.Path("/var/lib/bundle.tar.gz")
	if info, err := os.Stat(bundle); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the bundle is %v, error %v", info, err)
	}
	secrets := map[string]string{"registry password": password, "Secret": secret}
	for _, file := range []string{"server/token", "server/node-token", "server/agent-token"} {
		content, err := os.ReadFile(f.node.Path("/var/lib/kedge/" + file))
		if err != nil {
			t.Fatal(err)
		}
		token := strings.TrimSpace(string(content))
		secrets[file] = token[strings.LastIndex(token, ":")+1:]
	}
	files := unpackBundle(t, bundle)
	for name, content := range files {
		for what, secret := range secrets {
			if strings.Contains(content, secret) {
				t.Errorf("%s in the bundle holds the %s", name, what)
			}
		}
		if strings.Contains(content, "PRIVATE KEY") {
			t.Errorf("%s in the bundle holds a key", name)
		}
	}
	for name, want := range map[string]string{
		"doctor.txt": "default/trouble", "status.json": `"problems"`, "config/etc/kedge/registries.yaml": "username: me",
		"cluster/pods.yaml": "name: trouble", "cluster/nodes.yaml": "agent-1", "cluster/readyz.txt": "ok", "machine/packets.txt": "table",
	} {
		if !strings.Contains(files["kedge-support/"+name], want) {
			t.Errorf("%s of the bundle lacks %q: %.300s", name, want, files["kedge-support/"+name])
		}
	}
}

func unpackBundle(t *testing.T, file string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(plain); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(body)
	}
}
