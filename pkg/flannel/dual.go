package flannel

import (
	"net"
	"net/netip"
)

// dual is something that exists once for each IP family.
type dual[T any] struct{ v4, v6 T }

// of is the member for the family of an address.
func (d *dual[T]) of(a netip.Addr) *T {
	if a.Is4() {
		return &d.v4
	}
	return &d.v6
}

func familiesOf(prefixes []netip.Prefix) (families dual[bool]) {
	for _, p := range prefixes {
		*families.of(p.Addr()) = true
	}
	return families
}

// pick is the first address for each family.
func pick(addresses []netip.Addr) (picked dual[netip.Addr]) {
	for _, a := range addresses {
		a = a.Unmap()
		if p := picked.of(a); !p.IsValid() {
			*p = a
		}
	}
	return picked
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix is the zero Prefix for nil.
func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

// toAddr is the zero Addr for nil.
func toAddr(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
