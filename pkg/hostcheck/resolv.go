package hostcheck

import (
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Resolver is a resolv.conf that pods can use.
type Resolver struct {
	// Path is the file it was found in.
	Path string
	// Content is the file without the nameservers that pods can't reach.
	Content []byte
	// Filtered says that Content is not the file as it is: pods need a copy.
	Filtered bool
	// Nameservers are the ones that pods can reach, in the file's order.
	Nameservers []netip.Addr
}

// resolvConfs are the files looked at, in order. The first often names a resolver
// that listens on loopback for this machine alone; then the resolver's own file
// with the real nameservers does.
var resolvConfs = []string{
	"/etc/resolv.conf",
	"/run/systemd/resolve/resolv.conf",
	"/run/NetworkManager/no-stub-resolv.conf",
	"/run/NetworkManager/resolv.conf",
	"/run/resolvconf/resolv.conf",
}

// ResolvConf returns the first resolv.conf with a nameserver that pods can reach,
// out of the given files, or the usual ones when none are given. A pod has a
// loopback interface of its own: 127.0.0.53 or ::1 are not the host's there. It
// sends by the IP families of its ranges only; no ranges stand for both families.
// False means that there is none; [FallbackNameserver] is what is left.
func (h Host) ResolvConf(pods []netip.Prefix, paths ...string) (Resolver, bool) {
	if len(paths) == 0 {
		paths = resolvConfs
	}
	for _, path := range paths {
		content, err := os.ReadFile(h.path(path))
		if err != nil {
			continue
		}
		r := parseResolvConf(content)
		if slices.ContainsFunc(r.Nameservers, func(a netip.Addr) bool { return ofFamily(a, pods) }) {
			r.Path = path
			return r, true
		}
	}
	return Resolver{}, false
}

// parseResolvConf sorts a resolv.conf's nameservers; see resolv.conf(5).
func parseResolvConf(content []byte) Resolver {
	var r Resolver
	var kept strings.Builder
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			kept.WriteString(line)
			continue
		}
		addr, err := netip.ParseAddr(f[1])
		if err != nil || !reachable(addr) {
			r.Filtered = true
			continue
		}
		r.Nameservers = append(r.Nameservers, addr)
		kept.WriteString(line)
	}
	r.Content = []byte(kept.String())
	return r
}

// reachable says whether a pod can send to an address. The unspecified address is
// this machine; IPv6's link-local ones belong to an interface the pod hasn't got.
// IPv4's link-local ones are routed: clouds have their nameservers there.
func reachable(addr netip.Addr) bool {
	a := addr.Unmap()
	return !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() && (a.Is4() || !a.IsLinkLocalUnicast())
}

// ofFamily says whether an address is of the IP family of one of the ranges.
func ofFamily(addr netip.Addr, ranges []netip.Prefix) bool {
	return len(ranges) == 0 || slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Addr().Is4() == addr.Unmap().Is4() })
}

// FallbackNameserver returns a nameserver for machines that have none for pods:
// Google's public resolver, as k3s has it. It is told the names that pods look up,
// and is a third party, so whoever uses it says so.
func FallbackNameserver(pods []netip.Prefix) netip.Addr {
	ipv4 := netip.AddrFrom4([4]byte{8, 8, 8, 8})
	if ofFamily(ipv4, pods) {
		return ipv4
	}
	return netip.MustParseAddr("2001:4860:4860::8888")
}
