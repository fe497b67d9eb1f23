package netpol

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// cluster is the state of the cluster as far as policies go, and what follows
// from it for the node's table.
//
// Everything is found by what it is looked up for, so that a change costs as
// much as it concerns: selectors are matched with identities, not with pods,
// and only those of policies that are for pods of this node.
type cluster struct {
	bridge     string
	policies   map[key]*policy
	namespaces map[string]*namespace
	pods       map[key]*pod
	local      map[*pod]struct{}

	// claims are the pods that have an address, in the order in which they got
	// it. A pod may be reported for a while after its address was given to the
	// next, so the last one owns it: the address is not the others' any more.
	claims map[netip.Addr][]*pod
	// expected are addresses that pods have before their status says so.
	expected map[types.UID][]netip.Addr

	rules   *ruleset
	stale   bool // rules have to be made anew
	groups  map[string]*members
	changes map[change]bool // true: was added to its set
}

// namespace is a namespace with what is in it.
type namespace struct {
	name       string
	known      bool // its labels are
	labels     labels.Set
	policies   map[string]*policy
	identities map[string]*identity
	groups     map[*members]struct{} // that choose among its pods
}

// identity is what selectors see of a pod: pods of one namespace with the same
// labels have the same. It goes with its last pod.
type identity struct {
	namespace *namespace
	key       string
	labels    labels.Set
	pods      map[*pod]struct{}
	groups    map[*members]struct{}

	// selected are the policies that are for the pods; nil if not yet looked up.
	selected []*policy
}

type pod struct {
	key
	uid      types.UID
	identity *identity
	addrs    []netip.Addr
	ports    []containerPort
	local    bool
}

// podInfo is what is to be known of a pod.
type podInfo struct {
	key
	uid    types.UID
	labels labels.Set
	addrs  []netip.Addr
	ports  []containerPort
	local  bool // runs on this node
}

type containerPort struct {
	namedPort
	number int32
}

// members are the pods of a group, kept for groups that the table has.
type members struct {
	group
	sets       [2]string // their names, empty for families without
	identities map[*identity]struct{}
}

// change is an element that was added to or removed from a set of peers.
type change struct{ set, element string }

func newCluster(bridge string) *cluster {
	return &cluster{
		bridge:     bridge,
		policies:   map[key]*policy{},
		namespaces: map[string]*namespace{},
		pods:       map[key]*pod{},
		local:      map[*pod]struct{}{},
		claims:     map[netip.Addr][]*pod{},
		expected:   map[types.UID][]netip.Addr{},
		groups:     map[string]*members{},
		changes:    map[change]bool{},
		stale:      true,
	}
}

func (c *cluster) namespace(name string) *namespace {
	ns := c.namespaces[name]
	if ns == nil {
		ns = &namespace{
			name:       name,
			policies:   map[string]*policy{},
			identities: map[string]*identity{},
			groups:     map[*members]struct{}{},
		}
		c.namespaces[name] = ns
		for _, g := range c.groups {
			c.decide(g, ns)
		}
	}
	return ns
}

// release forgets a namespace that nothing is known of any more.
func (c *cluster) release(ns *namespace) {
	if !ns.known && len(ns.identities) == 0 && len(ns.policies) == 0 {
		delete(c.namespaces, ns.name)
	}
}

func (c *cluster) setPolicy(p *policy) {
	ns := c.namespace(p.namespace)
	ns.policies[p.name] = p
	c.policies[p.key] = p
	c.policiesChanged(ns)
}

func (c *cluster) deletePolicy(k key) {
	if c.policies[k] == nil {
		return
	}
	ns := c.namespaces[k.namespace]
	delete(ns.policies, k.name)
	delete(c.policies, k)
	c.policiesChanged(ns)
	c.release(ns)
}

func (c *cluster) policiesChanged(ns *namespace) {
	for _, id := range ns.identities {
		id.selected = nil
	}
	c.stale = true
}

func (c *cluster) setNamespace(name string, set labels.Set) {
	c.labelNamespace(c.namespace(name), set, true)
}

