package hostcheck

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// serverTraffic is that of a server with the default networks.
func serverTraffic() Traffic {
	return Traffic{
		Ports: []FirewallPort{{6443, "tcp"}, {8472, "udp"}},
		Pods:  prefixes("10.42.0.0/16"),
		Node:  []netip.Addr{netip.MustParseAddr("192.168.1.5")},
	}
}

func checkCommands(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestPodNetworkPorts(t *testing.T) {
	dual := prefixes("10.42.0.0/16", "fd42::/48")
	for backend, want := range map[string]string{
		"vxlan":            "[{8472 udp}]",
		"wireguard-native": "[{51820 udp} {51821 udp}]",
		"host-gw":          "[]",
		"none":             "[]",
	} {
		if got := fmt.Sprint(PodNetworkPorts(backend, dual)); got != want {
			t.Errorf("%s: got %s, want %s", backend, got, want)
		}
	}
}

func TestClosed(t *testing.T) {
	open := Firewall{Name: "ufw"}
	for _, c := range []struct {
		name         string
		firewalls    []Firewall
		problem, fix string
	}{
		{"none", nil, "", ""},
		{"open", []Firewall{open}, "", ""},
		{"one", []Firewall{open, {Name: "firewalld", Commands: []string{"a", "b"}}},
			"the firewall of this machine (firewalld) is on and not open for the cluster", "a && b"},
		{"two", []Firewall{{Name: "firewalld", Commands: []string{"a"}}, {Name: "iptables", Commands: []string{"b"}, Passing: true}},
			"the firewall of this machine (firewalld, iptables) is on and not open for the cluster; add what opens it to the file that its rules are loaded from, too", "a && b"},
	} {
		if problem, fix := Closed(c.firewalls); problem != c.problem || fix != c.fix {
			t.Errorf("%s: got %q and %q", c.name, problem, fix)
		}
	}
}

// fakeFirewalld answers by method and arguments; what it doesn't know is empty.
type fakeFirewalld map[string]any

func (f fakeFirewalld) ask(_ context.Context, method string, answer any, args ...any) error {
	question := method
	for _, arg := range args {
		question += fmt.Sprintf(" %v", arg)
	}
	value, ok := f[question]
	if !ok {
		return nil
	}
	return dbus.Store([]any{value}, answer)
}

func TestFirewalldCommands(t *testing.T) {
	const (
		ports  = "firewall-cmd --permanent --add-port=6443/tcp --add-port=8472/udp"
		pods   = "firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16"
		reload = "firewall-cmd --reload"
	)
	for _, c := range []struct {
		name   string
		state  fakeFirewalld
		change func(*Traffic)
		want   []string
	}{
		{name: "as installed", want: []string{ports, pods, reload}},
		{
			name:  "open",
			state: fakeFirewalld{".zone.queryPort public 6443 tcp": true, ".zone.queryPort public 8472 udp": true, ".zone.getSources trusted": []string{"10.42.0.0/16"}},
		},
		{
			name:  "some ports",
			state: fakeFirewalld{".zone.queryPort public 6443 tcp": true, ".zone.getSources trusted": []string{"10.0.0.0/8", "ipset:lab"}},
			want:  []string{"firewall-cmd --permanent --add-port=8472/udp", reload},
		},
		{
			name: "ports of a service and of a rule",
			state: fakeFirewalld{
				".zone.getServices public":            []string{"ssh", "kube-apiserver"},
				".getServiceSettings2 kube-apiserver": map[string]dbus.Variant{"ports": dbus.MakeVariant([][]any{{"6443", "tcp"}})},
				".zone.getRichRules public":           []string{`rule family="ipv4" source address="10.1.0.0/24" port port="8472" protocol="udp" accept`},
			},
			want: []string{pods, reload},
		},
		{
			name:  "a rule that rejects",
			state: fakeFirewalld{".zone.getRichRules public": []string{`rule port port="8472" protocol="udp" reject`}},
			want:  []string{ports, pods, reload},
		},
		{
			name:  "another zone",
			state: fakeFirewalld{".zone.getZoneOfInterface eth0": "internal"},
			want:  []string{"firewall-cmd --permanent --zone=internal --add-port=6443/tcp --add-port=8472/udp", pods, reload},
		},
		{
			name:  "everything trusted by interface",
			state: fakeFirewalld{".zone.getZoneOfInterface eth0": "trusted", ".zone.getInterfaces trusted": []string{"eth0", "cni0"}},
		},
		{
			name:  "the nodes' network trusted",
			state: fakeFirewalld{".zone.getSources trusted": []string{"192.168.1.0/24"}},
			want:  []string{pods, reload},
		},
		{
			name:   "both families",
			change: func(t *Traffic) { t.Pods = prefixes("10.42.0.0/16", "fd42::/48") },
			want:   []string{ports, pods + " --add-source=fd42::/48", reload},
		},
		{
			name:   "no ports",
			change: func(t *Traffic) { t.Ports = nil },
			want:   []string{pods, reload},
		},
		{
			name:   "no pods",
			change: func(t *Traffic) { t.Pods = nil },
			want:   []string{ports, reload},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := fakeFirewalld{".getDefaultZone": "public"}
			for question, answer := range c.state {
				state[question] = answer
			}
			traffic := serverTraffic()
			if c.change != nil {
				c.change(&traffic)
			}
			got, err := firewalldCommands(t.Context(), state, traffic, []string{"eth0"})
			if err != nil {
				t.Fatal(err)
			}
			checkCommands(t, got, c.want...)
		})
	}
}

