package netpol

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/knftables"
	"sigs.k8s.io/yaml"
)

// world is a cluster with the table that follows from it, which is written
// change by change.
type world struct {
	t       *testing.T
	cluster *cluster
	fake    *knftables.Fake
	written *ruleset
}

func newWorld(t *testing.T) *world {
	return &world{t: t, cluster: newCluster(""), fake: knftables.NewFake(knftables.InetFamily, TableName)}
}

// write brings the table up to date and returns what was written.
func (w *world) write() string {
	w.t.Helper()
	return w.run(func(tx *knftables.Transaction, rules *ruleset, changes map[change]bool) {
		if w.written == nil {
			recreate(tx, rules)
		} else {
			update(tx, w.written, rules, changes)
		}
	})
}

// rewrite does the same without knowing what is in the table.
func (w *world) rewrite() {
	w.t.Helper()
	existing, err := w.fake.ListAll(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.run(func(tx *knftables.Transaction, rules *ruleset, _ map[change]bool) { rebuild(tx, rules, existing) })
}

func (w *world) run(fill func(*knftables.Transaction, *ruleset, map[change]bool)) string {
	w.t.Helper()
	rules, changes := w.cluster.next()
	tx := w.fake.NewTransaction()
	fill(tx, rules, changes)
	if err := w.fake.Run(w.t.Context(), tx); err != nil {
		w.t.Fatalf("%v\n%s", err, tx)
	}
	w.written = rules
	return tx.String()
}

func (w *world) apply(policies string) {
	w.t.Helper()
	for _, p := range parsePolicies(w.t, policies) {
		w.set(p)
	}
}

func (w *world) set(np *networkingv1.NetworkPolicy) {
	w.t.Helper()
	p, err := newPolicy(np)
	if err != nil {
		w.t.Fatal(err)
	}
	w.cluster.setPolicy(p)
}

// parsePolicies reads specs: the name, which may have a namespace, in a line
// with ":" and the spec after it.
func parsePolicies(t testing.TB, text string) []*networkingv1.NetworkPolicy {
	t.Helper()
	var specs map[string]networkingv1.NetworkPolicySpec
	if err := yaml.UnmarshalStrict([]byte(text), &specs); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var policies []*networkingv1.NetworkPolicy
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		ns, name, _ := strings.Cut(name, "/")
		policies = append(policies, &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec:       specs[ns+"/"+name],
		})
	}
	return policies
}

// The cluster of the table tests: two pods in each of three namespaces, and one
// on another node. Each pod has labels pod=<name>, each namespace ns=<name>;
// "serve" is another port in each pod.
var (
	testPods = map[string]podInfo{
		"u/a": testPod("u/a", true, 1, 80),
		"u/b": testPod("u/b", true, 2, 81),
		"v/a": testPod("v/a", true, 3, 80),
		"v/b": testPod("v/b", true, 4, 81),
		"w/a": testPod("w/a", true, 5, 80),
		"w/r": testPod("w/r", false, 6, 81),
	}
	outside = endpoint{addrs: [2]netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}}
)

func testPod(name string, local bool, host byte, serve int32) podInfo {
	ns, pod, _ := strings.Cut(name, "/")
	return podInfo{
		key:    key{ns, pod},
		uid:    types.UID(name),
		labels: labels.Set{"pod": pod},
		addrs: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 0, 0, host}),
			netip.AddrFrom16([16]byte{0: 0xfd, 15: host}),
		},
		ports: []containerPort{{namedPort{"tcp", "serve"}, serve}},
		local: local,
	}
}

func testCluster(t *testing.T) *world {
	w := newWorld(t)
	for _, ns := range []string{"u", "v", "w"} {
		w.cluster.setNamespace(ns, labels.Set{"ns": ns, "kubernetes.io/metadata.name": ns})
	}
	for _, p := range testPods {
		w.cluster.setPod(p)
	}
	return w
}

// endpoint is an end of a connection.
type endpoint struct{ addrs [2]netip.Addr }

func endpointOf(p podInfo) endpoint { return endpoint{[2]netip.Addr(p.addrs)} }