func (c *cluster) deleteNamespace(name string) {
	if ns := c.namespaces[name]; ns != nil {
		c.labelNamespace(ns, nil, false)
		c.release(ns)
	}
}

func (c *cluster) labelNamespace(ns *namespace, set labels.Set, known bool) {
	if ns.known == known && maps.Equal(ns.labels, set) {
		return
	}
	ns.known, ns.labels = known, set
	for _, g := range c.groups {
		c.decide(g, ns)
	}
}

func (c *cluster) knownNamespaces() []key {
	var known []key
	for name, ns := range c.namespaces {
		if ns.known {
			known = append(known, key{name: name})
		}
	}
	return known
}

// decide makes a group choose among the pods of a namespace, or stop to.
func (c *cluster) decide(g *members, ns *namespace) {
	_, did := ns.groups[g]
	if does := g.includes(ns); does && !did {
		ns.groups[g] = struct{}{}
		for _, id := range ns.identities {
			if g.pods.Matches(id.labels) {
				c.join(g, id)
			}
		}
	} else if did && !does {
		delete(ns.groups, g)
		for _, id := range ns.identities {
			c.leave(g, id)
		}
	}
}

func (c *cluster) join(g *members, id *identity) {
	g.identities[id], id.groups[g] = struct{}{}, struct{}{}
	for p := range id.pods {
		for _, addr := range c.owned(p) {
			c.record(g, p, addr, true)
		}
	}
}

func (c *cluster) leave(g *members, id *identity) {
	if _, in := g.identities[id]; !in {
		return
	}
	delete(g.identities, id)
	delete(id.groups, g)
	for p := range id.pods {
		for _, addr := range c.owned(p) {
			c.record(g, p, addr, false)
		}
	}
}

// record notes that an address came to or went from a group. What comes and
// goes between two looks at the changes is none.
func (c *cluster) record(g *members, p *pod, addr netip.Addr, added bool) {
	f := familyOf(addr)
	if g.sets[f] == "" {
		return
	}
	element, ok := g.element(p, addr)
	if !ok {
		return
	}
	ch := change{g.sets[f], element}
	if was, pending := c.changes[ch]; pending && was != added {
		delete(c.changes, ch)
	} else {
		c.changes[ch] = added
	}
}

// element is what the group's set holds for an address of a pod that is in it.
func (g group) element(p *pod, addr netip.Addr) (string, bool) {
	if g.port == nil {
		return addr.String(), true
	}
	return p.endpoint(addr, *g.port)
}

// endpoint is an element of a set of ports.
func (p *pod) endpoint(addr netip.Addr, name namedPort) (string, bool) {
	for _, port := range p.ports {
		if port.namedPort == name {
			return fmt.Sprintf("%s . %s . %d", addr, name.protocol, port.number), true
		}
	}
	return "", false
}

// owned are the pod's addresses, but for those that are another's already.
func (c *cluster) owned(p *pod) []netip.Addr {
	if !slices.ContainsFunc(p.addrs, func(a netip.Addr) bool { return c.owner(a) != p }) {
		return p.addrs // without a copy, because it nearly always is so
	}
	return slices.DeleteFunc(slices.Clone(p.addrs), func(a netip.Addr) bool { return c.owner(a) != p })
}

func (c *cluster) owner(addr netip.Addr) *pod {
	claims := c.claims[addr]
	if len(claims) == 0 {
		return nil
	}
	return claims[len(claims)-1]
}

// show notes that an address is a pod's from now on, or not any more.
func (c *cluster) show(p *pod, addr netip.Addr, added bool) {
	for g := range p.identity.groups {
		c.record(g, p, addr, added)
	}
	if p.local {
		c.stale = true
	}
}

func (c *cluster) claim(p *pod, addr netip.Addr) {
	if before := c.owner(addr); before != nil {
		c.show(before, addr, false)
	}
	c.claims[addr] = append(c.claims[addr], p)
	c.show(p, addr, true)
}

