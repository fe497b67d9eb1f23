package flannel

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/flannel-io/flannel/pkg/lease"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testNode is a Node that has joined a network with vxlan.
func testNode(name string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			managedAnnotation:   "true",
			typeAnnotation:      "vxlan",
			dataAnnotation.v4:   `{"VNI":1,"VtepMAC":"02:00:00:00:00:04"}`,
			dataAnnotation.v6:   `{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}`,
			publicAnnotation.v4: "192.0.2.1",
			publicAnnotation.v6: "2001:db8::1",
			"example.com/other": "kept out",
		}},
		Spec:   v1.NodeSpec{PodCIDRs: []string{"10.42.1.0/24", "fd00:42:0:1::/64"}},
		Status: v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.1"}}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func annotated(name, value string) func(*v1.Node) {
	return func(n *v1.Node) { n.Annotations[name] = value }
}

func withRanges(cidrs ...string) func(*v1.Node) {
	return func(n *v1.Node) { n.Spec.PodCIDRs = cidrs }
}

func TestPeerOf(t *testing.T) {
	both := dual[bool]{true, true}
	dualPeer := peer{
		backend: "vxlan",
		ranges:  dual[netip.Prefix]{netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("fd00:42:0:1::/64")},
		public:  dual[netip.Addr]{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		data:    dual[string]{`{"VNI":1,"VtepMAC":"02:00:00:00:00:04"}`, `{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}`},
	}
	only4, only6 := dualPeer, dualPeer
	only4.ranges.v6, only4.public.v6, only4.data.v6 = netip.Prefix{}, netip.Addr{}, ""
	only6.ranges.v4, only6.public.v4, only6.data.v4 = netip.Prefix{}, netip.Addr{}, ""
	for _, test := range []struct {
		name     string
		families dual[bool]
		node     *v1.Node
		want     peer // zero: not a part of the network
	}{
		{"dual stack", both, testNode("a"), dualPeer},
		{"IPv4", dual[bool]{v4: true}, testNode("a"), only4},
		{"IPv6", dual[bool]{v6: true}, testNode("a"), only6},
		{"not joined", both, testNode("a", annotated(managedAnnotation, "false")), peer{}},
		{"no range", both, testNode("a", withRanges()), peer{}},
		{"no range of one family", both, testNode("a", withRanges("10.42.1.0/24")), peer{}},
		{"no address of one family", both, testNode("a", annotated(publicAnnotation.v6, "")), peer{}},
		{"address of the other family", both, testNode("a", annotated(publicAnnotation.v6, "192.0.2.1")), peer{}},
	} {
		if got, ok := peerOf(test.node, test.families); got != test.want || ok != (test.want != peer{}) {
			t.Errorf("%s: %+v, %t, want %+v", test.name, got, ok, test.want)
		}
	}
}

func TestSelfOf(t *testing.T) {
	s, annotations := selfOf(testNode("a", withRanges("fd00:42:0:1::/64", "10.42.1.0/24"), func(n *v1.Node) {
		n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeExternalIP, Address: "203.0.113.1"})
	}, annotated(overwriteAnnotation.v6, "2001:db8::9")))
	if !s.ready() || s.external.v4 != netip.MustParseAddr("203.0.113.1") || s.overwrite.v6 != netip.MustParseAddr("2001:db8::9") {
		t.Errorf("got %+v", s)
	}
	if got := s.list(); !slices.Equal(got, prefixes("fd00:42:0:1::/64", "10.42.1.0/24")) {
		t.Errorf("the ranges are %s", got)
	}
	if _, ok := annotations["example.com/other"]; ok || annotations[typeAnnotation] != "vxlan" {
		t.Errorf("the annotations are %s", annotations)
	}
	if s, _ := selfOf(testNode("a", withRanges())); s.ready() {
		t.Error("a node without a range is ready")
	}
	if s, _ := selfOf(testNode("a", func(n *v1.Node) { n.Status.Addresses = nil })); s.ready() {
		t.Error("a node without an address is ready")
	}
}

