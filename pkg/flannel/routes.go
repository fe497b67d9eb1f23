package flannel

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// router makes the kernel's routes to the pods of other nodes.
type router struct {
	backend  string
	networks dual[netip.Prefix] // of all pods
	link     int                // the interface towards the other nodes
	devices  dual[int]          // of vxlan
	direct   bool               // vxlan only where there is a router between
}

// path is where packets to a range of pods go.
type path struct {
	gateway netip.Addr
	link    int
}

// hardwareAddr is a comparable net.HardwareAddr.
type hardwareAddr string

// plan is what the kernel is to hold for one IP family.
type plan struct {
	routes     map[netip.Prefix]path
	neighbours map[netip.Addr]hardwareAddr // of the vxlan device
	forwarding map[hardwareAddr]netip.Addr // the machine that has a vxlan device
}

// plan derives the kernel's entries for one IP family. What can't be planned
// for one node is an error beside the plan for the others.
func (r *router) plan(peers map[string]peer, family func(*peer) (netip.Prefix, netip.Addr, string), device int,
	onLink func(netip.Addr) bool) (plan, error) {
	p := plan{map[netip.Prefix]path{}, map[netip.Addr]hardwareAddr{}, map[hardwareAddr]netip.Addr{}}
	var errs []error
	for name, other := range peers {
		pods, public, data := family(&other)
		if other.backend != r.backend || !pods.IsValid() {
			continue
		}
		switch {
		case r.backend == HostGW, r.backend == VXLAN && r.direct && onLink(public):
			p.routes[pods] = path{gateway: public, link: r.link}
		case r.backend == VXLAN:
			mac, err := vxlanMAC(data)
			if err != nil {
				errs = append(errs, fmt.Errorf("node %s: annotation for vxlan %q: %w", name, data, err))
				continue
			}
			// The node's device has the first address of its range.
			gateway := pods.Addr()
			p.routes[pods] = path{gateway: gateway, link: device}
			p.neighbours[gateway] = hardwareAddr(mac)
			p.forwarding[hardwareAddr(mac)] = public
		}
	}
	return p, errors.Join(errs...)
}

// apply makes the kernel's entries what the nodes say, and removes those of
// nodes that are gone and of other backends.
func (r *router) apply(peers map[string]peer) error {
	var errs []error
	for _, family := range []struct {
		number  int
		network netip.Prefix
		device  int
		of      func(*peer) (netip.Prefix, netip.Addr, string)
	}{
		{unix.AF_INET, r.networks.v4, r.devices.v4, func(p *peer) (netip.Prefix, netip.Addr, string) { return p.ranges.v4, p.public.v4, p.data.v4 }},
		{unix.AF_INET6, r.networks.v6, r.devices.v6, func(p *peer) (netip.Prefix, netip.Addr, string) { return p.ranges.v6, p.public.v6, p.data.v6 }},
	} {
		if !family.network.IsValid() {
			continue
		}
		plan, err := r.plan(peers, family.of, family.device, onLink)
		errs = append(errs, err)
		if r.backend == VXLAN {
			// Before the routes, or the kernel would ask who has the gateway.
			errs = append(errs,
				applyNeighbours(family.device, family.number, plan.neighbours),
				applyForwarding(family.device, plan.forwarding))
		}
		errs = append(errs, applyRoutes(family.number, family.network, family.device, plan.routes))
	}
	return errors.Join(errs...)
}

// vxlanMAC is the address of another node's vxlan device.
func vxlanMAC(data string) (net.HardwareAddr, error) {
	var attrs struct{ VtepMAC string }
	if err := json.Unmarshal([]byte(data), &attrs); err != nil {
		return nil, err
	}
	return net.ParseMAC(attrs.VtepMAC)
}

// onLink says whether a machine can be reached without a router.
func onLink(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	return err == nil && len(routes) == 1 && routes[0].Gw == nil
}

// ours says whether a route leads to pods of another node and was made by
// flannel, or by hand: routing daemons mark theirs.
func ours(route netlink.Route, network netip.Prefix) bool {
	dst := toPrefix(route.Dst)
	return route.Gw != nil && route.Protocol == unix.RTPROT_BOOT && route.Type == unix.RTN_UNICAST &&
		dst.IsValid() && network.Contains(dst.Addr()) && network.Bits() <= dst.Bits()
}

func applyRoutes(family int, network netip.Prefix, device int, want map[netip.Prefix]path) error {
	have, err := netlink.RouteList(nil, family)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	missing := maps.Clone(want)
	var errs []error
	for _, route := range have {
		if !ours(route, network) {
			continue
		}
		dst := toPrefix(route.Dst)
		if to, ok := want[dst]; ok && to == (path{toAddr(route.Gw), route.LinkIndex}) {
			delete(missing, dst)
			continue
		}
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", dst, err))
		}
	}
	for dst, to := range missing {
		route := netlink.Route{Dst: ipNet(dst), Gw: to.gateway.AsSlice(), LinkIndex: to.link, Protocol: unix.RTPROT_BOOT}
		if to.link == device {
			route.SetFlag(netlink.FLAG_ONLINK)
		}
		if err := netlink.RouteReplace(&route); err != nil {
			hint := ""
			if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
				hint = " (" + HostGW + " needs all nodes in one layer 2 network)"
			}
			errs = append(errs, fmt.Errorf("route to the pods in %s by way of %s: %w%s", dst, to.gateway, err, hint))
		}
	}
	return errors.Join(errs...)
}

func applyNeighbours(device, family int, want map[netip.Addr]hardwareAddr) error {
	have, err := netlink.NeighList(device, family)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	missing := maps.Clone(want)
	var errs []error
	for _, entry := range have {
		if entry.State != netlink.NUD_PERMANENT {
			continue
		}
		addr := toAddr(entry.IP)
		if mac, ok := want[addr]; ok {
			if mac == hardwareAddr(entry.HardwareAddr) {
				delete(missing, addr)
			}
			continue // replaced below
		}
		if err := netlink.NeighDel(&entry); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove neighbour %s: %w", addr, err))
		}
	}
	for addr, mac := range missing {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: device, Family: family, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
			IP: addr.AsSlice(), HardwareAddr: net.HardwareAddr(mac),
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("set neighbour %s: %w", addr, err))
		}
	}
	return errors.Join(errs...)
}

func applyForwarding(device int, want map[hardwareAddr]netip.Addr) error {
	have, err := netlink.NeighList(device, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("list the forwarding of vxlan: %w", err)
	}
	missing := maps.Clone(want)
	var errs []error
	for _, entry := range have {
		if entry.State&netlink.NUD_PERMANENT == 0 {
			continue // learned from packets
		}
		mac := hardwareAddr(entry.HardwareAddr)
		if addr, ok := want[mac]; ok {
			if addr == toAddr(entry.IP) {
				delete(missing, mac)
			}
			continue // replaced below
		}
		if err := netlink.NeighDel(&entry); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove vxlan forwarding to %s: %w", entry.IP, err))
		}
	}
	for mac, addr := range missing {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: device, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
			IP: addr.AsSlice(), HardwareAddr: net.HardwareAddr(mac),
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("set vxlan forwarding to %s: %w", addr, err))
		}
	}
	return errors.Join(errs...)
}
