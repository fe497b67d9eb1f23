package netpol

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/knftables"
)

// lab is a node with pods on a bridge, and another machine with a pod:
//
//	u/a u/b v/a v/b ── cni0 (node) eth0 ── eth0 (machine), w/r
type lab struct {
	t      *testing.T
	node   host
	hosts  map[string]host // pods by namespace/name, "node", "machine"
	client *fake.Clientset
	log    *logBuffer
	starts int    // of controllers
	stop   func() // the last of them

	mu      sync.Mutex
	watched map[string]int // how often each resource was begun to watch
	*Controller
}

const (
	labBridge    = "cni0"
	labService   = "10.96.0.1"
	labServiceIP = "fd96::1"
)

// needRoot skips tests that need what only root may do, where it isn't to be had.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the program nft (package nftables)")
	}
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		t.Skip("needs the kernel module br_netfilter")
	}
}

func newLab(t *testing.T) *lab {
	needRoot(t)
	l := &lab{t: t, hosts: map[string]host{}, log: &logBuffer{}, watched: map[string]int{}}
	node := newNetns(t)
	machine := newNetns(t)
	node.do(t, func() error {
		for name, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
			"bridge/bridge-nf-call-iptables": "1", "bridge/bridge-nf-call-ip6tables": "1",
		} {
			if err := sysctl(name, value); err != nil {
				return err
			}
		}
		if err := makeBridge(); err != nil {
			return err
		}
		if err := connect("eth0", machine, "eth0"); err != nil {
			return err
		}
		return configure("eth0", "192.0.2.1/24", "2001:db8::1/64")
	})
	machine.do(t, func() error {
		if err := configure("lo", "10.77.1.2/32", "fd77:1::2/128"); err != nil {
			return err
		}
		if err := configure("eth0", "192.0.2.2/24", "2001:db8::2/64"); err != nil {
			return err
		}
		if err := route("10.77.0.0/24", "192.0.2.1"); err != nil {
			return err
		}
		return route("fd77::/64", "2001:db8::1")
	})
	node.do(t, func() error {
		if err := route("10.77.1.0/24", "192.0.2.2"); err != nil {
			return err
		}
		return route("fd77:1::/64", "2001:db8::2")
	})
	l.node = host{node, addrsOf("10.77.0.1", "fd77::1")}
	l.hosts["node"] = l.node
	l.hosts["machine"] = host{machine, addrsOf("192.0.2.2", "2001:db8::2")}
	l.hosts["w/r"] = host{machine, addrsOf("10.77.1.2", "fd77:1::2")}
	for i, name := range []string{"u/a", "u/b", "v/a", "v/b"} {
		l.hosts[name] = l.newPod(i + 2)
	}
	for _, h := range l.hosts {
		h.serve(t, 80, 81)
		h.serveSCTP(t, 80, 81)
	}
	l.serveService()
	l.newClient()
	return l
}

func addrsOf(v4, v6 string) [2]netip.Addr {
	return [2]netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}
}

// serveService does what kube-proxy does: a Service whose pod is u/a. It is
// also what makes the kernel track connections from the beginning.
func (l *lab) serveService() {
	a := l.hosts["u/a"].addrs
	l.node.nft(l.t, fmt.Sprintf(`
		table inet proxy {
			chain prerouting {
				type nat hook prerouting priority dstnat;
				ip daddr %s dnat ip to %s
				ip6 daddr %s dnat ip6 to %s
			}
			chain postrouting {
				type nat hook postrouting priority srcnat;
				ip saddr %[2]s ip daddr %[2]s masquerade
				ip6 saddr %[4]s ip6 daddr %[4]s masquerade
			}
		}`, labService, a[ip4], labServiceIP, a[ip6]))
}

