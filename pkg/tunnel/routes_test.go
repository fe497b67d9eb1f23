package tunnel

import (
	"net/netip"
	"strings"
	"testing"
)

func addrs(texts ...string) (a []netip.Addr) {
	for _, text := range texts {
		a = append(a, netip.MustParseAddr(text))
	}
	return a
}

func prefixes(texts ...string) (p []netip.Prefix) {
	for _, text := range texts {
		p = append(p, netip.MustParsePrefix(text))
	}
	return p
}

func TestParseMode(t *testing.T) {
	for _, mode := range []Mode{Disabled, Agent, Pod, Cluster} {
		if got, err := ParseMode(string(mode)); got != mode || err != nil {
			t.Errorf("%s: %s, %v", mode, got, err)
		}
	}
	_, err := ParseMode("pods")
	if err == nil || !strings.Contains(err.Error(), `"pods"`) || !strings.Contains(err.Error(), "disabled, agent, pod, cluster") {
		t.Errorf("pods: %v", err)
	}
}

func TestRoutes(t *testing.T) {
	var n nodes
	n.set("a", node{addresses: addrs("10.0.0.1", "203.0.113.1", "fd00::1"), kubeletPort: 10250, podCIDRs: prefixes("10.42.0.0/24", "fd42::/64")})
	n.set("b", node{addresses: addrs("10.0.0.2"), kubeletPort: 10255})
	n.set("new", node{kubeletPort: 10250})
	n.set("gone", node{addresses: addrs("10.0.0.9")})
	n.remove("gone")
	// The address of each is that of another, too.
	n.set("renamed", node{addresses: addrs("10.0.0.3"), kubeletPort: 10250})
	n.set("renamed-to", node{addresses: addrs("10.0.0.3"), kubeletPort: 10250})
	n.set("nat-1", node{addresses: addrs("192.168.1.2"), kubeletPort: 10250})
	n.set("nat-2", node{addresses: addrs("192.168.1.2"), kubeletPort: 10250})
	n.set("off-1", node{addresses: addrs("192.168.1.3"), kubeletPort: 10250})
	n.set("off-2", node{addresses: addrs("192.168.1.3"), kubeletPort: 10250})
	connected := func(name string) bool { return name == "renamed-to" || strings.HasPrefix(name, "nat-") }

	direct := func(address string) [4]string { return [4]string{address, address, address, address} }
	for _, test := range []struct {
		address string
		want    [4]string // in each mode "node target", or what is dialed directly
	}{
		{"10.0.0.1:10250", [4]string{"10.0.0.1:10250", "a 10.0.0.1:10250", "a 10.0.0.1:10250", "a 10.0.0.1:10250"}},
		{"203.0.113.1:10250", [4]string{"203.0.113.1:10250", "a 203.0.113.1:10250", "a 203.0.113.1:10250", "a 203.0.113.1:10250"}},
		{"[fd00::1]:10250", [4]string{"[fd00::1]:10250", "a [fd00::1]:10250", "a [fd00::1]:10250", "a [fd00::1]:10250"}},
		{"[::ffff:10.0.0.1]:10250", [4]string{"[::ffff:10.0.0.1]:10250", "a 10.0.0.1:10250", "a 10.0.0.1:10250", "a 10.0.0.1:10250"}},
		{"a:10250", [4]string{"a:10250", "a 10.0.0.1:10250", "a 10.0.0.1:10250", "a 10.0.0.1:10250"}},
		{"a:9100", [4]string{"a:9100", "a:9100", "a:9100", "a 10.0.0.1:9100"}},
		{"b:10255", [4]string{"b:10255", "b 10.0.0.2:10255", "b 10.0.0.2:10255", "b 10.0.0.2:10255"}},
		{"10.0.0.2:10250", [4]string{"10.0.0.2:10250", "10.0.0.2:10250", "10.0.0.2:10250", "b 10.0.0.2:10250"}},
		{"new:10250", [4]string{"new:10250", "new 127.0.0.1:10250", "new 127.0.0.1:10250", "new 127.0.0.1:10250"}},
		{"10.42.0.7:8443", [4]string{"10.42.0.7:8443", "10.42.0.7:8443", "a 10.42.0.7:8443", "a 10.42.0.7:8443"}},
		{"[fd42::7]:443", [4]string{"[fd42::7]:443", "[fd42::7]:443", "a [fd42::7]:443", "a [fd42::7]:443"}},
		{"10.0.0.3:10250", [4]string{"10.0.0.3:10250", "renamed-to 10.0.0.3:10250", "renamed-to 10.0.0.3:10250", "renamed-to 10.0.0.3:10250"}},
		{"192.168.1.2:10250", [4]string{"192.168.1.2:10250", "nat-1, nat-2", "nat-1, nat-2", "nat-1, nat-2"}},
		{"nat-2:10250", [4]string{"nat-2:10250", "nat-2 192.168.1.2:10250", "nat-2 192.168.1.2:10250", "nat-2 192.168.1.2:10250"}},
		{"192.168.1.3:10250", direct("192.168.1.3:10250")},
		{"10.42.1.7:8443", direct("10.42.1.7:8443")},
		{"10.0.0.9:10250", direct("10.0.0.9:10250")},
		{"example.com:443", direct("example.com:443")},
		{"a:https", direct("a:https")},
		{"a", direct("a")},
	} {
		for i, mode := range []Mode{Disabled, Agent, Pod, Cluster} {
			way, err := n.find(mode, test.address, connected)
			got := way.direct
			switch {
			case err != nil:
				got = err.Error()
			case way.node != "":
				got = way.node + " " + way.target.String()
			}
			if got != test.want[i] && (err == nil || !strings.Contains(got, "("+test.want[i]+")")) {
				t.Errorf("%s in mode %s goes to %q, want %q", test.address, mode, got, test.want[i])
			}
		}
	}
	if way, _ := n.find(Agent, "a:10250", connected); way.direct != "10.0.0.1:10250" {
		t.Errorf("without a tunnel, the name of a node is dialed as %s", way.direct)
	}
	if way, _ := n.find(Agent, "new:10250", connected); way.direct != "new:10250" {
		t.Errorf("without a tunnel, the name of a node without addresses is dialed as %s", way.direct)
	}
}

