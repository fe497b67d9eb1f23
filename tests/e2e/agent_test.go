//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/images"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// fleet is a cluster with agents.
type fleet struct {
	*cluster
	bed    *testbed.Bed
	agents []*agent
}

// agent is a host that runs an agent.
type agent struct {
	name    string
	host    *testbed.Host
	process *testbed.Process
}

// newFleet starts a server and then agents, all at the same time.
func newFleet(t *testing.T, agents int) *fleet {
	t.Helper()
	bed := testbed.New(t)
	f := &fleet{cluster: &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}, bed: bed}
	f.start(t)
	for i := range agents {
		name := fmt.Sprintf("agent-%d", i+1)
		f.agents = append(f.agents, &agent{name: name, host: newHost(t, bed, name)})
	}
	for _, a := range f.agents {
		f.join(t, a)
	}
	for _, a := range f.agents {
		f.waitNode(t, a.name)
		for _, image := range []images.Image{f.images.Busybox, f.images.Agnhost} {
			if err := a.host.LoadImage(t.Context(), image.Archive); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.loadImages(t)
	return f
}

// serverURL is where agents join.
func (f *fleet) serverURL() string {
	return "https://" + net.JoinHostPort(f.node.Address.String(), "6443")
}

// giveToken puts the cluster's token on a host, as an administrator does.
func (f *fleet) giveToken(t *testing.T, host *testbed.Host) {
	t.Helper()
	content, err := os.ReadFile(f.node.Path("/var/lib/kedge/server/node-token"))
	if err != nil {
		t.Fatal(err)
	}
	path := host.Path("/etc/kedge/token")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// join starts an agent with the cluster's token.
func (f *fleet) join(t *testing.T, a *agent, args ...string) {
	t.Helper()
	f.giveToken(t, a.host)
	var err error
	a.process, err = a.host.Start(append([]string{"agent", "--server", f.serverURL(), "--token-file", "/etc/kedge/token"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
}

// waitNode waits until a node is Ready.
func (f *fleet) waitNode(t *testing.T, name string) {
	t.Helper()
	eventually(t, "node "+name+" to be Ready", func() (bool, string) {
		out, err := f.node.Kubectl(t.Context(), "get", "node", name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return err == nil && out == "True", fmt.Sprint(out, err)
	})
}

// TestAgents joins three agents at the same time and looks at what a cluster of
// several nodes is for.
func TestAgents(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	for _, a := range f.agents {
		t.Log(lastLine(a.process.Log(), "node is Ready"))
		if strings.Contains(a.process.Log(), " ERROR ") {
			t.Errorf("agent %s logs errors at a healthy start:\n%s", a.name, a.process.Log())
		}
	}
	s := f.sandbox(t)
	s.apply(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
	selector: {matchLabels: {app: web}}
	template:
		metadata: {labels: {app: web}}
		spec:
			terminationGracePeriodSeconds: 0
			containers: [{name: main, image: AGNHOST, args: [netexec, --http-port=80]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
`)
	s.kubectl("rollout", "status", "daemonset/web", "--timeout=2m")
	pods := map[string]string{} // address by node
	for _, line := range strings.Split(s.kubectl("get", "pods", "-l", "app=web", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name} {.status.podIP}{"\n"}{end}`), "\n") {
		var node, pod, address string
		if _, err := fmt.Sscan(line, &node, &pod, &address); err != nil {
			t.Fatal(err)
		}
		pods[node] = address
		t.Run("logs and exec on "+node, func(t *testing.T) {
			s := *s
			s.t = t
			if out := s.kubectl("exec", pod, "--", "/agnhost", "--version"); !strings.Contains(out, "version") {
				t.Errorf("exec in %s gives %q", pod, out)
			}
			if out := s.kubectl("logs", pod); !strings.Contains(out, "Started HTTP server") {
				t.Errorf("the log of %s is %q", pod, out)
			}
		})
	}
	if len(pods) != 4 {
		t.Fatalf("pods run on %v, want 4 nodes", pods)
	}
	// Each node reaches the pods of all nodes, and the Service on every node.
	for _, from := range append([]*agent{{name: "node", host: f.node}}, f.agents...) {
		for node, address := range pods {
			eventually(t, from.name+" to reach the pod on "+node, func() (bool, string) {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				out, err := get(ctx, from.host, "http://"+address+"/hostname")
				return err == nil && out != "", fmt.Sprint(out, err)
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := get(ctx, f.node, "http://"+from.host.Address.String()+":30080/hostname"); err != nil {
			t.Errorf("NodePort on %s: %v", from.name, err)
		}
		cancel()
	}
	t.Run("a node changes itself only", func(t *testing.T) {
		s := *s
		s.t = t
		testNodeRestriction(&s, f.agents[0], f.agents[1].name)
	})
	t.Run("pods by name across nodes", func(t *testing.T) {
		s := *s
		s.t = t
		testByName(t, &s)
	})
}

// testNodeRestriction has the kubelet of a node change its own node and another's.
func testNodeRestriction(s *sandbox, a *agent, other string) {
	label := func(node, key string) error {
		manifest := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Node", "metadata": {"name": %q, "labels": {%q: "y"}}}`, node, key)
		_, err := a.host.KubectlIn(s.t.Context(), manifest, "--kubeconfig=/var/lib/kedge/agent/etc/kubelet.kubeconfig",
			"apply", "--server-side", "--field-manager=test", "--validate=false", "-f", "-")
		return err
	}
	if err := label(a.name, "x"); err != nil {
		s.t.Error(err)
	}
	for _, test := range []struct{ node, key, want string }{
		{other, "x", "is not allowed to modify node"},
		{a.name, "node-restriction.kubernetes.io/x", "is not allowed to modify labels"},
		{"made-up", "x", "is not allowed to modify node"},
	} {
		if err := label(test.node, test.key); err == nil || !strings.Contains(err.Error(), test.want) {
			s.t.Errorf("label %s of node %s: error %v, want %q", test.key, test.node, err, test.want)
		}
	}
	s.check("the label", s.field("node/"+a.name, ".metadata.labels.x"), "y")
	s.check("the other node's", s.field("node/"+other, ".metadata.labels.x"), "")
}

// testByName has pods with a host name in a headless Service's subdomain, on two
// nodes, ping each other by name.
func testByName(t *testing.T, s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Service
metadata: {name: default-subdomain}
spec: {clusterIP: None, selector: {name: busybox}, ports: [{name: foo, port: 1234}]}
---
apiVersion: v1
kind: Pod
metadata: {name: busybox1, labels: {name: busybox}}
spec:
	nodeName: agent-1
	hostname: busybox-1
	subdomain: default-subdomain
	terminationGracePeriodSeconds: 0
	containers: [{name: busybox, image: BUSYBOX, command: [sleep, "3600"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: busybox2, labels: {name: busybox}}
spec:
	nodeName: agent-2
	hostname: busybox-2
	subdomain: default-subdomain
	terminationGracePeriodSeconds: 0
	containers: [{name: busybox, image: BUSYBOX, command: [sleep, "3600"]}]
`)
	s.wait("condition=Ready", "pod/busybox1", "pod/busybox2")
	for from, to := range map[string]string{"busybox1": "busybox-2", "busybox2": "busybox-1"} {
		name := to + ".default-subdomain." + s.namespace + ".svc.cluster.local"
		eventually(t, from+" to ping "+name, func() (bool, string) {
			out, err := s.try("exec", from, "--", "ping", "-c", "1", "-W", "2", name)
			return err == nil && strings.Contains(out, "1 packets received"), fmt.Sprint(out, err)
		})
	}
}

// lastLine is the last line of a log with the text in it.
func lastLine(log, text string) string {
	found := ""
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) {
			found = strings.TrimSpace(line)
		}
	}
	return found
}