// connects says whether a connection passes the forward hook. Both families
// and both directions have to agree.
func (w *world) connects(from, to endpoint, protocol string, port int) bool {
	w.t.Helper()
	var results []bool
	for _, f := range families {
		p := packet{source: from.addrs[f], destination: to.addrs[f], protocol: protocol, sport: 40000, dport: port}
		results = append(results,
			passes(w.t, w.fake.Table, knftables.ForwardHook, p),
			passes(w.t, w.fake.Table, knftables.ForwardHook, p.answer()))
	}
	for _, result := range results {
		if result != results[0] {
			w.t.Errorf("IPv4, its answer, IPv6, its answer: %v for %v to %v, %s %d", results, from, to, protocol, port)
		}
	}
	return results[0]
}

// Each case names the connections that are refused; all others are not. They
// follow the cases of upstream's tests of network plugins.
func TestPolicies(t *testing.T) {
	const (
		all     = "u/a u/b v/a v/b w/a w/r outside"
		denyAll = "u/deny: {podSelector: {}, policyTypes: [Ingress, Egress]}\n"
	)
	tests := []struct {
		name     string
		policies string
		refused  []string // "from > to", with ":ports" to; "*" is every end
	}{
		{"no policies", "", nil},
		{"default deny ingress", "u/p: {podSelector: {}, policyTypes: [Ingress]}", []string{"* > u/a u/b"}},
		{"default deny egress", "u/p: {podSelector: {}, policyTypes: [Egress]}", []string{"u/a u/b > *"}},
		{"default deny", denyAll, []string{"* > u/a u/b", "u/a u/b > *"}},
		{"types by default: ingress only", "u/p: {podSelector: {}}", []string{"* > u/a u/b"}},
		{"types by default: egress too", "u/p: {podSelector: {}, ingress: [{}], egress: [{to: [{podSelector: {}}]}]}",
			[]string{"u/a u/b > v/a v/b w/a w/r outside"}},
		{"egress rules without the type", "u/p: {podSelector: {}, policyTypes: [Ingress], egress: [{}]}", []string{"* > u/a u/b"}},
		{"only pods that are selected", "u/p: {podSelector: {matchLabels: {pod: a}}}", []string{"* > u/a"}},
		{"selected by an expression", "u/p: {podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [a]}]}}", []string{"* > u/b"}},
		{"allow all ingress", denyAll + "u/p: {podSelector: {}, ingress: [{}]}", []string{"u/a u/b > *"}},
		{"allow all egress", denyAll + "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{}]}", []string{"* > u/a u/b"}},
		{"from pods of the namespace", "u/p: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}",
			[]string{"u/a v/a v/b w/a w/r outside > u/a u/b"}},
		{"from all namespaces", "u/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}", []string{"outside > u/a u/b"}},
		{"from another namespace", "u/p: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}]}]}",
			[]string{"u/a u/b w/a w/r outside > u/a"}},
		{"from a namespace by its name", "u/p: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [w]}]}}]}]}",
			[]string{"u/a u/b v/a v/b outside > u/a"}},
		{"from namespaces without a label", "u/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [u, v]}]}}]}]}",
			[]string{"u/a u/b v/a v/b outside > u/a u/b"}},
		{"pod or namespace", "u/p: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {namespaceSelector: {matchLabels: {ns: v}}}]}]}",
			[]string{"u/a w/a w/r outside > u/a"}},
		{"pod and namespace", "u/p: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {ns: v}}}]}]}",
			[]string{"u/a u/b v/a w/a w/r outside > u/a u/b"}},
		{"a pod of another node", "u/p: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {pod: r}}, namespaceSelector: {}}]}], egress: [{to: [{podSelector: {matchLabels: {pod: r}}, namespaceSelector: {}}]}]}",
			[]string{"u/a u/b v/a v/b w/a outside > u/a u/b", "u/a u/b > v/a v/b w/a outside"}},
		{"pods of other nodes are not isolated here", "w/p: {podSelector: {}}", []string{"* > w/a"}},
		{"by port", "u/p: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}", []string{"* > u/a u/b:81 udp80 sctp80"}},
		{"by protocol", "u/p: {podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}", []string{"* > u/a u/b:80 81 sctp80"}},
		{"by port of UDP", "u/p: {podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 80}]}]}", []string{"* > u/a u/b:80 81 sctp80"}},
		{"by port of SCTP", "u/p: {podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 80}]}]}", []string{"* > u/a u/b:80 81 udp80"}},
		{"by another port of SCTP", "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{protocol: SCTP, port: 81, endPort: 90}]}]}", []string{"u/a u/b > *"}},
		{"port range", "u/p: {podSelector: {}, ingress: [{ports: [{port: 81, endPort: 90}]}]}", []string{"* > u/a u/b:80 udp80 sctp80"}},
		{"overlapping ranges", "u/p: {podSelector: {}, ingress: [{ports: [{port: 70, endPort: 80}, {port: 75, endPort: 79}, {port: 80}]}]}", []string{"* > u/a u/b:81 udp80 sctp80"}},
		{"port and peer", "u/p: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}], ports: [{port: 80}]}]}",
			[]string{"u/a u/b w/a w/r outside > u/a", "v/a v/b > u/a:81 udp80 sctp80"}},
		{"named port, ingress", "u/p: {podSelector: {}, ingress: [{ports: [{port: serve}]}]}", []string{"* > u/a:81 udp80 sctp80", "* > u/b:80 udp80 sctp80"}},
		{"named port and peer, ingress", "u/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}], ports: [{port: serve}]}]}",
			[]string{"u/a u/b w/a w/r outside > u/a u/b", "v/a v/b > u/a:81 udp80 sctp80", "v/a v/b > u/b:80 udp80 sctp80"}},
		{"named port that nobody has", "u/p: {podSelector: {}, ingress: [{ports: [{port: other}]}]}", []string{"* > u/a u/b"}},
		{"named port of another protocol", "u/p: {podSelector: {}, ingress: [{ports: [{protocol: UDP, port: serve}]}]}", []string{"* > u/a u/b"}},
		{"named port, egress", "u/p: {podSelector: {}, egress: [{ports: [{port: serve}]}], policyTypes: [Egress]}",
			[]string{"u/a u/b > outside", "u/a u/b > u/a v/a w/a:81 udp80 sctp80", "u/a u/b > u/b v/b w/r:80 udp80 sctp80"}},
		{"named port and peer, egress", "u/p: {podSelector: {}, egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: serve}]}], policyTypes: [Egress]}",
			[]string{"u/a u/b > u/a u/b v/a v/b outside", "u/a u/b > w/a:81 udp80 sctp80", "u/a u/b > w/r:80 udp80 sctp80"}},
		{"named port and block, egress", "u/p: {podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.5/32}}, {ipBlock: {cidr: 'fd00::5/128'}}], ports: [{port: serve}]}], policyTypes: [Egress]}",
			[]string{"u/a u/b > u/a u/b v/a v/b w/r outside", "u/a u/b > w/a:81 udp80 sctp80"}},
		{"egress to pods", "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: b}}}]}]}",
			[]string{"u/a u/b > u/a v/a v/b w/a w/r outside"}},
		{"egress denied by the client, allowed by the server", "u/p: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}\n" +
			"v/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: u}}}]}]}",
			[]string{"u/a > v/a v/b w/a w/r outside", "v/a v/b w/a w/r outside > v/a v/b"}},
		{"both types, on their own", "u/in: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}\n" +
			"u/out: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: v}}}]}]}",
			[]string{"u/a v/a v/b w/a w/r outside > u/a", "u/a > u/a u/b w/a w/r outside"}},
		{"stacked policies", "u/one: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}], ports: [{port: 80}]}]}\n" +
			"u/two: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 81}]}]}",
			[]string{"u/a u/b outside > u/a u/b", "v/a v/b > u/a u/b:81 udp80 sctp80", "w/a w/r > u/a:80 udp80 sctp80", "w/a w/r > u/b"}},
		{"block", "u/p: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: '2001:db8::/64'}}]}]}",
			[]string{"u/a u/b v/a v/b w/a w/r > u/a u/b"}},
		{"block with except", "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.4/30, 10.0.0.6/31]}}, {ipBlock: {cidr: 'fd00::/64', except: ['fd00::4/126']}}]}]}",
			[]string{"u/a u/b > v/b w/a w/r outside"}},
		{"block that another's except has", "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.4/30]}}, {ipBlock: {cidr: 'fd00::/64', except: ['fd00::4/126']}}]}]}\n" +
			"u/q: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.4/32}}, {ipBlock: {cidr: 'fd00::4/128'}}]}]}",
			[]string{"u/a u/b > w/a w/r outside"}},
		{"block of everything", "u/p: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}], ports: [{port: 80}]}]}",
			[]string{"* > u/a u/b:81 udp80 sctp80"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := testCluster(t)
			w.apply(test.policies)
			w.write()
			ends := map[string]endpoint{"outside": outside}
			for name, p := range testPods {
				ends[name] = endpointOf(p)
			}
			refused := map[string]bool{}
			for _, text := range test.refused {
				from, to, _ := strings.Cut(text, " > ")
				to, ports, _ := strings.Cut(to, ":")
				for _, from := range strings.Fields(strings.ReplaceAll(from, "*", all)) {
					for _, to := range strings.Fields(strings.ReplaceAll(to, "*", all)) {
						for _, port := range strings.Fields(ports + strings.Repeat(" 80 81 udp80 sctp80", 1-min(len(ports), 1))) {
							refused[from+" "+to+" "+port] = true
						}
					}
				}
			}
			defer func() {
				if t.Failed() {
					t.Log(w.fake.Dump())
				}
			}()
			for from := range ends {
				for to := range ends {
					for _, port := range []string{"80", "81", "udp80", "sctp80"} {
						protocol, number := protocolAndPort(t, port)
						got := w.connects(ends[from], ends[to], protocol, number)
						// A pod reaches itself whatever policies say.
						want := from == to && from != "outside" || !refused[from+" "+to+" "+port]
						if got != want {
							t.Errorf("%s to %s, port %s: passes is %v, want %v", from, to, port, got, want)
						}
					}
				}
			}
		})
	}
}

