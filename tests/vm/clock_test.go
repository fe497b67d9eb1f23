//go:build vm

package vm

import (
	"strings"
	"testing"
	"time"
)

// TestClock starts a server and an agent on machines whose clocks are years late, as
// those of boards without a battery are, and sets them while Kedge runs.
func TestClock(t *testing.T) {
	network := NewNetwork(t)
	server := newNode(t, Options{Name: "server", Network: network, Address: "10.77.0.1/24"})
	agent := newNode(t, Options{Name: "agent", Memory: 1024, Network: network, Address: "10.77.0.2/24"})
	both := []*node{agent, server}
	for _, n := range both {
		n.execute("systemctl stop systemd-timesyncd 2>/dev/null || true; date --set='-2 years'")
	}
	server.start("--node-ip=10.77.0.1")
	agent.execute("mkdir -p /etc/kedge && umask 077 && cat >/etc/kedge/token <<'END'\n" + server.execute("cat /var/lib/kedge/server/node-token") + "\nEND")
	if err := agent.Start(t.Context(), "agent", "--server=https://10.77.0.1:6443", "--token-file=/etc/kedge/token", "--node-ip=10.77.0.2"); err != nil {
		t.Fatal(err)
	}
	server.wait("create", "node/agent")
	server.wait("condition=Ready", "node/agent")
	year := func(n *node) string {
		beat := server.field("node/"+n.Name, `.status.conditions[?(@.type=="Ready")].lastHeartbeatTime`)
		first, _, _ := strings.Cut(beat, "-")
		return first
	}
	before := year(server)

	// The agent's clock is set first: it then waits for the server's.
	begin := time.Now()
	for _, n := range both {
		n.execute("date --set='+2 years'")
		n.eventually("Kedge to start again on "+n.Name, func() (bool, string) {
			log := n.log()
			return strings.Contains(log, "starting again"), lastLines(log, 10)
		})
		t.Logf("on %s Kedge starts again after %s", n.Name, since(begin))
	}
	server.waitReady(begin)
	for _, n := range both {
		// What says Ready is of now.
		n.eventually("a heartbeat of "+n.Name+" by the clock that was set", func() (bool, string) {
			now := year(n)
			return now > before, now
		})
		out := n.execute(Binary + " certificate check --output=json || true")
		if strings.Contains(out, `"EXPIRED"`) || !strings.Contains(out, `"OK"`) {
			t.Errorf("the certificates of %s are: %s", n.Name, out)
		}
	}
	server.wait("condition=Ready", "node/agent")
	t.Logf("both nodes are Ready after %s", since(begin))
}
