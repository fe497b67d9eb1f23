package servicelb

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// epoch is when the oldest Service was made.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// service makes one of type LoadBalancer with ports such as 80/TCP.
func service(name string, minutes int, ports string, changes ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: "uid-of-service", ResourceVersion: "1",
			CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(minutes) * time.Minute)),
			Labels:            map[string]string{},
		},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeLoadBalancer,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		},
	}
	for text := range strings.FieldsSeq(ports) {
		p := port(text)
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: int32(p.Number), Protocol: p.Protocol})
	}
	for _, change := range changes {
		change(s)
	}
	return s
}

func port(text string) Port {
	var p Port
	if err := p.UnmarshalText([]byte(text)); err != nil {
		panic(err)
	}
	return p
}

func serviceLabel(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Labels[key] = value }
}

func families(list ...corev1.IPFamily) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.IPFamilies = list }
}

// having makes a Service have addresses already, by us or by another.
func having(marked bool, addresses ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		for _, a := range addresses {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
		}
		if marked {
			s.Status.Conditions = []metav1.Condition{{Type: ConditionType, Status: metav1.ConditionTrue, Reason: "Served"}}
		}
	}
}

func class(name string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &name }
}

func onlyLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func nodePort(number int32) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports[0].NodePort = number }
}

func asking(address string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerIP = address } //nolint:staticcheck // still in use
}

// node makes a Ready one, with internal addresses, on which 22/TCP is used and
// the ports of the tests are free.
func node(name, internal string, changes ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}, Annotations: map[string]string{}}}
	addresses(corev1.NodeInternalIP, internal)(n)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	saying(`{"free":["80/TCP","443/TCP","53/UDP","53/TCP","10250/TCP","30080/TCP","132/SCTP"],"used":{"22/TCP":"sshd","111/UDP":""}}`)(n)
	for _, change := range changes {
		change(n)
	}
	return n
}

func addresses(kind corev1.NodeAddressType, list string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		for a := range strings.FieldsSeq(list) {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: a})
		}
	}
}

func external(list string) func(*corev1.Node) { return addresses(corev1.NodeExternalIP, list) }

func nodeLabel(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func saying(report string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Annotations[ReportAnnotation] = report }
}

func notReady(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }

func deleted(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{Time: epoch} }

// slice makes endpoints of a Service, such as "a" and "b:unready" for nodes.
func slice(service, endpoints string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: service + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: service},
	}}
	for text := range strings.FieldsSeq(endpoints) {
		name, _, unready := strings.Cut(text, ":")
		ready := !unready
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{NodeName: &name, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{}) // outside of the cluster
	return slice
}

// show is a verdict in one line.
func show(v Verdict) string {
	list := []string{}
	for _, a := range v.Addresses {
		list = append(list, a.String())
	}
	text := strings.Join(list, " ")
	if v.Left {
		text = "left"
	}
	if len(v.Waiting) > 0 {
		text += " waits for " + strings.Join(v.Waiting, " ")
	}
	if v.Problem != nil {
		text += " " + v.Problem.Reason + ": " + v.Problem.Message
	}
	return strings.TrimSpace(text)
}