// protocolAndPort reads "80", "udp80" or "sctp80".
func protocolAndPort(t *testing.T, text string) (protocol string, port int) {
	t.Helper()
	protocol, number := "tcp", text
	for _, other := range []string{"udp", "sctp"} {
		if rest, is := strings.CutPrefix(text, other); is {
			protocol, number = other, rest
		}
	}
	port, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	return protocol, port
}

func TestHooks(t *testing.T) {
	w := testCluster(t)
	w.apply("u/p: {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.254/32}}], ports: [{port: 80}]}]}")
	w.write()
	pod, free := testPods["u/a"].addrs[0], testPods["v/a"].addrs[0]
	node := netip.MustParseAddr("10.0.0.254")
	toNode := packet{source: pod, destination: node, protocol: "tcp", sport: 40000, dport: 80}
	denied := packet{source: pod, destination: node, protocol: "tcp", sport: 40000, dport: 81}
	probe := packet{source: node, destination: pod, protocol: "tcp", sport: 40000, dport: 8080}
	unreachable := packet{source: free, destination: pod, protocol: "icmp", reply: true, related: true}
	v6 := testPods["u/a"].addrs[1]
	neighbours := packet{source: v6, destination: netip.MustParseAddr("ff02::1"), protocol: "icmpv6", icmpv6: "nd-neighbor-solicit"}
	echo := neighbours
	echo.icmpv6 = "echo-request"
	tests := []struct {
		name string
		hook knftables.BaseChainHook
		packet
		want bool
	}{
		{"the node's probe", knftables.OutputHook, probe, true},
		{"its answer", knftables.InputHook, probe.answer(), true},
		{"the same from elsewhere", knftables.ForwardHook, probe, false},
		{"pod to node, allowed", knftables.InputHook, toNode, true},
		{"its answer", knftables.OutputHook, toNode.answer(), true},
		{"pod to node, refused", knftables.InputHook, denied, false},
		{"its answer", knftables.OutputHook, denied.answer(), false},
		{"ICMP error about a connection", knftables.ForwardHook, unreachable, true},
		{"neighbour discovery", knftables.ForwardHook, neighbours, true},
		{"neighbour discovery to the node", knftables.InputHook, neighbours, true},
		{"ping", knftables.ForwardHook, echo, false},
	}
	for _, test := range tests {
		if got := passes(t, w.fake.Table, test.hook, test.packet); got != test.want {
			t.Errorf("%s (%v): passes is %v, want %v", test.name, test.packet, got, test.want)
		}
	}
}

