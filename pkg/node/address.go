package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Addresses finds the node's own addresses, one for each family wanted: the
// ones packets would leave with towards the default route, or else the first
// global ones of an interface that is up.
func Addresses(families []netip.Prefix) ([]netip.Addr, error) {
	var found []netip.Addr
	for _, wanted := range families {
		address, err := addressOf(wanted.Addr().Is6())
		if err != nil {
			return nil, err
		}
		found = append(found, address)
	}
	return found, nil
}

func addressOf(ipv6 bool) (netip.Addr, error) {
	probe, family := net.IPv4(192, 0, 2, 1), "IPv4" // TEST-NET-1: asks the routing table, sends nothing
	if ipv6 {
		probe, family = net.ParseIP("2001:db8::1"), "IPv6"
	}
	if routes, err := netlink.RouteGet(probe); err == nil {
		for _, route := range routes {
			if address, ok := global(route.Src, ipv6); ok {
				return address, nil
			}
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the node's address: %w", err)
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addresses {
			ipnet, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			if address, ok := global(ipnet.IP, ipv6); ok {
				return address, nil
			}
		}
	}
	return netip.Addr{}, errors.New("no network interface has a global " + family + " address: connect the machine to a network, or name an address with --node-ip")
}

func global(ip net.IP, ipv6 bool) (netip.Addr, bool) {
	address, ok := netip.AddrFromSlice(ip)
	address = address.Unmap()
	return address, ok && address.Is6() == ipv6 && address.IsGlobalUnicast()
}
