package flannel

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Annotations with which nodes tell each other how to reach their pods. They
// are flannel's, so that nodes with a flannel of their own understand them.
const (
	annotationPrefix  = "flannel.alpha.coreos.com/"
	managedAnnotation = annotationPrefix + "kube-subnet-manager"
	typeAnnotation    = annotationPrefix + "backend-type"
)

var (
	dataAnnotation      = dual[string]{annotationPrefix + "backend-data", annotationPrefix + "backend-v6-data"}
	publicAnnotation    = dual[string]{annotationPrefix + "public-ip", annotationPrefix + "public-ipv6"}
	overwriteAnnotation = dual[string]{annotationPrefix + "public-ip-overwrite", annotationPrefix + "public-ipv6-overwrite"}
)

// peer is another node as a part of the pod network.
type peer struct {
	backend string
	ranges  dual[netip.Prefix]
	public  dual[netip.Addr]
	data    dual[string] // the backend's
}

// self is what the API knows about this node.
type self struct {
	ranges    dual[netip.Prefix]
	v6First   bool // the pods' first address is an IPv6 address
	addressed bool // the cloud provider has set the node's addresses
	external  dual[netip.Addr]
	overwrite dual[netip.Addr] // set by an administrator
}

// ready says that the network can be configured.
func (s self) ready() bool {
	return s.addressed && (s.ranges.v4.IsValid() || s.ranges.v6.IsValid())
}

// list is the ranges in their order.
func (s self) list() (ranges []netip.Prefix) {
	order := []netip.Prefix{s.ranges.v4, s.ranges.v6}
	if s.v6First {
		order[0], order[1] = order[1], order[0]
	}
	for _, r := range order {
		if r.IsValid() {
			ranges = append(ranges, r)
		}
	}
	return ranges
}

// nodes holds what of the cluster's nodes matters here, and nothing else. It is
// the store of a reflector.
type nodes struct {
	name     string // of this node
	families dual[bool]

	mu      sync.Mutex
	now     view
	changed chan struct{}
}

// view is a state of the nodes. It is not modified.
type view struct {
	self        self
	annotations map[string]string // of this node, flannel's
	peers       map[string]peer   // by the names of the nodes
}

var _ cache.ReflectorStore = (*nodes)(nil)

func newNodes(name string, families dual[bool]) *nodes {
	return &nodes{name: name, families: families, changed: make(chan struct{})}
}

// view returns the present state and a channel that is closed when there is
// another.
func (n *nodes) view() (view, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now, n.changed
}

// modify lets f change a copy of the state.
func (n *nodes) modify(f func(*view)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := n.now
	f(&next)
	if next.self == n.now.self && maps.Equal(next.annotations, n.now.annotations) && maps.Equal(next.peers, n.now.peers) {
		return
	}
	n.now = next
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *nodes) Add(obj any) error { return n.Update(obj) }

func (n *nodes) Update(obj any) error {
	node, ok := obj.(*v1.Node)
	if !ok {
		return fmt.Errorf("%T is not a Node", obj)
	}
	n.modify(func(v *view) {
		if node.Name == n.name {
			v.self, v.annotations = selfOf(node)
			return
		}
		p, ok := peerOf(node, n.families)
		if old, known := v.peers[node.Name]; known == ok && old == p {
			return // by far the most frequent: the kubelet says that it lives
		}
		v.peers = maps.Clone(v.peers)
		if ok {
			if v.peers == nil {
				v.peers = map[string]peer{}
			}
			v.peers[node.Name] = p
		} else {
			delete(v.peers, node.Name)
		}
	})
	return nil
}

func (n *nodes) Delete(obj any) error {
	node, ok := obj.(*v1.Node)
	if !ok {
		return fmt.Errorf("%T is not a Node", obj)
	}
	n.modify(func(v *view) {
		if node.Name == n.name {
			v.self, v.annotations = self{}, nil
			return
		}
		v.peers = maps.Clone(v.peers)
		delete(v.peers, node.Name)
	})
	return nil
}

func (n *nodes) Replace(objects []any, _ string) error {
	next := view{peers: map[string]peer{}}
	for _, obj := range objects {
		node, ok := obj.(*v1.Node)
		if !ok {
			return fmt.Errorf("%T is not a Node", obj)
		}
		if node.Name == n.name {
			next.self, next.annotations = selfOf(node)
		} else if p, ok := peerOf(node, n.families); ok {
			next.peers[node.Name] = p
		}
	}
	n.modify(func(v *view) { *v = next })
	return nil
}

func (*nodes) Resync() error { return nil }

func selfOf(node *v1.Node) (self, map[string]string) {
	s := self{ranges: rangesOf(node)}
	if cidrs := node.Spec.PodCIDRs; len(cidrs) > 0 {
		first, _ := netip.ParsePrefix(cidrs[0])
		s.v6First = first.Addr().Is6()
	}
	var external []netip.Addr
	for _, address := range node.Status.Addresses {
		switch address.Type {
		case v1.NodeInternalIP:
			s.addressed = true
		case v1.NodeExternalIP:
			if a, err := netip.ParseAddr(address.Address); err == nil {
				external = append(external, a)
			}
		}
	}
	s.external = pick(external)
	s.overwrite = addresses(node, overwriteAnnotation)
	annotations := map[string]string{}
	for name, value := range node.Annotations {
		if strings.HasPrefix(name, annotationPrefix) {
			annotations[name] = value
		}
	}
	return s, annotations
}

// peerOf is not ok for a node that has not joined the pod network, or not with
// all IP families of the cluster.
func peerOf(node *v1.Node, families dual[bool]) (_ peer, ok bool) {
	if node.Annotations[managedAnnotation] != "true" {
		return peer{}, false
	}
	p := peer{
		backend: strings.Clone(node.Annotations[typeAnnotation]),
		ranges:  rangesOf(node),
		public:  addresses(node, publicAnnotation),
	}
	if families.v4 {
		p.data.v4 = strings.Clone(node.Annotations[dataAnnotation.v4])
	} else {
		p.ranges.v4, p.public.v4 = netip.Prefix{}, netip.Addr{}
	}
	if families.v6 {
		p.data.v6 = strings.Clone(node.Annotations[dataAnnotation.v6])
	} else {
		p.ranges.v6, p.public.v6 = netip.Prefix{}, netip.Addr{}
	}
	has4 := p.ranges.v4.IsValid() && p.public.v4.IsValid()
	has6 := p.ranges.v6.IsValid() && p.public.v6.IsValid()
	if families.v4 && !has4 || families.v6 && !has6 {
		return peer{}, false
	}
	return p, true
}

func rangesOf(node *v1.Node) (ranges dual[netip.Prefix]) {
	for _, cidr := range node.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(cidr); err == nil {
			*ranges.of(p.Addr()) = p.Masked()
		}
	}
	return ranges
}

func addresses(node *v1.Node, names dual[string]) (found dual[netip.Addr]) {
	if a, err := netip.ParseAddr(node.Annotations[names.v4]); err == nil && a.Is4() {
		found.v4 = a
	}
	if a, err := netip.ParseAddr(node.Annotations[names.v6]); err == nil && a.Is6() {
		found.v6 = a
	}
	return found
}
