package servicelb

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Labels that choose nodes, Kedge's own first, then those that manifests for k3s
// have.
var (
	// enableLabels with the value true on any node leave the nodes without them
	// out.
	enableLabels = []string{"svccontroller.kedge.io/enablelb", "svccontroller.k3s.cattle.io/enablelb"}
	// poolLabels on a Service choose the nodes with the same value.
	poolLabels = []string{"svccontroller.kedge.io/lbpool", "svccontroller.k3s.cattle.io/lbpool"}
)

func enabled(n *corev1.Node) bool {
	return slices.ContainsFunc(enableLabels, func(l string) bool { return n.Labels[l] == "true" })
}

// inPool says whether a node is in the pool that a Service's labels name, if they
// name any. The same pool may be named by either label.
func inPool(n *corev1.Node, pool string) bool {
	return pool == "" || slices.ContainsFunc(poolLabels, func(l string) bool { return n.Labels[l] == pool })
}

// poolOf is the pool that a Service's labels name; empty: all nodes.
func poolOf(s *corev1.Service) string {
	for _, l := range poolLabels {
		if pool := s.Labels[l]; pool != "" {
			return pool
		}
	}
	return ""
}

// serves says whether clients can be sent to a node now.
func serves(n *corev1.Node) bool {
	if n.DeletionTimestamp != nil {
		return false
	}
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; excluded {
		return false
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// address is an address of a node.
type address struct {
	netip.Addr
	second bool // it is not what clients are told first
}

// addressesOf are the addresses that Services get of a node, of one IP family:
// the external ones, or the internal ones if there are none. Where a router turns
// external addresses into internal ones packets arrive at the latter, so that
// kube-proxy has to serve them too.
func addressesOf(n *corev1.Node, family corev1.IPFamily, r Report) []address {
	external := typedAddresses(n, corev1.NodeExternalIP, family)
	internal := typedAddresses(n, corev1.NodeInternalIP, family)
	var all []address
	for _, a := range external {
		all = append(all, address{Addr: a})
	}
	elsewhere := slices.ContainsFunc(external, func(a netip.Addr) bool { return slices.Contains(r.Elsewhere, a) })
	if len(external) == 0 || elsewhere {
		for _, a := range internal {
			all = append(all, address{Addr: a, second: elsewhere})
		}
	}
	return all
}

func typedAddresses(n *corev1.Node, kind corev1.NodeAddressType, family corev1.IPFamily) []netip.Addr {
	var found []netip.Addr
	for _, a := range n.Status.Addresses {
		if a.Type != kind {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil && familyOf(ip) == family {
			found = append(found, ip)
		}
	}
	return found
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
