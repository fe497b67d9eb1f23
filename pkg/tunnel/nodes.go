package tunnel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// node is what a server knows of a node from its Node object.
type node struct {
	addresses   []netip.Addr
	kubeletPort uint16
	podCIDRs    []netip.Prefix
}

// nodes tells which node is behind an address. They are searched one by one:
// dials are rare, and a thousand nodes take microseconds.
type nodes struct {
	mu     sync.RWMutex
	byName map[string]node
}

func (n *nodes) set(name string, v node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.byName == nil {
		n.byName = map[string]node{}
	}
	n.byName[name] = v
}

func (n *nodes) remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.byName, name)
}

// route is the way to an address.
type route struct {
	node   string         // whose tunnel leads there; empty if none does
	target netip.AddrPort // what its agent is asked for
	direct string         // what is dialed without a tunnel
}

// find returns the way to an address. connected says which nodes have a
// tunnel: an address may be that of several nodes, after one was renamed or
// behind different NATs, and of those the connected one is meant.
func (n *nodes) find(mode Mode, address string, connected func(string) bool) (route, error) {
	direct := route{direct: address}
	host, portText, err := net.SplitHostPort(address)
	if err != nil || mode == Disabled {
		return direct, nil //nolint:nilerr // the direct dial says what is wrong
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return direct, nil //nolint:nilerr // as above
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if v, ok := n.byName[host]; ok && v.serves(mode, uint16(port)) {
		return v.called(host, address, uint16(port)), nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return direct, nil //nolint:nilerr // a name that is no node's
	}
	target := netip.AddrPortFrom(addr.Unmap(), uint16(port))
	var found, open []string
	for name, v := range n.byName {
		if !v.has(mode, target) {
			continue
		}
		found = append(found, name)
		if connected(name) {
			open = append(open, name)
		}
	}
	switch {
	case len(found) == 1:
		return route{node: found[0], target: target, direct: address}, nil
	case len(open) == 1:
		return route{node: open[0], target: target, direct: address}, nil
	case len(open) == 0:
		return direct, nil
	}
	slices.Sort(open)
	return route{}, fmt.Errorf("%s is an address of several connected nodes (%s): ask for one by its name", addr, strings.Join(open, ", "))
}

// serves tells whether a port of a node's own is reached through its tunnel.
func (v node) serves(mode Mode, port uint16) bool { return port == v.kubeletPort || mode == Cluster }

func (v node) has(mode Mode, target netip.AddrPort) bool {
	if v.serves(mode, target.Port()) && slices.Contains(v.addresses, target.Addr()) {
		return true
	}
	return mode.pods() && slices.ContainsFunc(v.podCIDRs, func(p netip.Prefix) bool { return p.Contains(target.Addr()) })
}

// called is the way to a node that is called by its name, which only servers
// know: the agent and the network are given an address.
func (v node) called(name, address string, port uint16) route {
	if len(v.addresses) == 0 {
		return route{node: name, target: netip.AddrPortFrom(loopback, port), direct: address}
	}
	target := netip.AddrPortFrom(v.addresses[0], port)
	return route{node: name, target: target, direct: target.String()}
}