func (c *cluster) disclaim(p *pod, addr netip.Addr) {
	owned := c.owner(addr) == p
	left := slices.DeleteFunc(c.claims[addr], func(q *pod) bool { return q == p })
	if len(left) == 0 {
		delete(c.claims, addr)
	} else {
		c.claims[addr] = left
	}
	if owned {
		c.show(p, addr, false)
		if next := c.owner(addr); next != nil {
			c.show(next, addr, true)
		}
	}
}

// setPod takes a pod that runs, or is to, in a network namespace of its own.
func (c *cluster) setPod(info podInfo) {
	p := c.pods[info.key]
	if p != nil && p.uid != info.uid {
		c.deletePod(info.key)
		p = nil
	}
	if expected := c.expected[info.uid]; expected != nil {
		if slices.Equal(expected, info.addrs) {
			delete(c.expected, info.uid)
		}
		info.addrs = expected
	}
	if p == nil {
		p = &pod{key: info.key, uid: info.uid}
		c.pods[info.key] = p
	}

	if p.identity == nil || p.local != info.local || !maps.Equal(p.identity.labels, info.labels) || !slices.Equal(p.ports, info.ports) {
		c.describe(p, info)
	}
	for _, addr := range p.addrs {
		if !slices.Contains(info.addrs, addr) {
			c.disclaim(p, addr)
		}
	}
	had := p.addrs
	p.addrs = info.addrs
	for _, addr := range p.addrs {
		if !slices.Contains(had, addr) {
			c.claim(p, addr)
		}
	}
}

// describe changes everything of a pod but its addresses.
func (c *cluster) describe(p *pod, info podInfo) {
	before := p.identity
	if before != nil {
		for _, addr := range c.owned(p) {
			c.show(p, addr, false)
		}
		delete(before.pods, p)
	}
	p.ports, p.local = info.ports, info.local
	p.identity = c.identify(info.namespace, info.labels)
	p.identity.pods[p] = struct{}{}
	if before != nil {
		c.forgetUnused(before)
	}
	for _, addr := range c.owned(p) {
		c.show(p, addr, true)
	}
	if p.local {
		c.local[p] = struct{}{}
	} else {
		delete(c.local, p)
	}
}

func (c *cluster) deletePod(k key) {
	p := c.pods[k]
	if p == nil {
		return
	}
	for _, addr := range p.addrs {
		c.disclaim(p, addr)
	}
	delete(p.identity.pods, p)
	c.forgetUnused(p.identity)
	delete(c.local, p)
	delete(c.pods, k)
	delete(c.expected, p.uid)
}

func (c *cluster) identify(name string, set labels.Set) *identity {
	ns := c.namespace(name)
	k := set.String() // in the order of the keys
	id := ns.identities[k]
	if id == nil {
		id = &identity{
			namespace: ns,
			key:       k,
			labels:    set,
			pods:      map[*pod]struct{}{},
			groups:    map[*members]struct{}{},
		}
		ns.identities[k] = id
		for g := range ns.groups {
			if g.pods.Matches(set) {
				g.identities[id], id.groups[g] = struct{}{}, struct{}{}
			}
		}
	}
	return id
}

func (c *cluster) forgetUnused(id *identity) {
	if len(id.pods) > 0 {
		return
	}
	for g := range id.groups {
		delete(g.identities, id)
	}
	delete(id.namespace.identities, id.key)
	c.release(id.namespace)
}

// policiesFor are the policies that are for pods of the identity, by name.
func (id *identity) policiesFor() []*policy {
	if id.selected == nil {
		id.selected = []*policy{}
		for _, p := range id.namespace.policies {
			if p.pods.Matches(id.labels) {
				id.selected = append(id.selected, p)
			}
		}
		slices.SortFunc(id.selected, func(a, b *policy) int { return cmp.Compare(a.name, b.name) })
	}
	return id.selected
}

// expect gives a pod of this node addresses that its status doesn't have yet.
func (c *cluster) expect(uid types.UID, addrs []netip.Addr) {
	c.expected[uid] = addrs
	if p := c.localPod(uid); p != nil {
		c.setPod(podInfo{p.key, p.uid, p.identity.labels, p.addrs, p.ports, p.local})
	}
}

