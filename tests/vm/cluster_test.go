//go:build vm

package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestCluster joins two machines, whose pods talk through WireGuard, which the
// kernels of the hosts in namespaces lack. The agent's clock is a year late at
// first, as that of a board without a battery.
func TestCluster(t *testing.T) {
	network := NewNetwork(t)
	server := newNode(t, Options{Name: "server", Network: network, Address: "10.77.0.1/24"})
	server.start("--node-ip=10.77.0.1", "--flannel-backend=wireguard-native")
	server.noErrors()
	server.loadImage()

	agent := newNode(t, Options{Name: "agent", Memory: 1024, Network: network, Address: "10.77.0.2/24"})
	agent.execute("mkdir -p /etc/kedge && umask 077 && cat >/etc/kedge/token <<'END'\n" + server.execute("cat /var/lib/kedge/server/node-token") + "\nEND")
	agent.execute("systemctl stop systemd-timesyncd 2>/dev/null; date -s '-1 year'")
	join := func() {
		t.Helper()
		err := agent.Start(t.Context(), "agent", "--server=https://10.77.0.1:6443", "--token-file=/etc/kedge/token", "--node-ip=10.77.0.2")
		if err != nil {
			t.Fatal(err)
		}
	}
	join()
	agent.eventually("the agent to tell that its clock is wrong", func() (bool, string) {
		log := agent.log()
		return strings.Contains(log, "this machine's clock says") && strings.Contains(log, "set the clock"), log
	})
	// It goes on by itself once the clock is right.
	begin := time.Now()
	agent.execute("date -s '+1 year'")
	server.wait("create", "node/agent")
	server.wait("condition=Ready", "node/agent")
	t.Logf("the agent was Ready %s after its clock was set", since(begin))
	if err := agent.LoadImage(t.Context(), buildImage(t)); err != nil {
		t.Fatal(err)
	}

	server.apply(`
apiVersion: v1
kind: Pod
metadata: {name: here}
spec:
	nodeName: server
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: BUSYBOX, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: there}
spec:
	nodeName: agent
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: BUSYBOX, command: [sleep, "100000"]}]
`)
	server.wait("condition=Ready", "pod/here", "pod/there")
	ping := func(when string) {
		t.Helper()
		for from, to := range map[string]string{"here": "there", "there": "here"} {
			server.eventually("a ping from "+from+" "+when, func() (bool, string) {
				// After a reboot the pod gets another address, a little later.
				address := server.field("pod/"+to, ".status.podIP")
				out, err := server.Kubectl(t.Context(), "exec", from, "--", "ping", "-c", "1", "-W", "3", address)
				return err == nil && strings.Contains(out, "1 packets received"), fmt.Sprint(out, err)
			})
		}
	}
	ping("through WireGuard")
	for _, n := range []*node{server, agent} {
		if links := n.execute("ip -brief link"); !strings.Contains(links, "flannel-wg") {
			t.Errorf("machine %s has the links\n%s", n.Name, links)
		}
	}

	// A power cut: nothing needs a hand, but for starting Kedge, which no
	// service does here.
	agent.PowerCut()
	boot(t, agent.VM)
	join()
	agent.eventually("the agent to be Ready again", func() (bool, string) {
		log := agent.log()
		return strings.Contains(log, "node is Ready"), log
	})
	ping("after a power cut")
}
