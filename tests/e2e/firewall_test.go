//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/images"
)

// dmz lets an agent's host speak to its server's port and send pod traffic, and
// keeps everybody else out, the server included.
const dmz = `
table inet dmz {
	chain input {
		type filter hook input priority filter; policy drop;
		iifname { "lo", "cni0", "flannel.1" } accept
		ct state established,related accept
		ip saddr SERVER udp dport 8472 accept
	}
	chain output {
		type filter hook output priority filter; policy drop;
		oifname { "lo", "cni0", "flannel.1" } accept
		ct state established,related accept
		ip daddr SERVER tcp dport 6443 accept
		ip daddr SERVER udp dport 8472 accept
	}
}
`

// TestFirewall joins an agent whose firewall lets only the documented flows
// pass.
func TestFirewall(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	a := &agent{name: "agent-1", host: newHost(t, f.bed, "agent-1")}
	rules := strings.ReplaceAll(dmz, "SERVER", f.node.Address.String())
	if _, err := a.host.ExecIn(t.Context(), strings.NewReader(rules), "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.host.Path("/etc/resolv.pods"), []byte("nameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.join(t, a, "--node-label=zone=dmz", "--lb-server-port=7444", "--resolv-conf=/etc/resolv.pods")
	f.waitNode(t, "agent-1")
	for _, image := range []images.Image{f.images.Busybox, f.images.Agnhost} {
		if err := a.host.LoadImage(t.Context(), image.Archive); err != nil {
			t.Fatal(err)
		}
	}
	for port, want := range map[string]bool{"6444": false, "7444": true} {
		conn, err := a.host.Dial(t.Context(), "tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
		}
		if (err == nil) != want {
			t.Errorf("the load balancer listens on port %s: error %v, want it: %t", port, err, want)
		}
	}
	closed, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if conn, err := f.node.Dial(closed, "tcp", a.host.Address.String()+":10250"); err == nil {
		_ = conn.Close()
		t.Fatal("the firewall lets the server through to the kubelet")
	}

	s := f.sandbox(t)
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
	nodeSelector: {zone: dmz}
	terminationGracePeriodSeconds: 0
	containers:
	- name: main
	  image: AGNHOST
	  args: [netexec, --http-port=80]
	  readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`)
	s.wait("condition=Ready", "pod/web")
	if out := s.kubectl("logs", "web"); !strings.Contains(out, "Started HTTP server") {
		t.Errorf("the log is %q", out)
	}
	if out := s.kubectl("exec", "web", "--", "/agnhost", "--version"); !strings.Contains(out, "version") {
		t.Errorf("exec gives %q", out)
	}
	if out := s.kubectl("get", "--raw", "/api/v1/nodes/agent-1/proxy/stats/summary"); !strings.Contains(out, `"nodeName": "agent-1"`) {
		t.Errorf("the node's statistics are %.200q", out)
	}
	eventually(t, "an answer by the pod's proxy", func() (bool, string) {
		out, err := s.try("get", "--raw", "/api/v1/namespaces/"+s.namespace+"/pods/web:80/proxy/hostname")
		return err == nil && out == "web", fmt.Sprint(out, err)
	})
	s.top("agent-1"+inUseOfNode, "node", "agent-1")
	s.top("web"+inUse, "pod", "web")
	// From the server's pods, by the name of the Service, over vxlan.
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
	nodeName: node
	restartPolicy: OnFailure
	containers: [{name: main, image: AGNHOST, args: [connect, --timeout=5s, "web:80"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: resolver}
spec:
	nodeName: agent-1
	dnsPolicy: Default
	restartPolicy: Never
	containers: [{name: main, image: BUSYBOX, command: [cat, /etc/resolv.conf]}]
`)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/client", "pod/resolver")
	s.check("the pod's resolv.conf", s.kubectl("logs", "resolver"), "nameserver 192.0.2.53")
	s.forwards("pod/web", "80", "web")
	s.attaches("agent-1")

	t.Run("pods through the tunnel", func(t *testing.T) {
		// Now not even vxlan passes.
		if _, err := a.host.Exec(t.Context(), "nft", "insert rule inet dmz input udp dport 8472 drop; insert rule inet dmz output udp dport 8472 drop"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.server.Stop(limit); err != nil {
			t.Fatal(err)
		}
		f.start(t, "--egress-selector-mode=pod")
		// An agent asks for the mode when it starts.
		if _, _, err := a.process.Stop(limit); err != nil {
			t.Fatal(err)
		}
		f.join(t, a)
		eventually(t, "an answer by the pod's proxy", func() (bool, string) {
			out, err := s.try("get", "--raw", "/api/v1/namespaces/"+s.namespace+"/pods/web:80/proxy/hostname")
			return err == nil && out == "web", fmt.Sprint(out, err)
		})
	})
}
