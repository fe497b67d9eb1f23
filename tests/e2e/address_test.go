//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAddressChange gives the hosts of a cluster other addresses, as DHCP does.
// Nodes keep their names, pods go on, and the server's certificate follows.
func TestAddressChange(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	a := f.agents[0]
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
`)
	s.kubectl("rollout", "status", "daemonset/web", "--timeout=2m")
	before := s.identity()
	change := func(from, to string) string {
		return fmt.Sprintf("ip addr del %s/24 dev eth0 && ip addr add %s/24 dev eth0 && ip route replace default via 198.18.0.1", from, to)
	}
	address := func(node string) string {
		out, _ := f.node.Kubectl(t.Context(), "get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
		return strings.TrimSpace(out)
	}
	// well wants pods to be the same, and the way to them open from every host.
	well := func(t *testing.T) {
		t.Helper()
		s := *s
		s.t = t
		f.waitNode(t, "node")
		f.waitNode(t, "agent-1")
		for _, line := range strings.Split(s.kubectl("get", "pods", "-l", "app=web", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}`), "\n") {
			pod, ip, _ := strings.Cut(strings.TrimSpace(line), " ")
			for _, from := range []*agent{{host: f.node}, a} {
				eventually(t, "an answer of "+pod, func() (bool, string) {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					defer cancel()
					out, err := get(ctx, from.host, "http://"+ip+"/hostname")
					return err == nil && out == pod, fmt.Sprint(out, err)
				})
			}
			eventually(t, "the log of "+pod, func() (bool, string) {
				out, err := s.try("logs", pod)
				return err == nil && strings.Contains(out, "Started HTTP server"), fmt.Sprint(out, err)
			})
		}
		if after := s.identity(); after != before {
			t.Errorf("the containers were\n%s\nand are\n%s", before, after)
		}
	}
	well(t)

	t.Run("agent", func(t *testing.T) {
		out, err := a.host.Exec(t.Context(), "sh", "-c", change(a.host.Address.String(), "198.18.0.112"))
		if err != nil {
			t.Fatal(out, err)
		}
		eventually(t, "the agent's new address", func() (bool, string) {
			return address("agent-1") == "198.18.0.112", address("agent-1")
		})
		well(t)
		if !a.process.Running() {
			t.Error("the agent is another process")
		}
	})
	t.Run("server", func(t *testing.T) {
		out, err := f.node.Exec(t.Context(), "sh", "-c", change(f.node.Address.String(), "198.18.0.111"))
		if err != nil {
			t.Fatal(out, err)
		}
		eventually(t, "the server's new address", func() (bool, string) {
			return address("node") == "198.18.0.111", address("node")
		})
		// An agent that was given the server's address by number can't know the
		// new one: it is told.
		if _, _, err := a.process.Stop(30 * time.Second); err != nil {
			t.Fatal(err)
		}
		if a.process, err = a.host.Start("agent", "--server", "https://198.18.0.111:6443", "--token-file", "/etc/kedge/token"); err != nil {
			t.Fatal(err)
		}
		well(t)
	})
}
