//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
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
	f.join(t, a, "--node-label=zone=dmz")
	f.waitNode(t, "agent-1")
	if err := a.host.LoadImage(t.Context(), f.images.Agnhost.Archive); err != nil {
		t.Fatal(err)
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
`)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/client")
	s.forwards("pod/web", "80", "web")
}