// What a change writes is only what it concerns.
func TestChangesAreSmall(t *testing.T) {
	w := testCluster(t)
	w.apply("u/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]}\n" +
		"u/q: {podSelector: {matchLabels: {pod: a}}}")
	w.write()
	if got := w.write(); got != "" {
		t.Errorf("nothing changed, but written was\n%s", got)
	}
	set := newGroup(peers{namespaces: labels.SelectorFromSet(labels.Set{"ns": "w"}), pods: labels.Everything()}, nil).set(ip4)

	remote := testPod("w/new", false, 9, 80)
	remote.addrs = remote.addrs[:1]
	w.cluster.setPod(remote)
	if got, want := w.write(), "add element inet kedge-netpol "+set+" { 10.0.0.9 }\n"; got != want {
		t.Errorf("a new peer wrote\n%swant\n%s", got, want)
	}
	remote.labels = labels.Set{"pod": "other"} // which no policy asks for
	w.cluster.setPod(remote)
	if got := w.write(); got != "" {
		t.Errorf("a label that no policy asks for wrote\n%s", got)
	}
	w.cluster.deletePod(remote.key)
	if got, want := w.write(), "delete element inet kedge-netpol "+set+" { 10.0.0.9 }\n"; got != want {
		t.Errorf("a peer that went wrote\n%swant\n%s", got, want)
	}

	local := testPod("u/b2", true, 10, 80)
	local.addrs, local.labels = local.addrs[:1], testPods["u/b"].labels
	w.cluster.setPod(local)
	got := w.write()
	if strings.Contains(got, "chain") || strings.Contains(got, "rule") || strings.Count(got, "\n") != 4 {
		t.Errorf("a pod like another wrote more than its elements in two verdict maps and two sets:\n%s", got)
	}

	w.apply("u/q: {podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80}]}]}")
	if got := w.write(); strings.Contains(got, "ns: w") || strings.Contains(got, set) || strings.Contains(got, "10.0.0.2 ") {
		t.Errorf("a policy's change wrote about others:\n%s", got)
	}
}