const (
	ufwOn       = "# comment\nENABLED=yes\n\nLOGLEVEL=low\n"
	ufwDefaults = "IPV6=yes\nDEFAULT_INPUT_POLICY=\"DROP\"\nDEFAULT_FORWARD_POLICY=\"DROP\"\n"
)

func TestUFW(t *testing.T) {
	inKernel := ruleset{chains: []ruleChain{{Family: "ip", Table: "filter", Name: "ufw-before-input"}}}
	all := []string{
		"ufw allow 6443/tcp", "ufw allow 8472/udp", "ufw allow from 10.42.0.0/16",
		"ufw route allow from 10.42.0.0/16", "ufw route allow to 10.42.0.0/16",
	}
	for _, c := range []struct {
		name     string
		conf     string
		defaults string
		rules    string
		kernel   ruleset
		off      bool
		want     []string
	}{
		{name: "not installed", kernel: inKernel, off: true},
		{name: "off", conf: "ENABLED=no\n", kernel: inKernel, off: true},
		{name: "on at the next boot only", conf: ufwOn, off: true},
		{name: "on, as far as is known", conf: ufwOn, kernel: ruleset{unknown: true}, want: all},
		{name: "as installed", conf: ufwOn, kernel: inKernel, want: all},
		{
			name: "open", conf: ufwOn, kernel: inKernel,
			rules: `
### tuple ### allow tcp 6443 0.0.0.0/0 any 0.0.0.0/0 in
-A ufw-user-input -p tcp --dport 6443 -j ACCEPT
### tuple ### allow udp 8472 0.0.0.0/0 any 0.0.0.0/0 in comment=76786c616e
### tuple ### allow any any 0.0.0.0/0 any 10.42.0.0/16 in
### tuple ### route:allow any any 0.0.0.0/0 any 10.42.0.0/16 in
### tuple ### route:allow any any 10.42.0.0/16 any 0.0.0.0/0 in
`,
		},
		{
			name: "open in other words", conf: ufwOn, kernel: inKernel,
			rules: `
### tuple ### limit any 80,6000:7000 0.0.0.0/0 any 0.0.0.0/0 in_eth0
### tuple ### allow_log udp 8472 192.168.1.5 any 192.168.1.0/24 in
### tuple ### allow any any 0.0.0.0/0 any 0.0.0.0/0 in_cni0
### tuple ### route:allow any any 0.0.0.0/0 any 0.0.0.0/0 in_cni0
### tuple ### route:allow any any 0.0.0.0/0 any 0.0.0.0/0 out_cni0
`,
		},
		{
			name: "the nodes' network allowed", conf: ufwOn, kernel: inKernel,
			rules: "### tuple ### allow any any 0.0.0.0/0 any 192.168.1.0/24 in\n",
			want:  all[2:],
		},
		{
			name: "rules for something else", conf: ufwOn, kernel: inKernel,
			rules: `
### tuple ### deny tcp 6443 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow tcp 8472 0.0.0.0/0 any 0.0.0.0/0 in
### tuple ### allow any any 0.0.0.0/0 any 10.42.7.0/24 in
### tuple ### allow any any 0.0.0.0/0 any 172.16.0.0/12 in
### tuple ### route:allow tcp 80 10.42.0.0/16 any 0.0.0.0/0 in
### tuple ### route:allow any any 0.0.0.0/0 any 10.42.0.0/16 in_eth0
`,
			want: all,
		},
		{
			name: "open by default", conf: ufwOn, kernel: inKernel,
			defaults: "DEFAULT_INPUT_POLICY=ACCEPT\nDEFAULT_FORWARD_POLICY=\"ACCEPT\"\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			files := map[string]string{"/etc/default/ufw": ufwDefaults, "/etc/ufw/user.rules": c.rules}
			if c.conf != "" {
				files["/etc/ufw/ufw.conf"] = c.conf
			}
			if c.defaults != "" {
				files["/etc/default/ufw"] = c.defaults
			}
			for name, content := range files {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := Host{Root: root}.ufw(c.kernel, serverTraffic())
			if err != nil {
				t.Fatal(err)
			}
			if (got == nil) != c.off {
				t.Fatalf("got %v", got)
			}
			if got != nil {
				checkCommands(t, got.Commands, c.want...)
			}
		})
	}
}