func TestDecide(t *testing.T) {
	const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol
	a, b := node("a", "192.0.2.1"), node("b", "192.0.2.2")
	web := service("web", 0, "80/TCP")
	type serviceList = []*corev1.Service
	type nodeList = []*corev1.Node
	reserved := map[Port]string{port("6443/TCP"): "API server", port("8472/UDP"): "pod network"}

	for _, test := range []struct {
		name     string
		services serviceList
		nodes    nodeList
		slices   []*discoveryv1.EndpointSlice
		want     map[string]string // by Service
	}{
		{name: "all nodes, sorted", services: serviceList{web}, nodes: nodeList{node("c", "192.0.2.10"), b, a},
			want: map[string]string{"web": "192.0.2.1 192.0.2.2 192.0.2.10"}},
		{name: "UDP and SCTP", services: serviceList{service("dns", 0, "53/UDP 53/TCP"), service("sctp", 0, "132/SCTP")}, nodes: nodeList{a},
			want: map[string]string{"dns": "192.0.2.1", "sctp": "192.0.2.1"}},
		{name: "no nodes", services: serviceList{web}, want: map[string]string{"web": ""}},

		{name: "other types and classes are left alone",
			services: serviceList{
				service("cluster", 0, "80/TCP", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }),
				service("other", 0, "80/TCP", class("example.com/lb")),
				service("ours", 1, "80/TCP", class(Class)),
			}, nodes: nodeList{a},
			want: map[string]string{"ours": "192.0.2.1"}},
		{name: "what another load balancer has taken is left alone",
			services: serviceList{
				service("addresses", 0, "80/TCP", having(false, "203.0.113.1")),
				service("finalizer", 0, "80/TCP", func(s *corev1.Service) { s.Finalizers = []string{cleanupFinalizer} }),
			}, nodes: nodeList{a},
			want: map[string]string{}},
		{name: "what is no load balancer any more is cleared",
			services: serviceList{
				service("cluster", 0, "80/TCP", having(true), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }),
				service("deleted", 0, "80/TCP", having(true, "192.0.2.1"), func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{Time: epoch} }),
				service("web", 1, "80/TCP"),
			}, nodes: nodeList{a},
			want: map[string]string{"cluster": "left", "deleted": "left", "web": "192.0.2.1"}},

		{name: "external addresses come before internal ones", services: serviceList{web},
			nodes: nodeList{node("a", "192.0.2.1", external("203.0.113.9")), b},
			want:  map[string]string{"web": "192.0.2.2 203.0.113.9"}},
		{name: "where a router stands before the node its internal address is served too", services: serviceList{web},
			nodes: nodeList{node("a", "192.0.2.1", external("203.0.113.9"), saying(`{"free":["80/TCP"],"elsewhere":["203.0.113.9"]}`)), b},
			want:  map[string]string{"web": "192.0.2.2 203.0.113.9 192.0.2.1"}},
		{name: "both families in the Service's order",
			services: serviceList{service("web", 0, "80/TCP", families(v6, v4)), service("old", 0, "443/TCP", families(v6))},
			nodes:    nodeList{node("a", "192.0.2.1 2001:db8::1"), node("b", "192.0.2.2 2001:db8::2", external("2001:db8:1::2"))},
			want:     map[string]string{"web": "2001:db8::1 2001:db8:1::2 192.0.2.1 192.0.2.2", "old": "2001:db8::1 2001:db8:1::2"}},
		{name: "an address that nodes share is listed once", services: serviceList{web},
			nodes: nodeList{node("a", "192.0.2.1", external("203.0.113.9")), node("b", "192.0.2.2", external("203.0.113.9"))},
			want:  map[string]string{"web": "203.0.113.9"}},

		{name: "nodes that serve nobody now", services: serviceList{web},
			nodes: nodeList{
				a, node("b", "192.0.2.2", notReady), node("c", "192.0.2.3", deleted),
				node("d", "192.0.2.4", nodeLabel(corev1.LabelNodeExcludeBalancers, "")),
			},
			want: map[string]string{"web": "192.0.2.1"}},
		{name: "labelled nodes only", services: serviceList{web},
			nodes: nodeList{a, node("b", "192.0.2.2", nodeLabel(enableLabels[0], "true")), node("c", "192.0.2.3", nodeLabel(enableLabels[0], "false"))},
			want:  map[string]string{"web": "192.0.2.2"}},
		{name: "labelled nodes only, as k3s has it", services: serviceList{web},
			nodes: nodeList{a, node("b", "192.0.2.2", nodeLabel("svccontroller.k3s.cattle.io/enablelb", "true"))},
			want:  map[string]string{"web": "192.0.2.2"}},
		{name: "pools share ports",
			services: serviceList{
				service("one", 0, "80/TCP", serviceLabel(poolLabels[0], "one")),
				service("two", 1, "80/TCP", serviceLabel("svccontroller.k3s.cattle.io/lbpool", "two")),
				service("three", 2, "443/TCP", serviceLabel(poolLabels[0], "three")),
			},
			nodes: nodeList{
				node("a", "192.0.2.1", nodeLabel(poolLabels[0], "one")),
				node("b", "192.0.2.2", nodeLabel("svccontroller.k3s.cattle.io/lbpool", "two")),
			},
			want: map[string]string{
				"one": "192.0.2.1", "two": "192.0.2.2",
				"three": "NoNodeInPool: no node for services has the label svccontroller.kedge.io/lbpool=three: label one, or take the Service's label away",
			}},

		{name: "Local lists nodes with ready endpoints",
			services: serviceList{service("web", 0, "80/TCP", onlyLocal), service("none", 0, "443/TCP", onlyLocal)},
			nodes:    nodeList{a, b, node("c", "192.0.2.3")},
			slices:   []*discoveryv1.EndpointSlice{slice("web", "a b:unready c c:unready")},
			want:     map[string]string{"web": "192.0.2.1 192.0.2.3", "none": ""}},
		{name: "a Local Service keeps others off nodes without its endpoints too",
			services: serviceList{service("web", 0, "80/TCP", onlyLocal), service("late", 1, "80/TCP")},
			nodes:    nodeList{a, b},
			slices:   []*discoveryv1.EndpointSlice{slice("web", "a")},
			want: map[string]string{"web": "192.0.2.1",
				"late": "PortTaken: port 80/TCP of 192.0.2.1, 192.0.2.2 belongs to Service default/web: choose another port, or delete that Service"}},

		{name: "the older of two has the port", nodes: nodeList{a},
			services: serviceList{service("late", 1, "80/TCP", having(true, "192.0.2.1")), web},
			want: map[string]string{"web": "192.0.2.1",
				"late": "PortTaken: port 80/TCP of 192.0.2.1 belongs to Service default/web: choose another port, or delete that Service"}},
		{name: "all ports or none", nodes: nodeList{a},
			services: serviceList{web, service("late", 1, "443/TCP 80/TCP"), service("last", 2, "443/TCP")},
			want: map[string]string{"web": "192.0.2.1", "last": "192.0.2.1",
				"late": "PortTaken: port 80/TCP of 192.0.2.1 belongs to Service default/web: choose another port, or delete that Service"}},
		{name: "one port number of two protocols or families is no clash",
			nodes: nodeList{node("a", "192.0.2.1 2001:db8::1")},
			services: serviceList{
				service("udp", 0, "53/UDP"), service("tcp", 1, "53/TCP"), service("tcp6", 2, "53/TCP", families(v6)),
			},
			want: map[string]string{"udp": "192.0.2.1", "tcp": "192.0.2.1", "tcp6": "2001:db8::1"}},
		{name: "a node that is away keeps its ports", nodes: nodeList{node("a", "192.0.2.1", notReady)},
			services: serviceList{web, service("late", 1, "80/TCP")},
			want: map[string]string{"web": "",
				"late": "PortTaken: port 80/TCP of 192.0.2.1 belongs to Service default/web: choose another port, or delete that Service"}},
		{name: "a Service with external addresses of its own", nodes: nodeList{a, b},
			services: serviceList{
				service("fixed", 9, "80/TCP", func(s *corev1.Service) {
					s.Spec.Type, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, []string{"192.0.2.2"}
				}), web,
			},
			want: map[string]string{"web": "192.0.2.1 PortTaken: port 80/TCP of 192.0.2.2 belongs to Service default/fixed: choose another port, or delete that Service"}},
		{name: "node ports", nodes: nodeList{a},
			services: serviceList{
				service("ports", 9, "80/TCP", nodePort(30080), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }),
				service("clash", 0, "30080/TCP", nodePort(30081)),
				service("none", 1, "443/TCP"),
			},
			want: map[string]string{"none": "192.0.2.1", "clash": "NodePortClash: port 30080/TCP is a node port of Service default/ports: choose another"}},
		{name: "a node port of its own", nodes: nodeList{a}, services: serviceList{service("web", 0, "30080/TCP", nodePort(30080))},
			want: map[string]string{"web": "192.0.2.1"}},

		{name: "what Kedge needs", nodes: nodeList{a},
			services: serviceList{
				service("api", 0, "6443/TCP 80/TCP", having(true, "192.0.2.1")), service("kubelet", 0, "10250/TCP"),
				service("vxlan", 0, "8472/UDP"), service("web", 1, "80/TCP"),
			},
			want: map[string]string{
				"api":     "PortReserved: port 6443/TCP is Kedge's own (API server): choose another",
				"kubelet": "PortUsedOnNode: port 10250/TCP is used by kubelet on node a, whose addresses are not given: stop it there, or choose another port",
				"vxlan":   "PortReserved: port 8472/UDP is Kedge's own (pod network): choose another",
				"web":     "192.0.2.1",
			}},
		{name: "what a node uses itself",
			nodes:    nodeList{a, node("b", "192.0.2.2", saying(`{"free":["22/TCP"]}`))},
			services: serviceList{service("ssh", 0, "22/TCP"), service("rpc", 0, "111/UDP", having(true, "192.0.2.1"))},
			want: map[string]string{
				"ssh": "192.0.2.2 PortUsedOnNode: port 22/TCP is used by sshd on node a, whose addresses are not given: stop it there, or choose another port",
				"rpc": "waits for b PortUsedOnNode: port 111/UDP is used by a program that can't be seen on node a, whose addresses are not given: stop it there, or choose another port",
			}},
		{name: "a node that has not said yet", nodes: nodeList{a, node("b", "192.0.2.2", saying("")), node("c", "192.0.2.3", saying("{not JSON"))},
			services: serviceList{web}, want: map[string]string{"web": "192.0.2.1 waits for b c"}},
		{name: "what it has it keeps while a node has not said yet", nodes: nodeList{node("b", "192.0.2.2", saying(""))},
			services: serviceList{service("web", 0, "80/TCP", having(true, "192.0.2.2")), service("late", 1, "80/TCP")},
			want: map[string]string{"web": "192.0.2.2 waits for b",
				"late": "waits for b PortTaken: port 80/TCP of 192.0.2.2 belongs to Service default/web: choose another port, or delete that Service"}},

		{name: "an address that is asked for and that a router has",
			nodes:    nodeList{node("a", "192.0.2.1", external("203.0.113.9"), saying(`{"free":["80/TCP"],"elsewhere":["203.0.113.9"]}`)), b},
			services: serviceList{service("one", 0, "80/TCP", asking("203.0.113.9"))},
			want:     map[string]string{"one": "203.0.113.9 192.0.2.1"}},
		{name: "an address that is asked for", nodes: nodeList{node("a", "192.0.2.1", external("203.0.113.9")), b},
			services: serviceList{
				service("one", 0, "80/TCP", asking("192.0.2.2")), service("two", 1, "80/TCP", asking("192.0.2.1")),
				service("rest", 2, "80/TCP"), service("bad", 3, "443/TCP", asking("198.51.100.7")),
				service("six", 4, "443/TCP", asking("2001:db8::1")),
			},
			want: map[string]string{
				"one": "192.0.2.2", "two": "192.0.2.1",
				"rest": "203.0.113.9 PortTaken: port 80/TCP of 192.0.2.2 belongs to Service default/one: choose another port, or delete that Service",
				"bad":  "UnknownAddress: spec.loadBalancerIP asks for 198.51.100.7, which is no address of a node for this Service: name one of a node, or take it away",
				"six":  "UnknownAddress: spec.loadBalancerIP asks for 2001:db8::1, which is no address of a node for this Service: name one of a node, or take it away",
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			verdicts := Decide(Cluster{Services: test.services, Nodes: test.nodes, Slices: test.slices, Reserved: reserved})
			got := map[string]string{}
			for name, v := range verdicts {
				got[name.Name] = show(v)
			}
			for name, want := range test.want {
				if text, found := got[name]; !found || text != want {
					t.Errorf("%s: got  %q (%v)\nwant %q", name, text, found, want)
				}
			}
			for name, text := range got {
				if _, expected := test.want[name]; !expected {
					t.Errorf("%s: got %q, want it to be left alone", name, text)
				}
			}
		})
	}
}

