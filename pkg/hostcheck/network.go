package hostcheck

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// serverLimit is how long a server may take to answer.
const serverLimit = 5 * time.Second

// serverFinding says whether an agent reaches the server it is to join at.
func serverFinding(ctx context.Context, address string) Finding {
	const name = "server"
	conn, err := (&net.Dialer{Timeout: serverLimit}).DialContext(ctx, "tcp", address)
	if err != nil {
		return Finding{
			Name: name, Level: Failure, Detail: fmt.Sprintf("%s can't be reached: %v", address, err),
			Fix: "start the server, mend the address in --server, or let the firewalls in between pass its TCP port",
		}
	}
	_ = conn.Close()
	return okf(name, "%s answers", address)
}

// Interface is a network interface of the machine with its addresses, each with
// the length of its network's prefix, such as 192.168.1.7/24.
type Interface struct {
	Name      string
	Addresses []netip.Prefix
}

// OwnInterface says whether an interface's name is one that Kedge, its pod network
// or another Kubernetes' pod network gives. Their addresses are inside the pods'
// and services' ranges.
func OwnInterface(name string) bool {
	for _, prefix := range []string{"cni", "flannel", "veth", "kube-", "kedge", "nodelocaldns"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// HostInterfaces returns the interfaces that connect this machine to networks, with
// their addresses: without loopback and point-to-point ones, link-local addresses
// and those that skip names. Skip may be nil; [OwnInterface] is the usual one.
func HostInterfaces(skip func(name string) bool) ([]Interface, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var found []Interface
	for _, i := range interfaces {
		if i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 || skip != nil && skip(i.Name) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", i.Name, err)
		}
		result := Interface{Name: i.Name}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || p.Addr().IsLinkLocalUnicast() || p.Addr().IsLoopback() {
				continue
			}
			result.Addresses = append(result.Addresses, p)
		}
		if len(result.Addresses) > 0 {
			found = append(found, result)
		}
	}
	return found, nil
}

// The options that choose the ranges.
const (
	podRangeOption     = "--cluster-cidr"
	serviceRangeOption = "--service-cidr"
)

// CheckRanges returns an error if a range of pods or of services overlaps the
// network of one of the host's interfaces, which would cut the node off from it,
// or if they overlap each other.
func CheckRanges(pods, services []netip.Prefix, host []Interface) error {
	for _, r := range []struct {
		of     string
		option string
		ranges []netip.Prefix
	}{
		{"pod", podRangeOption, pods},
		{"service", serviceRangeOption, services},
	} {
		for _, p := range r.ranges {
			for _, i := range host {
				for _, a := range i.Addresses {
					if !p.Overlaps(a.Masked()) {
						continue
					}
					return fmt.Errorf("%s range %v overlaps %v, the network of this machine's interface %s (%v): choose another range with %s%s",
						r.of, p, a.Masked(), i.Name, a, r.option, example(p, pods, services, host))
				}
			}
		}
	}
	for _, p := range pods {
		for _, s := range services {
			if p.Overlaps(s) {
				return fmt.Errorf("pod range %v overlaps service range %v: choose another with %s or %s", p, s, podRangeOption, serviceRangeOption)
			}
		}
	}
	return nil
}

// example returns a range of the same size that overlaps nothing, to be appended
// to the name of an option; "" if it knows none.
func example(like netip.Prefix, pods, services []netip.Prefix, host []Interface) string {
	if !like.Addr().Is4() || like.Bits() < 16 {
		return ""
	}
	free := func(p netip.Prefix) bool {
		for _, taken := range append(append([]netip.Prefix{}, pods...), services...) {
			if p.Overlaps(taken) {
				return false
			}
		}
		for _, i := range host {
			for _, a := range i.Addresses {
				if p.Overlaps(a.Masked()) {
					return false
				}
			}
		}
		return true
	}
	for _, block := range []struct{ first, from, to byte }{{10, 42, 254}, {172, 18, 31}} {
		for second := block.from; second <= block.to; second++ {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{block.first, second}), like.Bits())
			if free(p) {
				return "=" + p.String()
			}
		}
	}
	return ""
}
