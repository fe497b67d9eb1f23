package tunnel

import (
	"net/netip"
	"slices"
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Access is what servers may reach through this node. Addresses and PodCIDRs
// are asked at each connection, as both may change; either may be nil.
type Access struct {
	Mode        Mode
	KubeletPort uint16
	// KubeletOnLoopback says that the kubelet listens on 127.0.0.1 as well: it
	// is dialed there, whatever the host's firewall does with its addresses.
	KubeletOnLoopback bool
	Addresses         func() []netip.Addr   // the node's own
	PodCIDRs          func() []netip.Prefix // of the pods on this node
}

// Allow returns what is dialed for an address, or false if servers may not
// reach it.
func (a Access) Allow(address netip.AddrPort) (target netip.AddrPort, ok bool) {
	addr := address.Addr().Unmap()
	if addr.Zone() != "" {
		return netip.AddrPort{}, false
	}
	target = netip.AddrPortFrom(addr, address.Port())
	own := a.Addresses != nil && slices.Contains(a.Addresses(), addr)
	switch {
	case a.Mode != Agent && !a.Mode.pods():
		return netip.AddrPort{}, false
	case target.Port() == a.KubeletPort && (own || addr.IsLoopback()):
		if a.KubeletOnLoopback {
			target = netip.AddrPortFrom(loopback, a.KubeletPort)
		}
		return target, true
	case addr.IsLoopback():
		// What listens on the loopback interface only is not for others.
		return netip.AddrPort{}, false
	case a.Mode == Cluster && own:
		return target, true
	case a.Mode.pods() && a.PodCIDRs != nil && slices.ContainsFunc(a.PodCIDRs(), func(p netip.Prefix) bool { return p.Contains(addr) }):
		return target, true
	}
	return netip.AddrPort{}, false
}
