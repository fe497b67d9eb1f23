package servicelb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// Class is Kedge's spec.loadBalancerClass. Services without a class are served
	// too.
	Class = "kedge.io/servicelb"
	// ConditionType marks the statuses of Services that a Controller wrote.
	ConditionType = "kedge.io/servicelb"
)

// Reasons of problems, in events and in the condition.
const (
	ReasonReserved       = "PortReserved"    // by Kedge itself
	ReasonNodePort       = "NodePortClash"   // with another Service's
	ReasonHostPort       = "PortUsedOnNode"  // by a program of the machine
	ReasonTaken          = "PortTaken"       // by an older Service
	ReasonUnknownAddress = "UnknownAddress"  // that spec.loadBalancerIP asks for
	ReasonNoNode         = "NoNodeInPool"    // that the Service's label names
	ReasonSilentNode     = "NodeDoesNotTell" // which ports are used
)

// Cluster is what there is to decide from.
type Cluster struct {
	Services []*corev1.Service
	Nodes    []*corev1.Node
	// Slices are needed of Services with externalTrafficPolicy Local only.
	Slices []*discoveryv1.EndpointSlice
	// Reserved are the ports that Kedge needs itself on all nodes, and what for.
	Reserved map[Port]string
}

// Verdict is what is decided of a Service.
type Verdict struct {
	// Left says that the Service is none of ours any more: what was written into
	// its status is taken back.
	Left bool
	// Addresses are what the Service gets, in the order of its status.
	Addresses []netip.Addr
	// Problem is why it doesn't get all that it would get otherwise.
	Problem *Problem
	// Waiting are the nodes that have yet to say whether the ports are free.
	Waiting []string
}

// Problem is for the person who made the Service.
type Problem struct{ Reason, Message string }

// claim is a port at an address, which one Service only can have.
type claim struct {
	address netip.Addr
	port    Port
}

// decision is made of one Service after the other, the oldest first.
type decision struct {
	cluster   Cluster
	reports   map[string]Report // by node
	anyLabel  bool              // a node has an enable label
	nodePorts map[Port]types.NamespacedName
	claims    map[claim]types.NamespacedName
	endpoints map[types.NamespacedName]map[string]bool // nodes with ready endpoints
}

// Decide says what each Service gets. Services that are left alone are not among
// the verdicts.
func Decide(c Cluster) map[types.NamespacedName]Verdict {
	d := decision{
		cluster:   c,
		reports:   map[string]Report{},
		nodePorts: map[Port]types.NamespacedName{},
		claims:    map[claim]types.NamespacedName{},
		endpoints: readyNodes(c.Slices),
	}
	d.cluster.Nodes = slices.SortedFunc(slices.Values(c.Nodes), func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, n := range c.Nodes {
		d.anyLabel = d.anyLabel || enabled(n)
		// An annotation that can't be read says nothing: the node is waited for.
		d.reports[n.Name], _ = reportOf(n)
	}
	for _, s := range c.Services {
		d.addFixed(s)
	}
	verdicts := map[types.NamespacedName]Verdict{}
	for _, s := range slices.SortedFunc(slices.Values(c.Services), byAge) {
		switch {
		case ours(s):
			verdicts[nameOf(s)] = d.decide(s)
		case marked(s):
			verdicts[nameOf(s)] = Verdict{Left: true}
		}
	}
	return verdicts
}

func byAge(a, b *corev1.Service) int {
	return cmp.Or(
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Name, b.Name),
	)
}

func nameOf(s *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}

// marked says whether the Service's status is a Controller's.
func marked(s *corev1.Service) bool {
	return meta.FindStatusCondition(s.Status.Conditions, ConditionType) != nil
}

// asks says whether a Service wants addresses of this load balancer.
func asks(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.DeletionTimestamp == nil &&
		(s.Spec.LoadBalancerClass == nil || *s.Spec.LoadBalancerClass == Class)
}

// cleanupFinalizer is what the load balancers of clouds put on their Services.
const cleanupFinalizer = "service.kubernetes.io/load-balancer-cleanup"

// ours says whether a Service is for this load balancer, and no other has taken
// it already.
func ours(s *corev1.Service) bool {
	others := len(s.Status.LoadBalancer.Ingress) > 0 || slices.Contains(s.Finalizers, cleanupFinalizer)
	return asks(s) && (marked(s) || !others)
}

