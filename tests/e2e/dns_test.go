//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// dnsAddress is that of the cluster's DNS server.
const dnsAddress = "10.43.0.10:53"

// configLimit is how long a change of CoreDNS's configuration may take: the
// kubelet brings it into the pod within 90 s, and CoreDNS looks every 45 s.
const configLimit = 4 * time.Minute

// resolve asks the cluster's DNS server from the node for an IPv4 address.
func (s *sandbox) resolve(name string) (string, error) {
	resolver := net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return s.node.Dial(ctx, network, dnsAddress)
		},
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	found, err := resolver.LookupNetIP(ctx, "ip4", name+".")
	if err != nil {
		return "", err
	}
	return fmt.Sprint(found), nil
}

// resolves waits until a name has an address; empty: until there is no such name.
func (s *sandbox) resolves(within time.Duration, name, want string) {
	s.t.Helper()
	began := time.Now()
	err := testbed.Wait(s.t.Context(), name+" to be "+want, within, func(context.Context) (bool, string) {
		got, err := s.resolve(name)
		if want == "" {
			unknown, ok := errors.AsType[*net.DNSError](err)
			return ok && unknown.IsNotFound, fmt.Sprint(got, err)
		}
		return err == nil && got == "["+want+"]", fmt.Sprint(got, err)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("%s is %q after %s", name, want, time.Since(began).Round(time.Millisecond))
}

// resolver is a DNS server on a host, for the zone example.test.
const resolver = `
example.test {
	template IN A {
		answer "{{ .Name }} 5 IN A 192.0.2.7"
	}
}
`

// TestDNS has a resolver in the network, settings of the user's own, and nodes
// that come and go.
func TestDNS(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), beside: newHost(t, bed, "beside"), images: buildImages(t)}
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	corefile := filepath.Join(t.TempDir(), "Corefile")
	for path, content := range map[string]string{
		corefile:                        resolver,
		c.node.Path("/etc/resolv.conf"): "nameserver 127.0.0.53\nsearch lan\n",
		c.node.Path("/run/systemd/resolve/resolv.conf"): "nameserver " + c.beside.Address.String() + "\nsearch lan\n",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	command := c.beside.Command(t.Context(), filepath.Join(root, "build", "bin", "addons"), "coredns", "-conf", corefile)
	if err := c.beside.StartCommand(command); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	c.start(t)
	c.loadImages(t)
	s := c.sandbox(t)

	s.resolves(limit, "kubernetes.default.svc.cluster.local", "10.43.0.1")
	s.resolves(limit, "www.example.test", "192.0.2.7")
	s.resolves(configLimit, "node", c.node.Address.String())

	const custom = `
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns-custom, namespace: kube-system}
data:
	mine.override: |
		template IN A mine.test {
		  answer "{{ .Name }} 30 IN A 192.0.2.8"
		}
	other.server: |
		other.test {
		  hosts {
		    192.0.2.9 www.other.test
		  }
		}
---
apiVersion: v1
kind: Node
metadata: {name: passing}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: Hostname, address: passing}]}
`
	if _, err := c.node.KubectlIn(t.Context(), strings.ReplaceAll(custom, "\t", "  "), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	s.resolves(configLimit, "www.mine.test", "192.0.2.8")
	s.resolves(configLimit, "www.other.test", "192.0.2.9")
	s.resolves(configLimit, "passing", "192.0.2.10")
	s.shell("client")
	for name, want := range map[string]string{"www.example.test": "192.0.2.7", "www.mine.test": "192.0.2.8"} {
		if out, err := s.in("client", "nslookup -type=a "+name); err != nil || !strings.Contains(out, want) {
			t.Errorf("a pod finds %s as %s, error %v; want %s", name, out, err, want)
		}
	}
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: connect}
spec:
	restartPolicy: OnFailure
	containers: [{name: main, image: AGNHOST, args: [connect, --timeout=5s, "node:10250"]}]
`)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/connect")
	for line := range strings.Lines(c.server.Log()) {
		if strings.Contains(line, "/kedge/nodes/passing") {
			t.Errorf("a node that does not answer makes the server log: %s", line)
		}
	}
	s.kubectl("delete", "node/passing")
	eventually(t, "the node to be out of the ConfigMap", func() (bool, string) {
		hosts := s.corednsField("configmap/coredns", ".data.NodeHosts")
		return strings.TrimSpace(hosts) == c.node.Address.String()+" node", hosts
	})
	if corefile := s.corednsField("configmap/coredns", ".data.Corefile"); !strings.Contains(corefile, "cluster.local") {
		t.Errorf("the Corefile is %q", corefile)
	}

	t.Run("ResolverDown", func(t *testing.T) { testResolverDown(c.sandbox(t)) })
}

// corednsField returns a field of one of CoreDNS's objects.
func (s *sandbox) corednsField(object, path string) string {
	s.t.Helper()
	return s.kubectl("--namespace", "kube-system", "get", object, "-o", "jsonpath={"+path+"}")
}

// testResolverDown takes the network's resolver away, and looks at what is left.
func testResolverDown(s *sandbox) {
	const block = `table inet down {
	chain input {
		type filter hook input priority filter
		udp dport 53 drop
		tcp dport 53 drop
	}
}`
	s.resolves(limit, "known.example.test", "192.0.2.7")
	if _, err := s.beside.ExecIn(s.t.Context(), strings.NewReader(block), "nft", "-f", "-"); err != nil {
		s.t.Fatal(err)
	}
	// The first ones wait for the resolver. From then on it is known to be down.
	quick := 0
	eventually(s.t, "quick refusals of unknown names", func() (bool, string) {
		began := time.Now()
		got, err := s.resolve(fmt.Sprintf("unknown-%d.example.test", began.UnixNano()))
		took := time.Since(began)
		failure, ok := errors.AsType[*net.DNSError](err)
		if ok && !failure.IsTimeout && !failure.IsNotFound && took < time.Second {
			quick++
		}
		return quick >= 3, fmt.Sprint(got, err, " after ", took)
	})
	s.resolves(limit, "kubernetes.default.svc.cluster.local", "10.43.0.1")
	// Longer than its TTL of 5 s.
	time.Sleep(6 * time.Second)
	s.resolves(limit, "known.example.test", "192.0.2.7")

	s.kubectl("--namespace", "kube-system", "delete", "pod", "--selector=k8s-app=kube-dns", "--wait=false")
	s.kubectl("--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
	eventually(s.t, "the old pod to be gone", func() (bool, string) {
		pods := strings.Fields(s.kubectl("--namespace", "kube-system", "get", "pods", "--selector=k8s-app=kube-dns", "-o", "name"))
		return len(pods) == 1, fmt.Sprint(pods)
	})
	s.resolves(limit, "kubernetes.default.svc.cluster.local", "10.43.0.1")
	s.check("restarts of CoreDNS", s.kubectl("--namespace", "kube-system", "get", "pods", "--selector=k8s-app=kube-dns",
		"-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"), "0")

	if _, err := s.beside.Exec(s.t.Context(), "nft", "delete", "table", "inet", "down"); err != nil {
		s.t.Fatal(err)
	}
	s.resolves(limit, "back.example.test", "192.0.2.7")
}
