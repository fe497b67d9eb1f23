//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// everywhere is a pod on each node that answers with its name.
const everywhere = `
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
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{port: 80}]}
`

// TestServerWithoutNode runs a control plane alone, which reaches pods and the
// endpoints of Services through the tunnels of agents only.
func TestServerWithoutNode(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	f := &fleet{cluster: &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}, bed: bed}
	server, err := f.node.Start("server", "--disable-agent", "--egress-selector-mode=cluster")
	if err != nil {
		t.Fatal(err)
	}
	f.server = server
	if err := server.WaitAPI(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	a := &agent{name: "agent-1", host: newHost(t, bed, "agent-1")}
	f.join(t, a)
	f.waitNode(t, a.name)
	if err := a.host.LoadImage(t.Context(), f.images.Agnhost.Archive); err != nil {
		t.Fatal(err)
	}
	if out, err := f.node.Kubectl(t.Context(), "get", "nodes", "-o", "name"); err != nil || out != "node/agent-1\n" {
		t.Errorf("the nodes are %q, error %v", out, err)
	}
	if links, err := f.node.Exec(t.Context(), "ip", "-brief", "link"); err != nil || strings.Contains(links, "cni0") || strings.Contains(links, "flannel") {
		t.Errorf("the server's host has a pod network, error %v:\n%s", err, links)
	}
	s := f.sandbox(t)
	s.apply(everywhere)
	s.kubectl("rollout", "status", "daemonset/web", "--timeout=2m")
	pod := s.pods("app=web")[0]
	for _, path := range []string{"pods/" + pod + ":80", "services/web:80"} {
		eventually(t, "an answer by the proxy of "+path, func() (bool, string) {
			out, err := s.try("get", "--raw", "/api/v1/namespaces/"+s.namespace+"/"+path+"/proxy/hostname")
			return err == nil && out == pod, fmt.Sprint(out, err)
		})
	}
	if out := s.kubectl("logs", pod); !strings.Contains(out, "Started HTTP server") {
		t.Errorf("the log is %q", out)
	}
	s.forwards("pod/"+pod, "80", "web-")
	checkWebhook(t, s)
}

