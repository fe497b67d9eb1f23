//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// give puts a file on a host.
func give(t *testing.T, host *testbed.Host, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(host.Path(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(host.Path(path), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestProfileCIS runs pods in a cluster with --profile cis, and looks for what it
// asks for.
func TestProfileCIS(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}
	for path, content := range map[string]string{
		"/etc/audit.yaml":  "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]\n",
		"/etc/psa.yaml":    "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: tight}}\n",
		"/etc/config.yaml": "profile: cis\n",
	} {
		give(t, c.node, path, content)
	}
	if _, err := c.node.Kedge(t.Context(), "version"); err != nil { // unpacks
		t.Fatal(err)
	}
	wantFailure(t, c.node, []string{"server", "--audit-policy-file=/absent"}, "--audit-policy-file", "/absent", "no such file")
	wantFailure(t, c.node, []string{"server", "--audit-policy-file=/etc/audit.yaml"}, "--audit-policy-file", "/etc/audit.yaml", "All")
	wantFailure(t, c.node, []string{"server", "--kube-apiserver-arg=audit-policy-file=/etc/psa.yaml"}, "--kube-apiserver-arg audit-policy-file", "/etc/psa.yaml")
	wantFailure(t, c.node, []string{"server", "--pod-security-admission-config-file=/etc/psa.yaml"}, "--pod-security-admission-config-file", "/etc/psa.yaml", "privileged, baseline, restricted")
	if err := os.Chmod(c.node.Path("/etc/config.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, c.node, []string{"server", "--config=/etc/config.yaml"}, "--profile cis", "/etc/config.yaml has mode 0644", "chmod 600 /etc/config.yaml")

	c.start(t, "--profile=cis")
	c.loadImages(t)
	for _, workload := range []string{"deployment/coredns", "deployment/metrics-server", "daemonset/ingress"} {
		if _, err := c.node.Kubectl(t.Context(), "--namespace=kube-system", "rollout", "status", workload, "--timeout=2m"); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "figures of the node through the network policies", func() (bool, string) {
		out, err := c.node.Kubectl(t.Context(), "top", "node")
		return err == nil, fmt.Sprint(out, err)
	})
	s := c.sandbox(t)
	if out, err := s.try("run", "root", "--image="+c.images.Busybox.Name, "--", "sleep", "3600"); err == nil || !strings.Contains(err.Error(), `violates PodSecurity "restricted:latest"`) {
		t.Errorf("a pod that may do anything: %s, %v", out, err)
	}
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
	securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
	terminationGracePeriodSeconds: 0
	containers:
	- {name: main, image: BUSYBOX, command: [sleep, "3600"], securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}
`)
	s.wait("condition=Ready", "pod/modest")
	eventually(t, "a name of the cluster through the network policies", func() (bool, string) {
		out, err := s.in("modest", "nslookup kubernetes.default.svc.cluster.local")
		return err == nil, fmt.Sprint(out, err)
	})
	eventually(t, "the default ServiceAccounts and the network policies", func() (bool, string) {
		out, err := c.node.Kubectl(t.Context(), "get", "serviceaccount/default", "networkpolicy/kedge-same-namespace", "-o", "jsonpath={.items[0].automountServiceAccountToken}")
		return err == nil && out == "false", fmt.Sprint(out, err)
	})

	s.kubectl("create", "secret", "generic", "noted", "--from-literal=password=not-in-the-log")
	eventually(t, "the audit log to tell of it", func() (bool, string) {
		path := c.node.Path("/var/lib/kedge/server/logs/audit.log")
		info, err := os.Stat(path)
		if err != nil {
			return false, err.Error()
		}
		if info.Mode() != 0o600 {
			t.Errorf("the audit log has mode %v", info.Mode())
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte("not-in-the-log")) {
			t.Error("the audit log holds a Secret")
		}
		return bytes.Contains(content, []byte(`"name":"noted"`)), fmt.Sprint(err)
	})
	stop(t, c.server)
}