func TestAccess(t *testing.T) {
	const no = ""
	for _, test := range []struct {
		address             string
		agent, pod, cluster string // what is dialed
	}{
		{"10.0.0.1:10250", "127.0.0.1:10250", "127.0.0.1:10250", "127.0.0.1:10250"},
		{"[fd00::1]:10250", "127.0.0.1:10250", "127.0.0.1:10250", "127.0.0.1:10250"},
		{"[::ffff:10.0.0.1]:10250", "127.0.0.1:10250", "127.0.0.1:10250", "127.0.0.1:10250"},
		{"127.0.0.1:10250", "127.0.0.1:10250", "127.0.0.1:10250", "127.0.0.1:10250"},
		{"[::1]:10250", "127.0.0.1:10250", "127.0.0.1:10250", "127.0.0.1:10250"},
		{"10.0.0.1:22", no, no, "10.0.0.1:22"},
		{"127.0.0.1:10248", no, no, no},
		{"[::1]:22", no, no, no},
		{"[::ffff:127.0.0.1]:22", no, no, no},
		{"0.0.0.0:22", no, no, no},
		{"0.0.0.0:10250", no, no, no},
		{"10.0.0.2:10250", no, no, no},
		{"10.42.0.7:80", no, "10.42.0.7:80", "10.42.0.7:80"},
		{"[::ffff:10.42.0.7]:80", no, "10.42.0.7:80", "10.42.0.7:80"},
		{"10.42.1.7:80", no, no, no},
		{"10.42.1.7:10250", no, no, no},
		{"169.254.169.254:80", no, no, no},
		{"[fe80::1%eth0]:10250", no, no, no},
	} {
		for mode, want := range map[Mode]string{"": no, Disabled: no, Agent: test.agent, Pod: test.pod, Cluster: test.cluster} {
			a := Access{
				Mode: mode, KubeletPort: 10250, KubeletOnLoopback: true,
				Addresses: func() []netip.Addr { return addrs("10.0.0.1", "fd00::1", "127.0.0.1") },
				PodCIDRs:  func() []netip.Prefix { return prefixes("10.42.0.0/24") },
			}
			got, ok := a.Allow(netip.MustParseAddrPort(test.address))
			if ok != (want != no) || ok && got.String() != want {
				t.Errorf("%s in mode %q: %s, %t; want %q", test.address, mode, got, ok, want)
			}
		}
	}
	a := Access{Mode: Cluster, KubeletPort: 10250, Addresses: func() []netip.Addr { return addrs("10.0.0.1") }}
	if got, ok := a.Allow(netip.MustParseAddrPort("10.0.0.1:10250")); !ok || got.String() != "10.0.0.1:10250" {
		t.Errorf("a kubelet that is not on the loopback: %s, %t", got, ok)
	}
	if _, ok := (Access{Mode: Cluster, KubeletPort: 10250}).Allow(netip.MustParseAddrPort("10.0.0.1:80")); ok {
		t.Error("something is allowed to a node without addresses and pods")
	}
}