func TestReusedAddress(t *testing.T) {
	w := testCluster(t)
	w.apply("u/p: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {trusted: 'yes'}}}]}]}\n" +
		"u/q: {podSelector: {matchLabels: {trusted: 'yes'}}}")
	w.write()
	server, other := endpointOf(testPods["u/a"]), endpointOf(testPods["v/a"])
	old := testPod("u/old", true, 20, 80)
	old.labels = labels.Set{"trusted": "yes"}
	next := testPod("u/next", true, 20, 80)
	addr := endpointOf(old)
	check := func(step string, trusted bool) {
		t.Helper()
		w.write()
		if got := w.connects(addr, server, "tcp", 80); got != trusted {
			t.Errorf("%s: reaches the server is %v, want %v", step, got, trusted)
		}
		if got := w.connects(other, addr, "tcp", 80); got == trusted {
			t.Errorf("%s: is isolated is %v, want %v", step, !got, trusted)
		}
	}
	w.cluster.setPod(old)
	check("the first pod", true)
	w.cluster.setPod(next)
	check("the second has its address", false)
	old.labels = labels.Set{"trusted": "yes", "more": "labels"}
	w.cluster.setPod(old)
	check("the first is reported again", false)
	w.cluster.deletePod(next.key)
	check("the second went", true)
	w.cluster.setPod(next)
	w.cluster.deletePod(old.key)
	check("the first went", false)
	w.cluster.deletePod(next.key)
	if len(w.cluster.claims) != 2*len(testPods) {
		t.Errorf("%d addresses are claimed, want %d", len(w.cluster.claims), 2*len(testPods))
	}
}

// A pod with the same name is another pod.
func TestRecreatedPod(t *testing.T) {
	w := testCluster(t)
	w.apply("u/p: {podSelector: {}}")
	w.write()
	p := testPods["u/a"]
	p.uid, p.addrs = "another", []netip.Addr{netip.MustParseAddr("10.0.0.99"), netip.MustParseAddr("fd00::99")}
	w.cluster.setPod(p)
	w.write()
	other := endpointOf(testPods["v/a"])
	if w.connects(other, endpointOf(p), "tcp", 80) {
		t.Error("the new pod is not isolated")
	}
	if !w.connects(other, endpointOf(testPods["u/a"]), "tcp", 80) {
		t.Error("the address of the old pod still is isolated")
	}
}

