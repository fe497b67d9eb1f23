package flannel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/vishvananda/netlink"
)

// externalInterface finds the interface towards the other nodes: the named one,
// or the one with the node's addresses. It looks at no route: there may be none.
func externalInterface(name string, nodeIPs []netip.Addr, families dual[bool]) (*backend.ExternalInterface, error) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the machine's addresses: %w", err)
	}
	var iface *net.Interface
	if name != "" {
		if iface, err = net.InterfaceByName(name); err != nil {
			return nil, fmt.Errorf("flannel-iface %s: %w", name, err)
		}
	} else {
		if len(nodeIPs) == 0 {
			return nil, errors.New("the node has no address")
		}
		at := slices.IndexFunc(all, func(a netlink.Addr) bool { return toAddr(a.IP) == nodeIPs[0] })
		if at < 0 {
			return nil, fmt.Errorf("no network interface has the node's address %s: name the one towards the other nodes with flannel-iface", nodeIPs[0])
		}
		if iface, err = net.InterfaceByIndex(all[at].LinkIndex); err != nil {
			return nil, fmt.Errorf("interface of %s: %w", nodeIPs[0], err)
		}
		if iface.Flags&net.FlagLoopback != 0 {
			return nil, fmt.Errorf("the node's address %s is on %s: name the interface towards the other nodes with flannel-iface", nodeIPs[0], iface.Name)
		}
	}

	// The node's address where the interface has it, else its first.
	var first, own []netip.Addr
	for _, a := range all {
		addr := toAddr(a.IP)
		if a.LinkIndex != iface.Index || addr.IsLinkLocalUnicast() {
			continue
		}
		first = append(first, addr)
		if slices.Contains(nodeIPs, addr) {
			own = append(own, addr)
		}
	}
	chosen := pick(append(own, first...))
	external := &backend.ExternalInterface{Iface: iface, IfaceName: iface.Name}
	if families.v4 {
		if !chosen.v4.IsValid() {
			return nil, fmt.Errorf("interface %s has no IPv4 address: the pod network needs one", iface.Name)
		}
		external.IfaceAddr, external.ExtAddr = chosen.v4.AsSlice(), chosen.v4.AsSlice()
	}
	if families.v6 {
		if !chosen.v6.IsValid() {
			return nil, fmt.Errorf("interface %s has no IPv6 address: the pod network needs one", iface.Name)
		}
		external.IfaceV6Addr, external.ExtV6Addr = chosen.v6.AsSlice(), chosen.v6.AsSlice()
	}
	return external, nil
}

// setForwarding lets the kernel forward packets of pods, and show those that
// cross a bridge to the rules for Services.
func setForwarding(cidrs []netip.Prefix) error {
	for _, cidr := range cidrs {
		names := []string{"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"}
		if cidr.Addr().Is6() {
			names = []string{"net/ipv6/conf/all/forwarding", bridgeIPv6}
		}
		for _, name := range names {
			if err := setSysctl(name, "1"); err != nil {
				return err
			}
		}
	}
	// Pods have link-local IPv6 addresses in every cluster, and network policies
	// must see what they send to each other.
	if _, err := os.Stat(filepath.Join("/proc/sys", bridgeIPv6)); err != nil {
		return nil //nolint:nilerr // a kernel without IPv6
	}
	return setSysctl(bridgeIPv6, "1")
}

const bridgeIPv6 = "net/bridge/bridge-nf-call-ip6tables"

// keepRouterAdvertisements lets an interface that gets its routes from router
// advertisements go on doing so: a machine that forwards ignores them otherwise,
// and loses its default route when that expires.
func keepRouterAdvertisements(iface string, ipv6 bool) error {
	name := "net/ipv6/conf/" + iface + "/accept_ra"
	value, err := os.ReadFile(filepath.Join("/proc/sys", name))
	if !ipv6 || err != nil || string(value) != "1\n" {
		return nil //nolint:nilerr // without the setting there is nothing to keep
	}
	return setSysctl(name, "2")
}

// setSysctl writes a sysctl only if it has another value: where /proc is
// read-only, the administrator may have set it already.
func setSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the kernel has no setting %s: load its module (for net/bridge: modprobe br_netfilter)", name)
	}
	if err == nil && string(old) == value+"\n" {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", name, value, err)
	}
	return nil
}