func local(s *corev1.Service) bool {
	return s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// addFixed notes what a Service has by its own specification.
func (d *decision) addFixed(s *corev1.Service) {
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			d.nodePorts[Port{uint16(p.NodePort), protocolOf(p)}] = nameOf(s)
		}
	}
	for _, text := range s.Spec.ExternalIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			for _, p := range portsOf(s) {
				d.claims[claim{ip, p}] = nameOf(s)
			}
		}
	}
}

// readyNodes are, by Service, the nodes with endpoints that are ready.
func readyNodes(list []*discoveryv1.EndpointSlice) map[types.NamespacedName]map[string]bool {
	found := map[types.NamespacedName]map[string]bool{}
	for _, slice := range list {
		service := serviceOf(slice)
		for _, e := range slice.Endpoints {
			if e.NodeName == nil || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			if found[service] == nil {
				found[service] = map[string]bool{}
			}
			found[service][*e.NodeName] = true
		}
	}
	return found
}

func serviceOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

func (d *decision) decide(s *corev1.Service) Verdict {
	var problems problems
	d.refuse(s, &problems)
	nodes := d.members(s, &problems)
	wanted := d.wanted(s, nodes, &problems)
	var v Verdict
	if len(problems) == 0 {
		d.give(s, nodes, wanted, &v, &problems)
	}
	v.Problem = problems.problem()
	return v
}

// refuse finds ports that no node can serve.
func (d *decision) refuse(s *corev1.Service, problems *problems) {
	for _, p := range portsOf(s) {
		if use, reserved := d.cluster.Reserved[p]; reserved {
			problems.add(ReasonReserved, fmt.Sprintf("port %s is Kedge's own (%s): choose another", p, use))
		}
		if owner, found := d.nodePorts[p]; found && owner != nameOf(s) {
			problems.add(ReasonNodePort, fmt.Sprintf("port %s is a node port of Service %s: choose another", p, owner))
		}
	}
}

// members are the nodes that a Service may get addresses of.
func (d *decision) members(s *corev1.Service, problems *problems) []*corev1.Node {
	pool := poolOf(s)
	var found []*corev1.Node
	for _, n := range d.cluster.Nodes {
		if (!d.anyLabel || enabled(n)) && inPool(n, pool) {
			found = append(found, n)
		}
	}
	if len(found) == 0 && pool != "" {
		problems.add(ReasonNoNode, fmt.Sprintf("no node for services has the label %s=%s: label one, or take the Service's label away", poolLabels[0], pool))
	}
	return found
}

// wanted are the addresses of each node that are for the Service, were they free.
func (d *decision) wanted(s *corev1.Service, nodes []*corev1.Node, problems *problems) map[string][]address {
	wanted := map[string][]address{}
	for _, n := range nodes {
		for _, family := range s.Spec.IPFamilies {
			wanted[n.Name] = append(wanted[n.Name], addressesOf(n, family, d.reports[n.Name])...)
		}
	}
	if s.Spec.LoadBalancerIP == "" { //nolint:staticcheck // deprecated, and still in use
		return wanted
	}
	asked, err := netip.ParseAddr(s.Spec.LoadBalancerIP) //nolint:staticcheck // as above
	only := map[string][]address{}
	for _, n := range nodes {
		has := slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool {
			ip, err := netip.ParseAddr(a.Address)
			return err == nil && ip == asked
		})
		if has && slices.Contains(s.Spec.IPFamilies, familyOf(asked)) {
			only[n.Name] = []address{{Addr: asked}}
			if slices.Contains(d.reports[n.Name].Elsewhere, asked) {
				for _, a := range typedAddresses(n, corev1.NodeInternalIP, familyOf(asked)) {
					only[n.Name] = append(only[n.Name], address{Addr: a, second: true})
				}
			}
		}
	}
	if err != nil || len(only) == 0 {
		problems.add(ReasonUnknownAddress, fmt.Sprintf("spec.loadBalancerIP asks for %s, which is no address of a node for this Service: name one of a node, or take it away", s.Spec.LoadBalancerIP)) //nolint:staticcheck // as above
	}
	return only
}

// given is an address and the nodes' preference for it.
type given struct {
	address
	family int // its place in the Service's families
}