func TestProblemNamesFewPlaces(t *testing.T) {
	var p problems
	for i := range 8 {
		p.addAt(fmt.Sprint("n", i), ReasonHostPort, "port 80/TCP is used on node ", "!")
		p.addAt(fmt.Sprint("n", i), ReasonHostPort, "port 80/TCP is used on node ", "!")
	}
	const want = "port 80/TCP is used on node n0, n1, n2, n3, n4 and 3 more!"
	if got := p.problem().Message; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReport(t *testing.T) {
	r := Report{
		Free:      []Port{port("80/TCP")},
		Used:      map[Port]string{port("53/UDP"): "dnsmasq", port("22/TCP"): ""},
		Elsewhere: []netip.Addr{netip.MustParseAddr("203.0.113.9")},
	}
	text, err := json.Marshal(r)
	if want := `{"free":["80/TCP"],"used":{"22/TCP":"","53/UDP":"dnsmasq"},"elsewhere":["203.0.113.9"]}`; err != nil || string(text) != want {
		t.Fatalf("got %s, %v\nwant %s", text, err, want)
	}
	back, err := reportOf(node("a", "192.0.2.1", saying(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		port Port
		used bool
		by   string
		said bool
	}{
		{port("80/TCP"), false, "", true},
		{port("80/UDP"), false, "", false},
		{port("53/UDP"), true, "dnsmasq", true},
		{port("22/TCP"), true, "", true},
	} {
		if used, by, said := back.says(test.port); used != test.used || by != test.by || said != test.said {
			t.Errorf("%s: got %v %q %v, want %v %q %v", test.port, used, by, said, test.used, test.by, test.said)
		}
	}
	for _, bad := range []string{"80", "x/TCP", "70000/TCP", "80/", ""} {
		var p Port
		if err := p.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is taken for port %s", bad, p)
		}
	}
}