// newClient fills a clientset with the lab's pods.
func (l *lab) newClient() {
	objects := []runtime.Object{}
	for _, ns := range []string{"u", "v", "w"} {
		objects = append(objects, namespaceObject(ns, map[string]string{"ns": ns}))
	}
	for name, h := range l.hosts {
		if ns, pod, isPod := strings.Cut(name, "/"); isPod {
			p := podObject(ns, pod, h.addrs)
			if name == "w/r" {
				p.Spec.NodeName = "machine"
			}
			objects = append(objects, p)
		}
	}
	l.client = fake.NewClientset(objects...)
	l.client.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		watching, err := l.client.Tracker().Watch(action.GetResource(), action.GetNamespace())
		l.mu.Lock()
		defer l.mu.Unlock()
		l.watched[action.GetResource().Resource]++
		return true, watching, err
	})
}

func namespaceObject(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func podObject(ns, name string, addrs [2]netip.Addr) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(ns + "/" + name), Labels: map[string]string{"pod": name}},
		Spec: corev1.PodSpec{
			NodeName:   "node",
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "serve", ContainerPort: 80}}}},
		},
		Status: corev1.PodStatus{
			Phase:  corev1.PodRunning,
			PodIPs: []corev1.PodIP{{IP: addrs[ip4].String()}, {IP: addrs[ip6].String()}},
		},
	}
}

// start runs a controller in the node's namespace.
func (l *lab) start() {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		done <- l.node.in(func() error {
			nft, err := knftables.New(knftables.InetFamily, TableName)
			if err != nil {
				close(ready)
				return err
			}
			l.Controller = New(Options{
				Client: l.client, NodeName: "node", NFT: nft, Bridge: labBridge, Log: slog.New(slog.NewTextHandler(l.log, nil)),
			})
			close(ready)
			return l.Run(ctx)
		})
	}()
	<-ready
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("the controller ended: %v", err)
		}
	})
	l.t.Cleanup(l.stop)
	l.starts++
	l.watches("networkpolicies", l.starts)
}

// watches waits until a resource is watched for the nth time: the clientset
// forgets what happens between a list and a watch.
func (l *lab) watches(resource string, n int) {
	l.t.Helper()
	l.eventually("a watch of "+resource, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.watched[resource] >= n
	})
}

const limit = time.Minute

func (l *lab) eventually(what string, condition func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("no %s after %v; log:\n%s", what, limit, l.log)
		}
	}
}