// give gives the Service what is free of what it wants.
func (d *decision) give(s *corev1.Service, nodes []*corev1.Node, wanted map[string][]address, v *Verdict, problems *problems) {
	var all []given
	for _, n := range nodes {
		if len(wanted[n.Name]) == 0 {
			continue
		}
		answered, free := d.asked(n, portsOf(s), problems)
		if !free {
			continue
		}
		serving := serves(n)
		if serving && !answered {
			v.Waiting = append(v.Waiting, n.Name)
		}
		for _, a := range wanted[n.Name] {
			if !d.claim(s, a.Addr, problems) {
				continue
			}
			switch {
			case !serving:
			case local(s) && !d.endpoints[nameOf(s)][n.Name]:
			case !answered && !has(s, a.Addr): // what it has it keeps meanwhile
			default:
				all = append(all, given{a, slices.Index(s.Spec.IPFamilies, familyOf(a.Addr))})
			}
		}
	}
	slices.SortFunc(all, func(a, b given) int {
		return cmp.Or(cmp.Compare(a.family, b.family), compareBool(a.second, b.second), a.Compare(b.Addr))
	})
	for _, a := range all {
		if !slices.Contains(v.Addresses, a.Addr) {
			v.Addresses = append(v.Addresses, a.Addr)
		}
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// asked looks at what a node says of ports: whether it says something of all,
// and whether all may be free.
func (d *decision) asked(n *corev1.Node, ports []Port, problems *problems) (answered, free bool) {
	answered, free = true, true
	kubelet := Port{uint16(n.Status.DaemonEndpoints.KubeletEndpoint.Port), corev1.ProtocolTCP}
	for _, p := range ports {
		used, by, said := d.reports[n.Name].says(p)
		switch {
		case p == kubelet:
			used, by = true, "kubelet"
		case used:
			by = cmp.Or(by, "a program that can't be seen")
		case !said:
			answered = false
		}
		if used {
			free = false
			problems.addAt(n.Name, ReasonHostPort, fmt.Sprintf("port %s is used by %s on node ", p, by), ", whose addresses are not given: stop it there, or choose another port")
		}
	}
	return answered, free
}

// claim takes the ports of a Service at an address, all or none.
func (d *decision) claim(s *corev1.Service, a netip.Addr, problems *problems) bool {
	free := true
	ports := portsOf(s)
	for _, p := range ports {
		if owner, found := d.claims[claim{a, p}]; found && owner != nameOf(s) {
			free = false
			problems.addAt(a.String(), ReasonTaken, fmt.Sprintf("port %s of ", p), fmt.Sprintf(" belongs to Service %s: choose another port, or delete that Service", owner))
		}
	}
	if free {
		for _, p := range ports {
			d.claims[claim{a, p}] = nameOf(s)
		}
	}
	return free
}

func has(s *corev1.Service, a netip.Addr) bool {
	return slices.ContainsFunc(s.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return i.IP == a.String() })
}

// problems are the causes, each with the places it was found at.
type problems []cause

type cause struct {
	reason        string
	before, after string // of the places in its text
	places        []string
}

// add adds a cause without a place.
func (p *problems) add(reason, text string) { p.addAt("", reason, text, "") }

// addAt adds a cause, or one more place of it.
func (p *problems) addAt(place, reason, before, after string) {
	at := slices.IndexFunc(*p, func(c cause) bool { return c.reason == reason && c.before == before && c.after == after })
	if at < 0 {
		at = len(*p)
		*p = append(*p, cause{reason: reason, before: before, after: after})
	}
	if place != "" && !slices.Contains((*p)[at].places, place) {
		(*p)[at].places = append((*p)[at].places, place)
	}
}

// maxPlaces are named; of more the number is said.
const maxPlaces = 5

func (p problems) problem() *Problem {
	if len(p) == 0 {
		return nil
	}
	texts := make([]string, len(p))
	for i, c := range p {
		places := strings.Join(c.places[:min(len(c.places), maxPlaces)], ", ")
		if more := len(c.places) - maxPlaces; more > 0 {
			places += fmt.Sprintf(" and %d more", more)
		}
		texts[i] = c.before + places + c.after
	}
	return &Problem{Reason: p[0].reason, Message: strings.Join(texts, "; ")}
}
