package netpol

import (
	"fmt"
	"iter"
	"strings"

	"sigs.k8s.io/knftables"
)

// lane is one kind of packets that are judged alike: those that policies of
// one direction are about, of one family, and either sent by the side that
// opened the connection or by the other.
type lane struct {
	direction direction
	family    family
	reply     bool
}

// lanes is all of them.
var lanes = func() (all []lane) {
	for _, d := range directions {
		for _, f := range families {
			all = append(all, lane{d, f, false}, lane{d, f, true})
		}
	}
	return all
}()

// String is the name of the lane's verdict map, and what its chains' begin with.
func (l lane) String() string { return l.dispatch() + "-" + l.family.String() }

// dispatch is the chain in which packets of both families find their lane.
func (l lane) dispatch() string {
	if l.reply {
		return l.direction.String() + "-reply"
	}
	return l.direction.String()
}

// pod is where packets have the address of the pod that the policies are for.
func (l lane) pod() string { return l.address(l.direction == ingress) }

// peer is where they have the address of the other side.
func (l lane) peer() string { return l.address(l.direction == egress) }

// address is where packets have one end of the connection: a reply goes the
// other way.
func (l lane) address(destination bool) string {
	if destination != l.reply {
		return l.family.protocol() + " daddr"
	}
	return l.family.protocol() + " saddr"
}

// port is where packets have the port that the connection was opened to.
func (l lane) port() string {
	if l.reply {
		return "sport"
	}
	return "dport"
}

// endpoint is where packets have what the connection was opened to, as it is
// written in sets of ports.
func (l lane) endpoint() string {
	return fmt.Sprintf("%s . meta l4proto . th %s", l.address(true), l.port())
}

// ruleset is what the table holds.
type ruleset struct {
	chains map[string]chain
	sets   map[string]set
}

type chain struct {
	hook  knftables.BaseChainHook // if not empty, packets begin here
	rules []string
}

// set is a set of nftables, or a verdict map.
type set struct {
	keyType  string
	verdicts bool
	comment  string
	// elements are the keys, in maps with their verdicts.
	elements map[string]string
	// members takes the place of elements in sets of peers, which may be large:
	// they are not kept, and changes to them are told one by one.
	members iter.Seq[string]
}

// refuse is the chain for what no policy allows.
const refuse = "refuse"

// isolatedSet is the name of the set of the pods of this node that policies of
// a direction are for.
func (l lane) isolatedSet() string {
	return fmt.Sprintf("isolated-%s-%s", l.direction, l.family)
}

// selfSet is the name of the set of pairs of the same address, twice.
func (f family) selfSet() string { return "self-" + f.String() }

// newRuleset is what the table holds when no pod is isolated.
func newRuleset() *ruleset {
	rs := &ruleset{
		chains: map[string]chain{
			"forward-egress":  {knftables.ForwardHook, []string{"ct direction reply goto egress-reply", "goto egress"}},
			"forward-ingress": {knftables.ForwardHook, []string{"ct direction reply goto ingress-reply", "goto ingress"}},
			"input":           {knftables.InputHook, []string{"ct direction reply accept", "goto egress"}},
			"output":          {knftables.OutputHook, []string{"ct direction reply goto egress-reply"}},
			refuse: {rules: []string{
				"icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, " +
					"mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } accept",
				"meta l4proto { icmp, icmpv6 } ct state related accept",
			}},
		},
		sets: map[string]set{},
	}
	for _, l := range lanes {
		rs.sets[l.String()] = set{keyType: l.family.addrType(), verdicts: true, elements: map[string]string{}}
		rs.sets[l.isolatedSet()] = set{keyType: l.family.addrType(), elements: map[string]string{}}
		rs.addRules(l.dispatch(),
			fmt.Sprintf("%s vmap @%s", l.pod(), l),
			fmt.Sprintf("%s @%s goto %s", l.pod(), l.isolatedSet(), refuse))
	}
	for _, f := range families {
		rs.sets[f.selfSet()] = set{keyType: f.addrType() + " . " + f.addrType(), elements: map[string]string{}}
		rs.addRules(refuse, fmt.Sprintf("%[1]s saddr . %[1]s daddr @%[2]s accept", f.protocol(), f.selfSet()))
	}
	rs.addRules(refuse, "drop")
	return rs
}

func (rs *ruleset) addRules(name string, rules ...string) {
	c := rs.chains[name]
	c.rules = append(c.rules, rules...)
	rs.chains[name] = c
}

// refuseLinkLocal keeps pods on a bridge from reaching each other and the node
// by link-local addresses, which nobody but the pods themselves knows. It is
// for all pods on the bridge, because the address doesn't tell which it is.
func (rs *ruleset) refuseLinkLocal(bridge string) {
	for name, rules := range map[string][]string{
		"forward-ingress": {
			fmt.Sprintf("iifname %[1]q oifname %[1]q ip6 saddr fe80::/10 goto refuse", bridge),
			fmt.Sprintf("iifname %[1]q oifname %[1]q ip6 daddr fe80::/10 goto refuse", bridge),
		},
		"input": {
			fmt.Sprintf("iifname %q ct direction original ip6 saddr fe80::/10 goto refuse", bridge),
		},
	} {
		c := rs.chains[name]
		c.rules = append(rules, c.rules...)
		rs.chains[name] = c
	}
}