// TestRulesetFirewalls has a real packet filter read, in network namespaces.
func TestRulesetFirewalls(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath(nftProgram()); err != nil {
		t.Skip(err)
	}
	const strict = `table inet filter {
	set admins {
		type ipv4_addr
		elements = { 192.168.1.9 }
	}

	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		jump services
	}

	chain forward {
		type filter hook forward priority filter; policy drop;
EXTRA	}

	chain output {
		type filter hook output priority filter; policy drop;
	}

	chain services {
		tcp dport { 22, 80 } accept
INPUT	}
}
`
	const input, forward = "nft insert rule inet filter input ", "nft insert rule inet filter forward "
	for _, c := range []struct {
		name string
		text string
		ufw  bool
		pods []netip.Prefix // nil: the default
		want []Firewall
	}{
		{name: "no rules"},
		{name: "nothing is dropped", text: `table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		ip saddr 192.0.2.1 drop
	}
	chain nat {
		type nat hook input priority 100; policy accept;
	}
}
`},
		{name: "tables of others that are asked or cared for elsewhere", text: `table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		reject with icmpx admin-prohibited
	}
}
table inet kedge-netpol {
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
`},
		{name: "policy drop", text: strict, want: []Firewall{{Name: "nftables table inet filter", Passing: true, Commands: []string{
			input + "tcp dport 6443 accept", input + "udp dport 8472 accept", input + "ip saddr 10.42.0.0/16 accept",
			forward + "ip saddr 10.42.0.0/16 accept", forward + "ip daddr 10.42.0.0/16 accept",
		}}}},
		{name: "both families", text: strict, pods: prefixes("fd42::/48"), want: []Firewall{{Name: "nftables table inet filter", Passing: true, Commands: []string{
			input + "tcp dport 6443 accept", input + "udp dport 8472 accept", input + "ip6 saddr fd42::/48 accept",
			forward + "ip6 saddr fd42::/48 accept", forward + "ip6 daddr fd42::/48 accept",
		}}}},
		{
			name: "open",
			text: strings.NewReplacer(
				"INPUT", "\t\ttcp dport 6000-7000 accept\n\t\tip saddr { 10.1.0.0/24, 10.2.0.0/24 } udp dport 8472 accept\n\t\tip saddr 10.42.0.0/16 counter packets 3 bytes 180 accept\n",
				"EXTRA", "\t\tiifname { \"lo\", \"cni0\" } accept\n\t\tip daddr 10.0.0.0/8 accept\n",
			).Replace(strict),
			want: []Firewall{{Name: "nftables table inet filter", Passing: true}},
		},
		{
			name: "rules for something else",
			text: strings.NewReplacer(
				"INPUT", "\t\tip saddr 192.168.1.0/24 accept\n\t\tip saddr 10.42.0.0/16 tcp dport 53 accept\n",
				"EXTRA", "\t\tip saddr 10.42.3.0/24 accept\n\t\toifname \"cni0\" accept\n",
			).Replace(strict),
			want: []Firewall{{Name: "nftables table inet filter", Passing: true, Commands: []string{
				input + "ip saddr 10.42.0.0/16 accept", forward + "ip saddr 10.42.0.0/16 accept",
			}}},
		},
		{
			name: "iptables that reject what is left",
			text: `table ip filter {
	chain INPUT {
		type filter hook input priority filter; policy accept;
		ct state related,established counter packets 9 bytes 900 accept
		counter packets 1 bytes 60 reject with icmp type host-prohibited
	}

	chain FORWARD {
		type filter hook forward priority filter; policy accept;
		counter packets 0 bytes 0 reject with icmp type host-prohibited
	}
}
table ip6 filter {
	chain INPUT {
		type filter hook input priority filter; policy drop;
	}
}
`,
			want: []Firewall{
				{Name: "iptables", Passing: true, Commands: []string{
					"iptables -I INPUT -p tcp --dport 6443 -j ACCEPT", "iptables -I INPUT -p udp --dport 8472 -j ACCEPT", "iptables -I INPUT -s 10.42.0.0/16 -j ACCEPT",
					"iptables -I FORWARD -s 10.42.0.0/16 -j ACCEPT", "iptables -I FORWARD -d 10.42.0.0/16 -j ACCEPT",
				}},
				{Name: "ip6tables", Passing: true},
			},
		},
		{
			name: "Docker",
			text: `# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter {
	chain DOCKER-USER {
	}

	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		counter packets 0 bytes 0 jump DOCKER-USER
	}
}
`,
			want: []Firewall{{Name: "Docker's iptables", Passing: true, Commands: []string{
				"iptables -I DOCKER-USER -s 10.42.0.0/16 -j ACCEPT", "iptables -I DOCKER-USER -d 10.42.0.0/16 -j ACCEPT",
			}}},
		},
		{
			name: "Docker, opened",
			text: `table ip filter {
	chain DOCKER-USER {
		ip daddr 10.42.0.0/16 counter packets 0 bytes 0 accept
		ip saddr 10.42.0.0/16 counter packets 0 bytes 0 accept
	}

	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		counter packets 0 bytes 0 jump DOCKER-USER
	}
}
`,
			want: []Firewall{{Name: "Docker's iptables", Passing: true}},
		},
		{name: "other comparisons", text: `table inet filter {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ip saddr != 10.42.0.0/16 accept
		ct state established accept
		ip daddr @pods accept
		oifname { "lo", "cni0" } accept
	}
	set pods {
		type ipv4_addr
		flags interval
		elements = { 10.42.0.0/16 }
	}
}
`, want: []Firewall{{Name: "nftables table inet filter", Passing: true, Commands: []string{forward + "ip saddr 10.42.0.0/16 accept"}}}},
		{name: "ufw's", ufw: true, text: "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			traffic := serverTraffic()
			if c.pods != nil {
				traffic.Pods = c.pods
			}
			text := strings.NewReplacer("INPUT\t}", "\t}", "EXTRA\t}", "\t}").Replace(c.text)
			var set ruleset
			err := onNewNetwork(func() error {
				if out, err := exec.Command(nftProgram(), text).CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				var err error
				set, err = readRules(t.Context())
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			got := set.firewalls(traffic, c.ufw)
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c.want) {
				t.Errorf("got\n%+v\nwant\n%+v", got, c.want)
			}
		})
	}
}

// TestExtensions reads rules of iptables with extensions that nft knows the names
// of: -m conntrack … -j ACCEPT, -m comment … -j REJECT.
func TestExtensions(t *testing.T) {
	chains, err := parseRules([]byte(`{"nftables": [{"metainfo": {"json_schema_version": 1}}, {"table": {"family": "ip", "name": "filter"}},
{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}},
{"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "expr": [{"xt": {"type": "match", "name": "conntrack"}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}},
{"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "expr": [{"xt": {"type": "match", "name": "comment"}}, {"counter": {"packets": 0, "bytes": 0}}, {"xt": {"type": "target", "name": "REJECT"}}]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v", ruleset{chains: chains}.firewalls(serverTraffic(), false))
	want := "[{Name:iptables Commands:[iptables -I FORWARD -s 10.42.0.0/16 -j ACCEPT iptables -I FORWARD -d 10.42.0.0/16 -j ACCEPT] Passing:true}]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