func (c *cluster) localPod(uid types.UID) *pod {
	for p := range c.local {
		if p.uid == uid {
			return p
		}
	}
	return nil
}

// forgetPods forgets everything but the policies.
func (c *cluster) forgetPods() {
	policies := c.policies
	*c = *newCluster(c.bridge)
	for _, p := range policies {
		c.setPolicy(p)
	}
}

// next is what the table has to hold by now, and what changed in its sets of
// peers since the last call.
func (c *cluster) next() (*ruleset, map[change]bool) {
	if c.stale {
		c.stale = false
		c.rules = c.build()
	}
	changes := c.changes
	c.changes = map[change]bool{}
	return c.rules, changes
}

// build makes the rules for the pods of this node.
func (c *cluster) build() *ruleset {
	rs := newRuleset()
	wanted := map[string]*members{}
	isolated := false
	for p := range c.local {
		for _, addr := range c.owned(p) {
			for _, l := range lanes {
				if l.family != familyOf(addr) {
					continue
				}
				policies := p.identity.isolating(l.direction)
				if len(policies) == 0 {
					continue
				}
				isolated = true
				rs.isolate(l, addr.String(), policies)
				for _, policy := range policies {
					c.want(wanted, l.family, policy.chain(l).groups)
					rs.wantLocalPorts(l.family, policy.chain(l).named)
				}
			}
		}
	}
	c.fillLocalPorts(rs)
	if isolated && c.bridge != "" {
		rs.refuseLinkLocal(c.bridge)
	}

	for name, g := range c.groups {
		if wanted[name] == nil {
			c.drop(g)
		}
	}
	c.groups = wanted
	for _, g := range wanted {
		for _, f := range families {
			if name := g.sets[f]; name != "" {
				rs.sets[name] = set{keyType: g.keyType(f), comment: g.name, members: c.membersOf(g, f)}
			}
		}
	}
	return rs
}

func (id *identity) isolating(d direction) []*policy {
	var isolating []*policy
	for _, p := range id.policiesFor() {
		if p.isolates[d] {
			isolating = append(isolating, p)
		}
	}
	return isolating
}

// want adds groups to those whose members are known from now on.
func (c *cluster) want(wanted map[string]*members, f family, groups []group) {
	for _, g := range groups {
		m := wanted[g.name]
		if m == nil {
			if m = c.groups[g.name]; m == nil {
				m = &members{group: g, identities: map[*identity]struct{}{}}
				for _, ns := range c.namespaces {
					c.decide(m, ns)
				}
			} else {
				m.sets = [2]string{}
			}
			wanted[g.name] = m
		}
		if m.sets[f] == "" {
			m.sets[f] = g.set(f)
		}
	}
}

func (c *cluster) drop(g *members) {
	for id := range g.identities {
		delete(id.groups, g)
	}
	for _, ns := range c.namespaces {
		delete(ns.groups, g)
	}
}

// membersOf are the elements of a group's set, at the time they are asked for.
func (c *cluster) membersOf(g *members, f family) iter.Seq[string] {
	return func(yield func(string) bool) {
		for id := range g.identities {
			for p := range id.pods {
				for _, addr := range c.owned(p) {
					if familyOf(addr) != f {
						continue
					}
					if element, ok := g.element(p, addr); ok && !yield(element) {
						return
					}
				}
			}
		}
	}
}

func (rs *ruleset) wantLocalPorts(f family, ports []namedPort) {
	for _, port := range ports {
		name := localPorts(f, port)
		if _, ok := rs.sets[name]; !ok {
			rs.sets[name] = set{keyType: endpointType(f), elements: map[string]string{}}
		}
	}
}

func (c *cluster) fillLocalPorts(rs *ruleset) {
	for p := range c.local {
		for _, addr := range c.owned(p) {
			for _, port := range p.ports {
				set, ok := rs.sets[localPorts(familyOf(addr), port.namedPort)]
				if !ok {
					continue
				}
				if element, ok := p.endpoint(addr, port.namedPort); ok {
					set.elements[element] = ""
				}
			}
		}
	}
}
