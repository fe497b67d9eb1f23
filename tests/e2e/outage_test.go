//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// cutTime is how long a node is cut off. It is longer than a server takes to
// notice (40 s), so that the node is NotReady when it is back.
const cutTime = time.Minute

// TestOutage takes parts of a cluster of two nodes away and gives them back.
// Nothing needs a hand, pods stay the same, and traffic goes on.
func TestOutage(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	a := f.agents[0]
	s := f.sandbox(t)
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
	nodeName: agent-1
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: AGNHOST, args: [netexec, --http-port=80]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
	nodeName: node
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: AGNHOST, args: [pause]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
`)
	s.wait("condition=Ready", "pod/web", "pod/client")
	url := "http://" + a.host.Address.String() + ":" + s.field("service/web", ".spec.ports[0].nodePort") + "/hostname"
	before := s.identity()

	// serves wants an answer from the pod on the agent, asked by the host of the
	// server.
	serves := func(t *testing.T, when string) {
		t.Helper()
		eventually(t, "the pod to answer "+when, func() (bool, string) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			out, err := get(ctx, f.node, url)
			return err == nil && out == "web", fmt.Sprint(out, err)
		})
	}
	// well wants all as it was: both nodes Ready, the same containers, and
	// the way between pods, to logs and to new pods open.
	well := func(t *testing.T) {
		t.Helper()
		s := *s
		s.t = t
		f.waitNode(t, "node")
		f.waitNode(t, "agent-1")
		serves(t, "afterwards")
		eventually(t, "exec through the Service", func() (bool, string) {
			out, err := s.try("exec", "client", "--", "/agnhost", "connect", "--timeout=3s", "web:80")
			return err == nil, fmt.Sprint(out, err)
		})
		eventually(t, "the log of a pod on the agent", func() (bool, string) {
			out, err := s.try("logs", "web")
			return err == nil && strings.Contains(out, "Started HTTP server"), fmt.Sprint(out, err)
		})
		if after := s.identity(); after != before {
			t.Errorf("the containers were\n%s\nand are\n%s", before, after)
		}
	}
	well(t)

	t.Run("agent is stopped", func(t *testing.T) {
		took, code, err := a.process.Stop(30 * time.Second)
		if err != nil || code != 0 || took > 10*time.Second {
			t.Errorf("stopping took %s and ended with code %d, error %v", took, code, err)
		}
		serves(t, "without an agent")
		f.join(t, a)
		well(t)
	})
	t.Run("agent is killed", func(t *testing.T) {
		if err := a.process.Kill(); err != nil {
			t.Fatal(err)
		}
		serves(t, "without an agent")
		f.join(t, a)
		well(t)
	})
	t.Run("server is killed", func(t *testing.T) {
		if err := f.server.Kill(); err != nil {
			t.Fatal(err)
		}
		serves(t, "without a server")
		f.start(t)
		well(t)
	})
	t.Run("both are killed", func(t *testing.T) {
		if err := f.server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := a.process.Kill(); err != nil {
			t.Fatal(err)
		}
		f.join(t, a)
		// The agent waits for its server, with a line that says so.
		eventually(t, "the agent to wait", func() (bool, string) {
			return strings.Contains(a.process.Log(), "waiting for a server"), a.process.Log()
		})
		f.start(t)
		well(t)
	})
	t.Run("network is cut", func(t *testing.T) {
		if err := f.bed.Cut(a.host); err != nil {
			t.Fatal(err)
		}
		time.Sleep(cutTime)
		eventually(t, "the node to be NotReady", func() (bool, string) {
			out, err := f.node.Kubectl(t.Context(), "get", "node", "agent-1", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
			return err == nil && out == "Unknown", fmt.Sprint(out, err)
		})
		if err := f.bed.Mend(a.host); err != nil {
			t.Fatal(err)
		}
		well(t)
	})
	t.Run("agent's host is rebooted", func(t *testing.T) {
		if err := a.host.PowerCut(); err != nil {
			t.Fatal(err)
		}
		if err := a.host.Boot(); err != nil {
			t.Fatal(err)
		}
		uid := s.field("pod/web", ".metadata.uid")
		f.join(t, a)
		f.waitNode(t, "agent-1")
		serves(t, "after the reboot")
		if now := s.field("pod/web", ".metadata.uid"); now != uid {
			t.Errorf("the pod was replaced: %s, before %s", now, uid)
		}
		before = s.identity() // its container is a new one
		well(t)
	})
	t.Run("server's host is rebooted", func(t *testing.T) {
		if err := f.node.PowerCut(); err != nil {
			t.Fatal(err)
		}
		if err := f.node.Boot(); err != nil {
			t.Fatal(err)
		}
		f.start(t)
		f.waitNode(t, "agent-1")
		eventually(t, "all pods to be Ready", func() (bool, string) {
			out, err := s.try("get", "pods", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
			return err == nil && out == "True True", fmt.Sprint(out, err)
		})
		serves(t, "after the reboot")
	})
}