func TestExpectedAddress(t *testing.T) {
	w := testCluster(t)
	w.apply("u/p: {podSelector: {}}")
	p := testPod("u/new", true, 30, 80)
	addrs := p.addrs
	other := endpointOf(testPods["v/a"])
	check := func(step string, addr endpoint, isolated bool) {
		t.Helper()
		w.write()
		if got := w.connects(other, addr, "tcp", 80); got == isolated {
			t.Errorf("%s: is isolated is %v, want %v", step, !got, isolated)
		}
	}
	p.addrs = nil
	w.cluster.setPod(p)
	check("without an address", endpoint{[2]netip.Addr(addrs)}, false)
	w.cluster.expect(p.uid, addrs)
	check("with an address that its status lacks", endpoint{[2]netip.Addr(addrs)}, true)
	w.cluster.setPod(p)
	check("reported without it again", endpoint{[2]netip.Addr(addrs)}, true)
	p.addrs = addrs
	w.cluster.setPod(p)
	check("reported with it", endpoint{[2]netip.Addr(addrs)}, true)
	if len(w.cluster.expected) != 0 {
		t.Error("the address is still expected")
	}

	// Its sandbox is made again: the status has the old addresses for a while.
	again := testPod("u/new", true, 31, 80).addrs
	w.cluster.expect(p.uid, again)
	w.cluster.setPod(p)
	check("new addresses", endpoint{[2]netip.Addr(again)}, true)
	check("old addresses", endpoint{[2]netip.Addr(addrs)}, false)
	w.cluster.deletePod(p.key)
	if len(w.cluster.expected) != 0 {
		t.Error("the address of a deleted pod is still expected")
	}
}

// Whatever happens in whatever order, the table is what it would be if it were
// made at once, and lets pass what the policies, read literally, allow.
func TestRandomChanges(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			g := &randomCluster{Rand: r, namespaces: map[string]labels.Set{}, pods: map[key]podInfo{}, policies: map[key]*networkingv1.NetworkPolicy{}}
			w := newWorld(t)
			w.write()
			for i := range 150 {
				g.change(w)
				if i%10 == 0 {
					w.rewrite()
				} else {
					w.write()
				}
				fresh := g.fresh(t)
				fresh.write()
				if got, want := w.fake.Dump(), fresh.fake.Dump(); inOrder(got) != inOrder(want) {
					t.Fatalf("the table is\n%s\nand should be\n%s", got, want)
				}
			}
			g.compare(w)
		})
	}
}

// inOrder sorts the elements of sets, which have no order, and puts them last.
func inOrder(dump string) string {
	var elements, others []string
	for line := range strings.SplitSeq(dump, "\n") {
		if strings.HasPrefix(line, "add element") {
			elements = append(elements, line)
		} else {
			others = append(others, line)
		}
	}
	slices.Sort(elements)
	return strings.Join(append(others, elements...), "\n")
}

// randomCluster is a cluster in which something changes.
type randomCluster struct {
	*rand.Rand
	namespaces map[string]labels.Set
	pods       map[key]podInfo
	policies   map[key]*networkingv1.NetworkPolicy
	next       byte
}

func (g *randomCluster) one(values ...string) string { return values[g.IntN(len(values))] }

func (g *randomCluster) change(w *world) {
	ns := g.one("u", "v", "w")
	k := key{ns, g.one("a", "b", "c")}
	switch g.IntN(8) {
	case 0:
		g.namespaces[ns] = labels.Set{"ns": g.one("u", "v", "w")}
		w.cluster.setNamespace(ns, g.namespaces[ns])
	case 1:
		delete(g.namespaces, ns)
		w.cluster.deleteNamespace(ns)
	case 2:
		delete(g.pods, k)
		w.cluster.deletePod(k)
	case 3, 4, 5:
		p, exists := g.pods[k]
		if !exists {
			g.next++
			p = testPod(k.String(), g.IntN(2) == 0, g.next, 80)
			p.uid = types.UID(fmt.Sprint(g.next))
		}
		p.labels = labels.Set{"pod": g.one("a", "b", "c")}
		p.ports = []containerPort{{namedPort{"tcp", "serve"}, int32(80 + g.IntN(2))}}
		g.pods[k] = p
		w.cluster.setPod(p)
	case 6:
		np := g.policy(k)
		g.policies[k] = np
		w.set(np)
	case 7:
		delete(g.policies, k)
		w.cluster.deletePolicy(k)
	}
}

func (g *randomCluster) selector() *metav1.LabelSelector {
	switch g.IntN(3) {
	case 0:
		return &metav1.LabelSelector{}
	case 1:
		return &metav1.LabelSelector{MatchLabels: map[string]string{"pod": g.one("a", "b")}}
	}
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "pod", Operator: metav1.LabelSelectorOpNotIn, Values: []string{g.one("a", "b")}},
	}}
}