// TestDualStack has two nodes with addresses of both families, which send pod
// traffic to each other's external addresses as the user's own configuration of
// flannel says. The IPv6 ones are also their internal ones. There is no tunnel.
func TestDualStack(t *testing.T) {
	t.Parallel()
	f, a := newIPv6Hosts(t)
	files := map[string]string{
		"/etc/flannel.json": `{"Backend": {"Type": "vxlan", "VNI": 7, "Port": 4789}}`,
		"/etc/cni.json": `{"cniVersion": "1.0.0", "name": "mine", "plugins": [{"type": "bridge", "bridge": "mine0", "isGateway": true, "mtu": 1300,
			"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.42.0.0/24"}], [{"subnet": "fd42::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}]}`,
	}
	for i, host := range []*testbed.Host{f.node, a.host} {
		for path, content := range files {
			if err := os.WriteFile(host.Path(path), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		addresses := fmt.Sprintf("ip addr add 203.0.113.%d/24 dev eth0 && ip addr add 2001:db8:2::%d/64 dev eth0 nodad", i+1, i+1)
		if _, err := host.Exec(t.Context(), "sh", "-c", addresses); err != nil {
			t.Fatal(err)
		}
	}
	// What arrives at the agent's kubelet from outside.
	if _, err := a.host.Exec(t.Context(), "nft", `add table inet seen
		add counter inet seen kubelet
		add chain inet seen input { type filter hook input priority filter; }
		add rule inet seen input iifname eth0 tcp dport 10250 counter name kubelet`); err != nil {
		t.Fatal(err)
	}
	f.start(t, "--cluster-cidr=10.42.0.0/16,fd42::/48", "--service-cidr=10.43.0.0/16,fd43::/112",
		"--node-ip=198.18.0.11,2001:db8:2::1", "--node-external-ip=203.0.113.1,2001:db8:2::1", "--flannel-external-ip", "--flannel-conf=/etc/flannel.json", "--flannel-cni-conf=/etc/cni.json", "--egress-selector-mode=disabled")
	f.join(t, a, "--flannel-conf=/etc/flannel.json", "--node-ip=198.18.0.12,2001:db8:2::2", "--node-external-ip=203.0.113.2,2001:db8:2::2")
	testFamilies(t, f, a, 2)

	for command, wanted := range map[string][]string{
		"ip -details link show flannel.7":    {"vxlan id 7 ", "dstport 4789"},
		"ip -details link show flannel-v6.7": {"vxlan id 7 ", "dstport 4789"},
		"bridge fdb show dev flannel.7":      {"dst 203.0.113.2 "},
		"bridge fdb show dev flannel-v6.7":   {"dst 2001:db8:2::2 "},
		"ip link show master mine0":          {"mtu 1300"},
	} {
		out, err := f.node.Exec(t.Context(), "sh", "-c", command)
		if err != nil {
			t.Error(err)
		}
		for _, want := range wanted {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", command, want, out)
			}
		}
	}
	counter, err := a.host.Exec(t.Context(), "nft", "list", "counter", "inet", "seen", "kubelet")
	if err != nil || strings.Contains(counter, "packets 0 ") {
		t.Errorf("the server has reached the agent's kubelet by a tunnel that is disabled, error %v:\n%s", err, counter)
	}
}

// TestIPv6 has two nodes with no IPv4 address but loopback's.
func TestIPv6(t *testing.T) {
	t.Parallel()
	f, a := newIPv6Hosts(t)
	for i, host := range []*testbed.Host{f.node, a.host} {
		if _, err := host.Exec(t.Context(), "ip", "-4", "addr", "flush", "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
		host.Address = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%d", i+1))
	}
	f.start(t, "--cluster-init", "--cluster-cidr=fd42::/48", "--service-cidr=fd43::/112")
	f.join(t, a)
	s := testFamilies(t, f, a, 1)
	s.check("the node's address", s.field("node/agent-1", `.status.addresses[?(@.type=="InternalIP")].address`), a.host.Address.String())
	// The hosts' own nameserver has an IPv4 address.
	if !strings.Contains(f.server.Log(), "so they get 2001:4860:4860::8888") {
		t.Errorf("the log doesn't tell which nameserver pods get:\n%s", f.server.Log())
	}
	s.kubectl("--namespace=kube-system", "wait", "--for=condition=Available", "deployment", "--all", "--timeout=2m")
	s.apply(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
`)
	for _, host := range []*testbed.Host{f.node, a.host} {
		url := "http://[" + host.Address.String() + "]/hostname"
		eventually(t, "the ingress at "+url, func() (bool, string) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			out, err := get(ctx, a.host, url)
			return err == nil && strings.HasPrefix(out, "web-"), fmt.Sprint(out, err)
		})
	}
}

// newIPv6Hosts makes a host for a server and one for an agent, which have IPv6
// addresses too. Nothing is started.
func newIPv6Hosts(t *testing.T) (*fleet, *agent) {
	t.Helper()
	bed := testbed.New(t)
	f := &fleet{cluster: &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}, bed: bed}
	a := &agent{name: "agent-1", host: newHost(t, bed, "agent-1")}
	for i, host := range []*testbed.Host{f.node, a.host} {
		if _, err := host.Exec(t.Context(), "sh", "-c", fmt.Sprintf("ip -6 addr add 2001:db8:1::%d/64 dev eth0 nodad", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	return f, a
}

// testFamilies reaches pods, Services and names on two nodes by each of the
// cluster's IP families.
func testFamilies(t *testing.T, f *fleet, a *agent, families int) *sandbox {
	t.Helper()
	f.waitNode(t, a.name)
	f.loadImages(t)
	if err := a.host.LoadImage(t.Context(), f.images.Agnhost.Archive); err != nil {
		t.Fatal(err)
	}
	s := f.sandbox(t)
	s.apply(everywhere)
	s.kubectl("rollout", "status", "daemonset/web", "--timeout=2m")
	services := strings.Fields(strings.NewReplacer("[", "", "]", "", ",", " ", `"`, "").Replace(s.field("service/web", ".spec.clusterIPs")))
	if len(services) != families {
		t.Fatalf("the Service has the addresses %q", services)
	}
	for _, line := range strings.Split(s.kubectl("get", "pods", "-l", "app=web", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.podIPs[*].ip}{"\n"}{end}`), "\n") {
		pod, ips, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n := len(strings.Fields(ips)); n != families {
			t.Errorf("pod %s has the addresses %q", pod, ips)
		}
		for _, ip := range strings.Fields(ips) {
			for _, from := range []*agent{{name: "node", host: f.node}, a} {
				eventually(t, from.name+" to reach "+pod+" at "+ip, func() (bool, string) {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					defer cancel()
					out, err := get(ctx, from.host, "http://"+net.JoinHostPort(ip, "80")+"/hostname")
					return err == nil && out == pod, fmt.Sprint(out, err)
				})
			}
		}
		for _, service := range append(services, "web", "kubernetes.default") {
			port := map[bool]string{true: "443", false: "80"}[service == "kubernetes.default"]
			eventually(t, pod+" to reach the Service at "+service, func() (bool, string) {
				out, err := s.try("exec", pod, "--", "/agnhost", "connect", "--timeout=2s", net.JoinHostPort(service, port))
				return err == nil, fmt.Sprint(out, err)
			})
		}
	}
	return s
}

// TestOtherNetwork leaves the pod network to the user: the node says what it
// waits for, and is Ready once a CNI configuration is there.
func TestOtherNetwork(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}
	server, err := c.node.Start("server", "--flannel-backend=none", "--disable-network-policy", "--snapshotter=native")
	if err != nil {
		t.Fatal(err)
	}
	c.server = server
	if err := server.WaitAPI(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node to say why it is NotReady", func() (bool, string) {
		out, err := c.node.Kubectl(t.Context(), "get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].message}`)
		return err == nil && strings.Contains(out, "cni plugin not initialized"), fmt.Sprint(out, err)
	})
	if !strings.Contains(server.Log(), "once you have installed a CNI plugin") {
		t.Errorf("the log doesn't say what to do:\n%s", server.Log())
	}
	conf := `{"cniVersion": "1.0.0", "name": "mine", "plugins": [{"type": "bridge", "bridge": "mine0", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.42.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`
	path := c.node.Path("/var/lib/kedge/agent/etc/cni/net.d/05-mine.conflist")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := server.WaitReady(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	layers := func(snapshotter string) int {
		found, err := os.ReadDir(c.node.Path("/var/lib/kedge/agent/containerd/io.containerd.snapshotter.v1." + snapshotter + "/snapshots"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return len(found)
	}
	eventually(t, "an image that the native snapshotter keeps", func() (bool, string) { return layers("native") > 0, "" })
	if n := layers("overlayfs"); n > 0 {
		t.Errorf("overlayfs has %d layers although another snapshotter was chosen", n)
	}
	c.loadImages(t)
	s := c.sandbox(t)
	s.apply(everywhere)
	s.kubectl("rollout", "status", "daemonset/web", "--timeout=2m")
	if links, err := c.node.Exec(t.Context(), "ip", "-brief", "link"); err != nil || !strings.Contains(links, "mine0") || strings.Contains(links, "cni0") {
		t.Errorf("the links, error %v:\n%s", err, links)
	}
}