// set makes the policies of the lab those of the text.
func (l *lab) set(policies string) {
	l.t.Helper()
	ctx := l.t.Context()
	wanted := parsePolicies(l.t, policies)
	for _, np := range wanted {
		client := l.client.NetworkingV1().NetworkPolicies(np.Namespace)
		_, err := client.Update(ctx, np, metav1.UpdateOptions{})
		if err != nil {
			_, err = client.Create(ctx, np, metav1.CreateOptions{})
		}
		if err != nil {
			l.t.Fatal(err)
		}
	}
	list, err := l.client.NetworkingV1().NetworkPolicies("").List(ctx, metav1.ListOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, np := range list.Items {
		if !slices.ContainsFunc(wanted, func(w *networkingv1.NetworkPolicy) bool { return keyOf(w) == keyOf(&np) }) {
			if err := l.client.NetworkingV1().NetworkPolicies(np.Namespace).Delete(ctx, np.Name, metav1.DeleteOptions{}); err != nil {
				l.t.Fatal(err)
			}
		}
	}
}

// result is which connections pass, as text.
func (l *lab) result(connections []string) string {
	var results sync.Map
	var tries sync.WaitGroup
	for _, connection := range connections {
		from, to, network, port := l.parse(connection)
		for _, addr := range to {
			tries.Go(func() {
				if from.reaches(l.t, network, netip.AddrPortFrom(addr, port)) {
					results.Store(connection+" "+familyOf(addr).String(), true)
				}
			})
		}
	}
	tries.Wait()
	var lines []string
	for _, connection := range connections {
		for _, f := range families {
			_, passes := results.Load(connection + " " + f.String())
			lines = append(lines, fmt.Sprintf("%s %s: %v\n", connection, f, passes))
		}
	}
	return strings.Join(lines, "")
}

// parse reads "from to:port", with "udp" or "sctp" before the port if it isn't TCP.
func (l *lab) parse(connection string) (from host, to [2]netip.Addr, network string, port uint16) {
	source, destination, _ := strings.Cut(connection, " ")
	destination, text, _ := strings.Cut(destination, ":")
	network, number := protocolAndPort(l.t, text)
	port = uint16(number) //nolint:gosec // a port
	to = l.hosts[destination].addrs
	if destination == "service" {
		to = addrsOf(labService, labServiceIP)
	}
	return l.hosts[source], to, network, port
}

// expect waits until the connections pass that are to, and no others.
func (l *lab) expect(allowed, refused string) {
	l.t.Helper()
	var connections []string
	var want string
	for _, connection := range splitList(allowed) {
		connections = append(connections, connection)
		want += connection + " ip4: true\n" + connection + " ip6: true\n"
	}
	for _, connection := range splitList(refused) {
		connections = append(connections, connection)
		want += connection + " ip4: false\n" + connection + " ip6: false\n"
	}
	got := ""
	for deadline := time.Now().Add(limit); got != want; {
		if time.Now().After(deadline) {
			l.t.Fatalf("connections that pass:\n%swant\n%s\nlog:\n%s\n%s", got, want, l.log, l.node.list(l.t))
		}
		got = l.result(connections)
	}
}

func splitList(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func (ns netns) list(t *testing.T) string { return ns.nft(t, "list ruleset") }

func (ns netns) hasTable(t *testing.T) bool {
	return strings.Contains(ns.nft(t, "list tables"), "table inet "+TableName+"\n")
}

type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Every feature, with connections that pass and connections that don't.
func TestPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	const everything = "u/a u/b:80, u/b u/a:81, v/a u/a:80, w/r u/a:80, machine u/a:udp80, v/a u/a:sctp80, u/a v/a:80, u/a w/r:80, u/a machine:80, u/a node:80, node u/a:80"
	tests := []struct {
		name, policies   string
		allowed, refused string
	}{
		{"no policies", "", everything, ""},
		{"default deny ingress", "u/p: {podSelector: {}}",
			"node u/a:80, node u/b:udp80, u/a v/a:80, u/b node:80, v/a v/b:80, u/a w/r:80",
			"u/a u/b:80, v/a u/a:80, v/b u/b:udp80, w/r u/a:80, machine u/a:80, v/a service:80"},
		{"default deny egress", "u/p: {podSelector: {}, policyTypes: [Egress]}",
			"v/a u/a:80, w/r u/a:80, node u/a:80, node u/a:udp81, machine u/b:80",
			"u/a u/b:80, u/a v/a:80, u/a v/a:udp80, u/a w/r:80, u/a machine:80, u/a node:80, u/a node:udp80, u/b service:80"},
		{"default deny both", "u/p: {podSelector: {}, policyTypes: [Ingress, Egress]}",
			"node u/a:80, v/a v/b:80", "u/a u/b:80, v/a u/a:80, u/a v/a:80, u/a node:80"},
		{"deleted policies", "", everything, ""},
		{"allow all beside deny all", "u/deny: {podSelector: {}, policyTypes: [Ingress, Egress]}\nu/in: {podSelector: {}, ingress: [{}]}\nu/out: {podSelector: {}, policyTypes: [Egress], egress: [{}]}",
			everything, ""},
		{"podSelector", "u/p: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}",
			"u/b u/a:80, v/b u/b:80", "v/b u/a:80, w/r u/a:80"},
		{"namespaceSelector", "u/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}]}]}",
			"v/a u/a:80, v/b u/b:udp80, v/a service:80", "u/a u/b:80, w/r u/a:80"},
		{"both", "u/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}, podSelector: {matchLabels: {pod: b}}}]}]}",
			"v/b u/a:80, v/b service:80", "v/a u/a:80, u/b u/a:80, w/r u/a:80, v/a service:80"},
		{"a pod of another node", "u/p: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}], egress: [{to: [{namespaceSelector: {matchLabels: {ns: w}}}]}]}",
			"w/r u/a:80, w/r u/a:udp80, u/a w/r:81, u/b w/r:udp80", "machine u/a:80, u/a machine:80, v/a u/a:80, u/a v/a:80"},
		{"ipBlock", "u/p: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: '2001:db8::/64'}}]}]}",
			"machine u/a:80", "w/r u/a:80, v/a u/a:80"},
		{"ipBlock with except", "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.77.0.0/24]}}, {ipBlock: {cidr: '::/0', except: ['fd77::/64']}}]}]}",
			"u/a w/r:80, u/a machine:udp80", "u/a u/b:80, u/a v/a:80, u/a node:80"},
		{"egress to the node", "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.77.0.1/32}}, {ipBlock: {cidr: 'fd77::1/128'}}], ports: [{port: 80}]}]}",
			"u/a node:80", "u/a node:81, u/a node:udp80, u/a u/b:80"},
		{"ports", "u/p: {podSelector: {}, ingress: [{ports: [{port: 80}, {protocol: UDP, port: 81}]}]}",
			"v/a u/a:80, w/r u/a:udp81, v/a service:80", "v/a u/a:81, v/a u/a:udp80"},
		{"port range", "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 81, endPort: 32768}]}]}",
			"u/a v/a:81, u/a w/r:81", "u/a v/a:80, u/a w/r:udp81"},
		{"named port, ingress", "u/p: {podSelector: {}, ingress: [{ports: [{port: serve}]}]}",
			"v/a u/a:80, w/r u/b:80", "v/a u/a:81, v/a u/a:udp80"},
		{"named port, egress", "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: serve}]}]}",
			"u/a v/a:80, u/a w/r:80, u/b service:80", "u/a v/a:81, u/a w/r:81, u/a machine:80"},
		{"SCTP", "u/p: {podSelector: {}, ingress: [{ports: [{protocol: SCTP, port: 80}]}]}",
			"v/a u/a:sctp80, w/r u/b:sctp80", "v/a u/a:sctp81, v/a u/a:80, v/a u/a:udp80"},
		{"SCTP, egress", "u/p: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: v}}}], ports: [{protocol: SCTP, port: 81, endPort: 90}]}]}",
			"u/a v/a:sctp81", "u/a v/a:sctp80, u/a w/r:sctp81, u/a v/a:81"},
		{"not SCTP", "u/p: {podSelector: {}, ingress: [{ports: [{port: 80}, {protocol: UDP, port: 80}]}]}",
			"v/a u/a:80, v/a u/a:udp80", "v/a u/a:sctp80"},
		{"a pod reaches itself", "u/p: {podSelector: {}, policyTypes: [Ingress, Egress]}",
			"u/a u/a:80, u/a u/a:udp80, u/a service:80", "u/b service:80"},
		{"stacked", "u/p: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}\nu/q: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}], ports: [{port: 81}]}]}",
			"u/b u/a:80, v/a u/a:81", "u/b u/a:81, v/a u/a:80, v/a u/b:81"},
		{"server allows what the client may not", "u/p: {podSelector: {}, policyTypes: [Egress]}\nv/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: u}}}]}]}",
			"v/a u/a:80", "u/a v/a:80, w/r v/a:80"},
		{"no policies again", "", everything, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l.t = t
			l.set(test.policies)
			l.expect(test.allowed, test.refused)
		})
	}
	l.t = t
	l.eventually("table that is gone with the last policy", func() bool { return !l.node.hasTable(t) })
}