// isolate lets packets of a lane to or from a pod's address pass only where
// one of the policies allows them.
func (rs *ruleset) isolate(l lane, addr string, policies []*policy) {
	rs.sets[l.isolatedSet()].elements[addr] = ""
	rs.sets[l.family.selfSet()].elements[addr+" . "+addr] = ""
	if chain := rs.combination(l, policies); chain != "" {
		rs.sets[l.String()].elements[addr] = "jump " + chain
	}
}

// combination is the chain of a combination of policies, if they allow anything.
func (rs *ruleset) combination(l lane, policies []*policy) string {
	var rules []string
	for _, p := range policies {
		c := p.chain(l)
		if len(c.rules) == 0 {
			continue
		}
		rs.chains[c.name] = chain{rules: c.rules}
		rules = append(rules, "jump "+c.name)
	}
	if len(rules) == 0 {
		return ""
	}
	name := l.String() + "-" + digest(strings.Join(rules, "\n"))
	rs.chains[name] = chain{rules: rules}
	return name
}

// policyChain is what a policy allows in one lane.
type policyChain struct {
	name   string
	rules  []string
	groups []group     // that the rules look up
	named  []namedPort // of pods of this node that the rules look up
}

// nameLimit leaves room for more: the kernel takes 255 bytes.
const nameLimit = 200

// chain writes the policy's rules for a lane, once.
func (p *policy) chain(l lane) *policyChain {
	if c := p.chains[l]; c != nil {
		return c
	}
	c := &policyChain{name: l.String() + "/" + p.String()}
	if len(c.name) > nameLimit {
		c.name = c.name[:nameLimit] + "-" + digest(c.name)
	}
	for _, r := range p.rules[l.direction] {
		c.allow(l, r)
	}
	if p.chains == nil {
		p.chains = map[lane]*policyChain{}
	}
	p.chains[l] = c
	return c
}

// allow adds what a rule of a policy allows.
func (c *policyChain) allow(l lane, r rule) {
	for _, peer := range c.peerMatches(l, r) {
		if r.anyPort {
			c.accept(peer)
		}
		for _, ports := range r.ports {
			c.accept(peer, portMatch(l, ports))
		}
		for _, port := range r.named {
			if l.direction == ingress {
				c.named = append(c.named, port)
				c.accept(peer, l.endpoint(), "@"+localPorts(l.family, port))
			}
		}
	}
	if l.direction == egress {
		for _, port := range r.named {
			c.allowNamed(l, r, port)
		}
	}
}

// allowNamed allows a named port of peers: each peer has its own number for it.
func (c *policyChain) allowNamed(l lane, r rule, port namedPort) {
	lookUp := func(p peers) string { return l.endpoint() + " " + c.lookUp(l, newGroup(p, &port)) }
	for _, p := range r.peers {
		c.accept(lookUp(p))
	}
	if match, some := blockMatch(l, r); r.anyPeer || some {
		c.accept(match, lookUp(everyPod))
	}
}

// peerMatches are the matches of which one has to match the other side.
func (c *policyChain) peerMatches(l lane, r rule) []string {
	if r.anyPeer {
		return []string{""}
	}
	var matches []string
	for _, p := range r.peers {
		matches = append(matches, l.peer()+" "+c.lookUp(l, newGroup(p, nil)))
	}
	if match, some := blockMatch(l, r); some {
		matches = append(matches, match)
	}
	return matches
}

// blockMatch matches the rule's ranges of addresses, if it has some.
func blockMatch(l lane, r rule) (string, bool) {
	blocks := r.blocks[l.family]
	if len(blocks) == 0 {
		return "", false
	}
	if blocks[0].all() {
		return "", true
	}
	return l.peer() + " " + anyOf(blocks), true
}

func portMatch(l lane, p protocolPorts) string {
	if p.ports[0] == allPorts {
		return "meta l4proto " + p.protocol
	}
	return p.protocol + " " + l.port() + " " + anyOf(p.ports)
}

func (c *policyChain) lookUp(l lane, g group) string {
	c.groups = append(c.groups, g)
	return "@" + g.set(l.family)
}

func (c *policyChain) accept(matches ...string) {
	words := strings.Fields(strings.Join(append(matches, "accept"), " "))
	c.rules = append(c.rules, strings.Join(words, " "))
}

// group is what a set of peers holds: the addresses of pods, or, if there is a
// port, the ports that pods have under that name.
type group struct {
	peers
	port *namedPort
	name string // which says all of it
}

func newGroup(p peers, port *namedPort) group {
	g := group{peers: p, port: port, name: p.String()}
	if port != nil {
		g.name += ":" + port.String()
	}
	return g
}

// set is the name of the group's set.
func (g group) set(f family) string {
	kind := "pods-"
	if g.port != nil {
		kind = "ports-"
	}
	return kind + f.String() + "-" + digest(g.name)
}

func (g group) keyType(f family) string {
	if g.port != nil {
		return endpointType(f)
	}
	return f.addrType()
}

func endpointType(f family) string { return f.addrType() + " . inet_proto . inet_service" }

// localPorts is the name of the set of the ports that pods of this node have
// under a name.
func localPorts(f family, port namedPort) string {
	return "local-" + f.String() + "-" + port.String()
}