func (g *randomCluster) policy(k key) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: k.name}}
	np.Spec.PodSelector = *g.selector()
	for range g.IntN(3) {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: g.peers(), Ports: g.ports()})
	}
	for range g.IntN(3) {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: g.peers(), Ports: g.ports()})
	}
	return np
}

func (g *randomCluster) peers() []networkingv1.NetworkPolicyPeer {
	var peers []networkingv1.NetworkPolicyPeer
	for range g.IntN(3) {
		switch g.IntN(4) {
		case 0:
			peers = append(peers, networkingv1.NetworkPolicyPeer{PodSelector: g.selector()})
		case 1:
			peers = append(peers, networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"ns": g.one("u", "v")}}})
		case 2:
			peers = append(peers, networkingv1.NetworkPolicyPeer{PodSelector: g.selector(), NamespaceSelector: &metav1.LabelSelector{}})
		case 3:
			peers = append(peers,
				networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/27", Except: []string{"10.0.0.8/29"}}},
				networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "fd00::/123", Except: []string{"fd00::8/125"}}})
		}
	}
	return peers
}

func (g *randomCluster) ports() []networkingv1.NetworkPolicyPort {
	var ports []networkingv1.NetworkPolicyPort
	for range g.IntN(3) {
		port := []intstr.IntOrString{intstr.FromInt32(80), intstr.FromInt32(81), intstr.FromString("serve")}[g.IntN(3)]
		ports = append(ports, networkingv1.NetworkPolicyPort{Port: &port})
	}
	return ports
}

func (g *randomCluster) fresh(t *testing.T) *world {
	w := newWorld(t)
	for _, np := range g.policies {
		w.set(np)
	}
	for _, p := range g.pods {
		w.cluster.setPod(p)
	}
	for name, set := range g.namespaces {
		w.cluster.setNamespace(name, set)
	}
	return w
}

// compare asks about every connection.
func (g *randomCluster) compare(w *world) {
	for _, from := range g.pods {
		for _, to := range g.pods {
			for _, port := range []int{80, 81} {
				want := from.key == to.key ||
					(!from.local || g.allows(networkingv1.PolicyTypeEgress, from, to, to, port)) &&
						(!to.local || g.allows(networkingv1.PolicyTypeIngress, to, from, to, port))
				if got := w.connects(endpointOf(from), endpointOf(to), "tcp", port); got != want {
					w.t.Errorf("%v to %v, port %d: passes is %v, want %v\n%s", from, to, port, got, want, w.fake.Dump())
				}
			}
		}
	}
}

// allows reads the policies literally.
func (g *randomCluster) allows(kind networkingv1.PolicyType, pod, peer, server podInfo, port int) bool {
	isolated := false
	for _, np := range g.policies {
		if np.Namespace != pod.namespace || !selects(&np.Spec.PodSelector, pod.labels) {
			continue
		}
		if kind == networkingv1.PolicyTypeIngress {
			isolated = true
			for _, r := range np.Spec.Ingress {
				if g.matches(np.Namespace, r.From, r.Ports, peer, server, port) {
					return true
				}
			}
		} else if len(np.Spec.Egress) > 0 {
			isolated = true
			for _, r := range np.Spec.Egress {
				if g.matches(np.Namespace, r.To, r.Ports, peer, server, port) {
					return true
				}
			}
		}
	}
	return !isolated
}

func (g *randomCluster) matches(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, peer, server podInfo, port int) bool {
	onPort := len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Port.StrVal == "" {
			return p.Port.IntValue() == port
		}
		// In a namespace that isn't known, nobody is known by labels either.
		return server.ports[0].number == int32(port) && (server.local && server.key != peer.key || g.namespaces[server.namespace] != nil)
	})
	return onPort && (len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock != nil {
			prefix := netip.MustParsePrefix(p.IPBlock.CIDR)
			return prefix.Contains(peer.addrs[familyOf(prefix.Addr())]) &&
				!netip.MustParsePrefix(p.IPBlock.Except[0]).Contains(peer.addrs[familyOf(prefix.Addr())])
		}
		if p.PodSelector != nil && !selects(p.PodSelector, peer.labels) {
			return false
		}
		if p.NamespaceSelector == nil {
			return peer.namespace == namespace
		}
		set, known := g.namespaces[peer.namespace]
		return known && selects(p.NamespaceSelector, set)
	}))
}

func selects(s *metav1.LabelSelector, set labels.Set) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(set)
}