// TestNodes walks through what a reflector does.
func TestNodes(t *testing.T) {
	n := newNodes("self", dual[bool]{true, true})
	_, changed := n.view()
	step := func(what string, err error, wantChange bool, wantPeers ...string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var did bool
		select {
		case <-changed:
			did = true
		default:
		}
		var now view
		now, changed = n.view()
		if got := slices.Sorted(maps.Keys(now.peers)); did != wantChange || !slices.Equal(got, wantPeers) {
			t.Errorf("%s: a change: %t, and the nodes %q; want %t and %q", what, did, got, wantChange, wantPeers)
		}
	}
	step("list", n.Replace([]any{testNode("self"), testNode("a")}, "1"), true, "a")
	step("a new node", n.Add(testNode("b", withRanges("10.42.2.0/24", "fd00:42:0:2::/64"))), true, "a", "b")
	step("a node that joins later", n.Add(testNode("c", annotated(managedAnnotation, ""))), false, "a", "b")
	step("it joins", n.Update(testNode("c")), true, "a", "b", "c")
	step("a sign of life", n.Update(testNode("c", func(n *v1.Node) { n.ResourceVersion = "7" })), false, "a", "b", "c")
	step("another address", n.Update(testNode("c", annotated(publicAnnotation.v4, "192.0.2.9"))), true, "a", "b", "c")
	step("another range of this node", n.Update(testNode("self", withRanges("10.42.3.0/24"))), true, "a", "b", "c")
	step("a node leaves", n.Update(testNode("b", annotated(managedAnnotation, ""))), true, "a", "c")
	step("a node is deleted", n.Delete(testNode("c")), true, "a")
	step("one that hadn't joined is deleted", n.Delete(testNode("b")), false, "a")
	step("list again", n.Replace([]any{testNode("d")}, "9"), true, "d")
	if now, _ := n.view(); now.self.ready() {
		t.Error("a node that is not in the list is ready")
	}
}

func TestChanges(t *testing.T) {
	a, b := mustPeer(t, testNode("a")), mustPeer(t, testNode("b", withRanges("10.42.2.0/24", "fd00:42:0:2::/64")))
	moved := a
	moved.public.v4 = netip.MustParseAddr("192.0.2.9")
	other := b
	other.backend = "host-gw"
	for _, test := range []struct {
		name          string
		before, after map[string]peer
		want          []lease.EventType
	}{
		{"nothing", map[string]peer{"a": a}, map[string]peer{"a": a}, nil},
		{"a node", nil, map[string]peer{"a": a}, []lease.EventType{lease.EventAdded}},
		{"its end", map[string]peer{"a": a}, nil, []lease.EventType{lease.EventRemoved}},
		{"another address", map[string]peer{"a": a}, map[string]peer{"a": moved}, []lease.EventType{lease.EventRemoved, lease.EventAdded}},
		{"a range goes to another node", map[string]peer{"a": a}, map[string]peer{"c": a}, []lease.EventType{lease.EventRemoved, lease.EventAdded}},
		{"a node of another backend", nil, map[string]peer{"b": other}, nil},
		{"another backend", map[string]peer{"b": b}, map[string]peer{"b": other}, []lease.EventType{lease.EventRemoved}},
	} {
		var got []lease.EventType
		for _, event := range changes("vxlan", test.before, test.after) {
			got = append(got, event.Type)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	l := a.lease()
	if l.Subnet.String() != "10.42.1.0/24" || l.IPv6Subnet.String() != "fd00:42:0:1::/64" ||
		l.Attrs.PublicIP.String() != "192.0.2.1" || l.Attrs.PublicIPv6.String() != "2001:db8::1" {
		t.Errorf("the lease is %+v", l)
	}
}

func mustPeer(t *testing.T, node *v1.Node) peer {
	t.Helper()
	p, ok := peerOf(node, dual[bool]{true, true})
	if !ok {
		t.Fatalf("node %s is not a part of the network", node.Name)
	}
	return p
}

func TestPatchFor(t *testing.T) {
	want := map[string]string{typeAnnotation: "vxlan", publicAnnotation.v4: "192.0.2.1"}
	for _, test := range []struct {
		name string
		have map[string]string
		want map[string]any
	}{
		{"all there", map[string]string{typeAnnotation: "vxlan", publicAnnotation.v4: "192.0.2.1", overwriteAnnotation.v4: "192.0.2.7"}, nil},
		{"none", nil, map[string]any{typeAnnotation: "vxlan", publicAnnotation.v4: "192.0.2.1"}},
		{"another address", map[string]string{typeAnnotation: "vxlan", publicAnnotation.v4: "192.0.2.2"}, map[string]any{publicAnnotation.v4: "192.0.2.1"}},
		{"a family too many", map[string]string{typeAnnotation: "vxlan", publicAnnotation.v4: "192.0.2.1", publicAnnotation.v6: "2001:db8::1"},
			map[string]any{publicAnnotation.v6: nil}},
	} {
		if got := patchFor(test.have, want); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestPublic(t *testing.T) {
	overwrite, external, none := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.Addr{}
	for _, test := range []struct {
		useExternal         bool
		overwrite, external netip.Addr
		want                string
	}{
		{false, none, external, "192.0.2.3"},
		{true, none, external, "192.0.2.2"},
		{true, none, none, "192.0.2.3"},
		{true, overwrite, external, "192.0.2.1"},
		{false, overwrite, none, "192.0.2.1"},
	} {
		m := &manager{external: test.useExternal}
		if got := m.public(test.overwrite, test.external, "192.0.2.3"); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}
