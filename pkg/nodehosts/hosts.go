// Package nodehosts tells the cluster's DNS the names and addresses of the
// nodes, as k3s does: in the key NodeHosts of CoreDNS's ConfigMap, in the form of
// /etc/hosts.
package nodehosts

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Render returns the addresses and names of nodes, by name, a line for each
// address.
func Render(nodes []*corev1.Node) string {
	byName := func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) }
	var text strings.Builder
	for _, node := range slices.SortedFunc(slices.Values(nodes), byName) {
		names := []string{node.Name}
		var addresses []string
		for _, a := range node.Status.Addresses {
			switch a.Type {
			case corev1.NodeInternalIP:
				if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Zone() == "" {
					addresses = appendNew(addresses, ip.String())
				}
			case corev1.NodeHostName, corev1.NodeInternalDNS:
				names = appendNew(names, strings.ToLower(a.Address))
			case corev1.NodeExternalIP, corev1.NodeExternalDNS: // for those outside
			}
		}
		for _, address := range addresses {
			text.WriteString(address + " " + strings.Join(names, " ") + "\n")
		}
	}
	return text.String()
}

func appendNew(list []string, item string) []string {
	if item == "" || slices.Contains(list, item) {
		return list
	}
	return append(list, item)
}