// Labels, pods and namespaces change under a policy.
func TestPacketsFollowChanges(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.set("u/p: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: one}}, podSelector: {matchLabels: {role: client}}}]}]}")
	l.watches("pods", 1)
	l.watches("namespaces", 1)
	l.expect("v/a u/b:80", "v/a u/a:80")
	ctx := t.Context()
	update := func(p *corev1.Pod) {
		t.Helper()
		if _, err := l.client.CoreV1().Pods(p.Namespace).Update(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	relabel := func(ns string, labels map[string]string) {
		t.Helper()
		if _, err := l.client.CoreV1().Namespaces().Update(ctx, namespaceObject(ns, labels), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	client := podObject("v", "a", l.hosts["v/a"].addrs)
	client.Labels["role"] = "client"
	update(client)
	l.expect("", "v/a u/a:80")
	relabel("v", map[string]string{"team": "one"})
	l.expect("v/a u/a:80", "v/b u/a:80")
	relabel("v", nil)
	l.expect("", "v/a u/a:80")
	relabel("v", map[string]string{"team": "one"})
	l.expect("v/a u/a:80", "")

	// A pod that ended loses its address to another.
	client.Status.Phase = corev1.PodSucceeded
	update(client)
	l.expect("", "v/a u/a:80")
	client.Status.Phase = corev1.PodRunning
	update(client)
	l.expect("v/a u/a:80", "")

	// The pod itself is not selected any more, and is again.
	server := podObject("u", "a", l.hosts["u/a"].addrs)
	server.Labels["pod"] = "other"
	update(server)
	l.expect("v/b u/a:80", "")
	server.Labels["pod"] = "a"
	update(server)
	l.expect("v/a u/a:80", "v/b u/a:80")

	// A pod in the node's network is not isolated, and not known by its labels.
	server.Spec.HostNetwork = true
	update(server)
	l.expect("v/b u/a:80", "")
}

// Connections that were opened before end as soon as policies forbid them,
// whoever sends, and go on if they are allowed again.
func TestPacketsOfEstablishedConnections(t *testing.T) {
	t.Parallel()
	const (
		allowAll = "u/p: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}"
		denyAll  = "u/p: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress]}"
	)
	l := newLab(t)
	l.start()
	l.set(allowAll)
	l.watches("pods", 1)
	l.expect("v/a u/a:80, u/a v/b:80", "")

	conns := map[string]net.Conn{}
	for _, connection := range []string{"v/a u/a:80", "v/a u/a:udp80", "u/a v/b:80", "u/a v/b:udp80", "w/r u/a:80", "u/a w/r:udp81", "v/a service:80", "u/a node:80", "node u/a:80"} {
		from, to, network, port := l.parse(connection)
		for _, addr := range to {
			conn, err := from.dial(network, netip.AddrPortFrom(addr, port))
			if err != nil {
				t.Fatalf("%s: %v", connection, err)
			}
			defer func() { _ = conn.Close() }()
			if err := echo(conn, limit); err != nil {
				t.Fatalf("%s: %v", connection, err)
			}
			conns[connection+" "+familyOf(addr).String()] = conn
		}
	}

	l.set(denyAll)
	start := time.Now()
	l.expect("", "v/a u/a:80, u/a v/b:80") // connections that are new: the policy is in force
	t.Logf("refusing after %v, with %v for refused connections to time out", time.Since(start).Round(time.Millisecond), patience)
	for name, conn := range conns {
		wantCut, wait := true, patience
		if strings.HasPrefix(name, "node ") {
			wantCut, wait = false, limit
		}
		err := echo(conn, wait)
		if cut := err != nil; cut != wantCut {
			t.Errorf("%s: is cut is %v, want %v (%v)", name, cut, wantCut, err)
		}
	}

	l.set(allowAll)
	for name, conn := range conns {
		// TCP sends again what was lost; UDP does not.
		l.eventually("answer on "+name, func() bool {
			return echo(conn, patience) == nil
		})
	}
}

// A side that only sends is cut as well, without a word from the other.
func TestPacketsOneWay(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.set("v/p: {podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{namespaceSelector: {}}]}]}")
	l.watches("pods", 1)
	server, client := l.hosts["v/b"], l.hosts["v/a"]
	var socket net.PacketConn
	server.do(t, func() (err error) {
		socket, err = net.ListenPacket("udp", netip.AddrPortFrom(server.addrs[ip4], 9000).String())
		return err
	})
	defer func() { _ = socket.Close() }()
	conn, err := client.dial("udp", netip.AddrPortFrom(server.addrs[ip4], 9000))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	_, subscriber, err := socket.ReadFrom(make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel()
	sending.Go(func() {
		for ctx.Err() == nil {
			_, _ = socket.WriteTo([]byte(time.Now().Format(time.RFC3339Nano)), subscriber)
			time.Sleep(time.Millisecond)
		}
	})
	last := func(wait time.Duration) (time.Time, error) {
		buffer := make([]byte, 100)
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		n, err := conn.Read(buffer)
		if err != nil {
			return time.Time{}, err
		}
		return time.Parse(time.RFC3339Nano, string(buffer[:n]))
	}
	if _, err := last(limit); err != nil {
		t.Fatalf("nothing arrives before the policy: %v", err)
	}
	l.set("v/p: {podSelector: {matchLabels: {pod: b}}}")
	start := time.Now()
	var sent time.Time
	for {
		at, err := last(patience)
		if isTimeout(err) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if sent = at; time.Since(start) > limit {
			t.Fatalf("still arriving after %v", limit)
		}
	}
	t.Logf("the last that passed was sent %v after the policy's change", sent.Sub(start).Round(time.Microsecond))
}

// A flushed ruleset is a table that has to be made again.
func TestPacketsAfterFlush(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.set("u/p: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}]}]}")
	l.watches("pods", 1)
	l.expect("v/a u/a:80", "u/b u/a:80")
	l.node.nft(t, "flush ruleset")
	l.eventually("table after a flush", func() bool { return l.node.hasTable(t) })
	l.expect("v/a u/a:80", "u/b u/a:80")

	// What others did to the table is found when it doesn't fit any more.
	l.node.nft(t, "flush table inet "+TableName+"\nflush map inet "+TableName+" ingress-ip4\nflush map inet "+TableName+" ingress-reply-ip4")
	l.set("u/q: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]}")
	l.expect("w/r u/a:80, v/a u/b:80", "v/a u/a:80")
}

// The table stays when the controller ends, is taken over by the next, and
// goes when it is removed.
func TestPacketsAfterRestart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	l.set("u/p: {podSelector: {}}")
	l.watches("pods", 1)
	l.expect("v/a v/b:80", "v/a u/a:80")
	l.stop()
	l.expect("v/a v/b:80", "v/a u/a:80")

	l.set("v/p: {podSelector: {}}")
	l.start()
	l.expect("v/a u/a:80", "u/a v/b:80")
	l.stop()

	l.node.do(t, func() error {
		nft, err := knftables.New(knftables.InetFamily, TableName)
		if err != nil {
			return err
		}
		for range 2 {
			if err := Remove(t.Context(), nft); err != nil {
				return err
			}
		}
		return nil
	})
	l.expect("u/a v/b:80", "")
}

// A pod is isolated before its status has an address.
func TestPacketsOfStartingPod(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	addresses := l.hosts["v/b"].addrs
	starting, addrs := podObject("u", "new", addresses), addresses[:]
	if err := l.client.CoreV1().Pods("v").Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	l.start()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := l.Admit(ctx, starting.UID, addrs); err != nil {
		t.Errorf("without policies: %v", err)
	}
	l.set("u/p: {podSelector: {}}")
	l.watches("pods", 1)
	l.expect("v/a v/b:80", "v/a u/a:80")
	tooShort, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.Admit(tooShort, starting.UID, addrs); err == nil {
		t.Error("a pod that the API doesn't have was admitted")
	}

	starting.Status = corev1.PodStatus{Phase: corev1.PodPending}
	created := make(chan error, 1)
	go func() {
		_, err := l.client.CoreV1().Pods("u").Create(t.Context(), starting, metav1.CreateOptions{})
		created <- err
	}()
	if err := l.Admit(ctx, starting.UID, addrs); err != nil {
		t.Error(err)
	}
	if err := <-created; err != nil {
		t.Error(err)
	}
	for _, addr := range addrs {
		if l.hosts["v/a"].reaches(t, "tcp", netip.AddrPortFrom(addr, 80)) {
			t.Errorf("%s is not isolated", addr)
		}
	}
}

// Pods on a bridge have addresses that only they know.
func TestPacketsOfLinkLocalAddresses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.start()
	to := linkLocal(t, l.hosts["u/a"].netns)
	l.hosts["u/a"].serveTCP(t, netip.AddrPortFrom(to.WithZone("eth0"), 80).String())
	reaches := func() bool {
		from := l.hosts["v/a"]
		from.addrs = [2]netip.Addr{}
		return from.reaches(t, "tcp", netip.AddrPortFrom(to.WithZone("eth0"), 80))
	}
	l.eventually("way to a link-local address", reaches)
	l.set("u/p: {podSelector: {}}")
	l.eventually("refusal of a link-local address", func() bool { return !reaches() })
	l.expect("v/a v/b:80", "v/a u/a:80") // neighbours are still found
}

// Nothing that is forbidden passes while the table is changed or made anew.
func TestPacketsNeverOpen(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	server := l.hosts["u/a"]
	var socket net.PacketConn
	server.do(t, func() (err error) {
		socket, err = net.ListenPacket("udp", netip.AddrPortFrom(server.addrs[ip4], 9000).String())
		return err
	})
	conn, err := l.hosts["v/a"].dial("udp", netip.AddrPortFrom(server.addrs[ip4], 9000))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("before")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := socket.ReadFrom(make([]byte, 100)); err != nil {
		t.Fatalf("the way is closed without a policy: %v", err)
	}

	w := newWorld(t)
	w.cluster.setPod(podOf(podObject("u", "a", server.addrs), "node"))
	w.apply("u/p: {podSelector: {}}")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer func() { _, _ = conn.Close(), socket.Close() }()
	defer cancel()
	l.node.do(t, func() error {
		nft, err := knftables.New(knftables.InetFamily, TableName)
		if err != nil {
			return err
		}
		rules, _ := w.cluster.next()
		tx := nft.NewTransaction()
		recreate(tx, rules)
		if err := nft.Run(ctx, tx); err != nil {
			return err
		}
		running.Go(func() {
			for ctx.Err() == nil {
				_, _ = conn.Write([]byte("after"))
			}
		})
		running.Go(func() {
			for {
				if _, _, err := socket.ReadFrom(make([]byte, 100)); err != nil {
					return
				}
				t.Error("a packet passed")
			}
		})
		for i := range 100 {
			// Policies that refuse it all the same, in ever new chains and sets.
			w.apply(fmt.Sprintf("u/p%d: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: p%[1]d}}}]}]}", i%3))
			if i%3 == 2 {
				w.cluster.deletePolicy(key{"u", fmt.Sprint("p", (i+1)%3)})
			}
			to, changes := w.cluster.next()
			tx := nft.NewTransaction()
			if i%2 == 0 {
				existing, err := nft.ListAll(ctx)
				if err != nil {
					return err
				}
				rebuild(tx, to, existing)
			} else {
				update(tx, rules, to, changes)
			}
			if err := nft.Run(ctx, tx); err != nil {
				return err
			}
			rules = to
		}
		return nil
	})
}
