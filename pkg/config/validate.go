package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// derive fills in the values whose defaults follow from others or the host.
func (l *loader) derive(hostname func() (string, error)) error {
	s := l.server
	if s.Node.Name == "" {
		host, err := hostname()
		if err != nil {
			return fmt.Errorf("node-name: read the host name: %w; set --node-name", err)
		}
		if s.Node.Name, err = parseNodeName(host); err != nil {
			return fmt.Errorf("node-name: the host name does not fit: %w; set --node-name or rename the host", err)
		}
	}
	s.Security.AuditLogPath = cmp.Or(s.Security.AuditLogPath, s.Paths.AuditLog())
	s.Node.ProtectKernelDefaults = s.Node.ProtectKernelDefaults || s.Node.Profile == ProfileCIS
	s.AddOns.LocalStoragePath = cmp.Or(s.AddOns.LocalStoragePath, s.Paths.Storage())
	s.Snapshots.Dir = cmp.Or(s.Snapshots.Dir, s.Paths.Snapshots())
	if len(s.Network.ClusterDNS) == 0 {
		for _, r := range s.Network.ServiceCIDRs {
			s.Network.ClusterDNS = append(s.Network.ClusterDNS, nth(r, 10))
		}
	}
	return nil
}

// nth returns the address that is n behind the first of a range.
func nth(r netip.Prefix, n int) netip.Addr {
	a := r.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// The checks refuse values that are missing or cannot go together.

// party is one of two values that cannot go together.
type party struct {
	option string
	value
	rank int
}

// item returns a value of an option.
func (l *loader) item(option string, i int) party {
	s := l.settings[option]
	return party{option, s.values[i], s.rank}
}

// all returns all values of an option as one.
func (l *loader) all(option string) party {
	s := l.settings[option]
	texts := make([]string, len(s.values))
	for i, v := range s.values {
		texts[i] = v.text
	}
	return party{option, value{strings.Join(texts, ","), s.origin}, s.rank}
}

// against returns the error that p's value does something, as the verb says, to
// the value of q.
func (p party) against(q party, verb, advice string) error {
	return p.refuse(fmt.Errorf("%s %s %s %s (%s); %s", p.text, verb, q.option, q.text, q.where, advice))
}

// conflict is against for a verb that works both ways: of the two, the value
// that was given last is to blame.
func conflict(p, q party, verb, advice string) error {
	if q.rank > p.rank {
		p, q = q, p
	}
	return p.against(q, verb, advice)
}

// checkRanges wants ranges for pods and Services, of the same IP families, and
// apart from each other.
func (l *loader) checkRanges() error {
	n := l.server.Network
	for _, option := range []string{"cluster-cidr", "service-cidr"} {
		if len(l.settings[option].values) == 0 {
			return l.all(option).refuse(errors.New("is empty; give a CIDR range"))
		}
	}
	if hasFamily(n.ClusterCIDRs, true) != hasFamily(n.ServiceCIDRs, true) ||
		hasFamily(n.ClusterCIDRs, false) != hasFamily(n.ServiceCIDRs, false) {
		return conflict(l.all("service-cidr"), l.all("cluster-cidr"), "is not of the same IP families as",
			"give both of them an IPv4 range, an IPv6 range, or one of each")
	}
	for i, pods := range n.ClusterCIDRs {
		for j, services := range n.ServiceCIDRs {
			if pods.Overlaps(services) {
				return conflict(l.item("service-cidr", j), l.item("cluster-cidr", i), "overlaps",
					"give pods and Services ranges that have no address in common")
			}
		}
	}
	return nil
}

func hasFamily(ranges []netip.Prefix, ipv4 bool) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Addr().Is4() == ipv4 })
}

// checkPodRanges wants pod ranges that Kubernetes can divide into the ranges of
// nodes. With node ranges of a size of the user's own this is up to
// kube-controller-manager.
func (l *loader) checkPodRanges() error {
	if slices.ContainsFunc(l.server.ControlPlane.ControllerManagerArgs, func(a Arg) bool {
		return strings.HasPrefix(a.Name, "node-cidr-mask-size")
	}) {
		return nil
	}
	for i, r := range l.server.Network.ClusterCIDRs {
		node, largest := 24, 1
		if r.Addr().Is6() {
			node, largest = 64, 48 // kube-controller-manager handles 16 bits of nodes
		}
		if r.Bits() < largest || r.Bits() > node {
			return l.item("cluster-cidr", i).refuse(fmt.Errorf(
				"%s cannot be divided into a /%d for each node; give a range from /%d to /%d", r, node, largest, node))
		}
	}
	return nil
}

// checkDNS wants the DNS addresses to be ones that a Service can have.
func (l *loader) checkDNS() error {
	n := l.server.Network
	if !l.isGiven("cluster-dns") {
		return nil
	}
	for i, a := range n.ClusterDNS {
		dns, services := l.item("cluster-dns", i), l.all("service-cidr")
		r := slices.IndexFunc(n.ServiceCIDRs, func(r netip.Prefix) bool { return r.Contains(a) })
		if r < 0 {
			return dns.against(services, "is outside", "give an address inside it")
		}
		const advice = "give another address inside it"
		switch services := n.ServiceCIDRs[r]; {
		case a == nth(services, 0), a.Is4() && !services.Contains(a.Next()):
			return dns.against(l.item("service-cidr", r), "is no usable address of", advice)
		case r == 0 && a == nth(services, 1):
			return dns.against(l.item("service-cidr", r), "belongs to the Kubernetes API in", advice)
		}
	}
	return nil
}

// checkServer wants an agent to know a server.
func (l *loader) checkServer() error {
	if l.server.Join.Server == "" {
		return errors.New("server: is missing; name a server with --server https://HOST:6443")
	}
	return nil
}

// checkHostAddrs keeps the host's addresses out of the cluster's own ranges,
// where they could not be reached.
func (l *loader) checkHostAddrs() error {
	s := l.server
	for _, host := range []struct {
		option string
		addrs  []netip.Addr
	}{
		{"bind-address", []netip.Addr{s.ControlPlane.BindAddress}},
		{"advertise-address", []netip.Addr{s.ControlPlane.AdvertiseAddress}},
		{"node-ip", s.Node.IPs},
		{"node-external-ip", s.Node.ExternalIPs},
	} {
		for _, cluster := range []struct {
			option string
			ranges []netip.Prefix
		}{
			{"cluster-cidr", s.Network.ClusterCIDRs},
			{"service-cidr", s.Network.ServiceCIDRs},
		} {
			for i, a := range host.addrs {
				for j, r := range cluster.ranges {
					if r.Contains(a) {
						return l.item(host.option, i).against(l.item(cluster.option, j), "is inside",
							"give "+cluster.option+" a range that the host's network does not use")
					}
				}
			}
		}
	}
	return nil
}

// checkPrimaryFamily wants the API server to be reached by the IP family of the
// first range for Services, as kube-apiserver does.
func (l *loader) checkPrimaryFamily() error {
	primary := l.server.Network.ServiceCIDRs[0].Addr()
	family := "IPv4"
	if primary.Is6() {
		family = "IPv6"
	}
	service := l.item("service-cidr", 0)
	advertised := l.server.ControlPlane.AdvertiseAddress
	if advertised.IsValid() {
		if advertised.Is4() == primary.Is4() {
			return nil
		}
		return l.item("advertise-address", 0).against(service, "is not of the IP family of the first",
			"give an "+family+" address")
	}
	ips := l.server.Node.IPs
	if len(ips) == 0 || slices.ContainsFunc(ips, func(a netip.Addr) bool { return a.Is4() == primary.Is4() }) {
		return nil
	}
	return l.all("node-ip").against(service, "is not of the IP family of the first",
		"give an "+family+" address too")
}

// checkTogether wants at most one of some options, and all or none of others.
func (l *loader) checkTogether() error {
	for _, name := range []string{"token", "agent-token"} {
		one, other := name, name+"-file"
		if !l.isGiven(one) || !l.isGiven(other) {
			continue
		}
		if l.settings[other].rank > l.settings[one].rank {
			one, other = other, one
		}
		return l.settings[one].refuse(fmt.Errorf("cannot be given with %s (%s); remove one of them", other, l.settings[other].where))
	}
	one, other := "image-credential-provider-bin-dir", "image-credential-provider-config"
	if !l.isGiven(one) {
		one, other = other, one
	}
	if l.isGiven(one) && !l.isGiven(other) {
		return l.settings[one].refuse(fmt.Errorf("has no effect without %s; give both or neither", other))
	}
	return nil
}

// checkProfile refuses what a profile forbids.
func (l *loader) checkProfile() error {
	s := l.server
	if s.Node.Profile != ProfileCIS {
		return nil
	}
	for _, forbidden := range []struct {
		option string
		given  bool
	}{
		{"secrets-encryption", !s.Security.EncryptSecrets},
		{"enable-pprof", s.ControlPlane.EnablePprof},
		{"disable-network-policy", s.Network.DisableNetworkPolicy},
		{"write-kubeconfig-mode", s.Kubeconfig.Mode&0o077 != 0},
	} {
		if forbidden.given {
			return l.item(forbidden.option, 0).against(l.item("profile", 0), "is not what is allowed by", "remove one of them")
		}
	}
	return nil
}

// checkIneffective refuses options that another one leaves without effect.
func (l *loader) checkIneffective() error {
	s := l.server
	ownRuntime := s.Node.RuntimeEndpoint != ""
	noFlannel := s.Network.FlannelBackend == "none"
	type pair struct {
		option, other string
		otherApplies  bool
	}
	pairs := []pair{
		{"kube-scheduler-arg", "disable-scheduler", s.ControlPlane.DisableScheduler},
		{"kube-proxy-arg", "disable-kube-proxy", s.Network.DisableKubeProxy},
		{"snapshotter", "container-runtime-endpoint", ownRuntime},
		{"pause-image", "container-runtime-endpoint", ownRuntime},
		{"private-registry", "container-runtime-endpoint", ownRuntime},
		{"disable-default-registry-endpoint", "container-runtime-endpoint", ownRuntime},
		{"selinux", "container-runtime-endpoint", ownRuntime},
		{"flannel-external-ip", "flannel-backend", noFlannel},
		{"flannel-ipv6-masq", "flannel-backend", noFlannel},
		{"flannel-iface", "flannel-backend", noFlannel},
		{"flannel-conf", "flannel-backend", noFlannel},
		{"flannel-cni-conf", "flannel-backend", noFlannel},
	}
	for _, o := range nodeOptions() {
		// A server without a node still has a name and addresses.
		if !slices.Contains([]string{"node-name", "with-node-id", "node-ip", "node-external-ip", "profile"}, o.Name) {
			pairs = append(pairs, pair{o.Name, "disable-agent", s.DisableAgent})
		}
	}
	for _, p := range pairs {
		if !p.otherApplies || !l.isGiven(p.option) {
			continue
		}
		other := l.settings[p.other]
		effect := p.other
		if o, _ := l.option(p.other); o.Choices != nil {
			effect += " " + other.values[0].text
		}
		return l.settings[p.option].refuse(fmt.Errorf("has no effect with %s (%s); remove one of them", effect, other.where))
	}
	return nil
}

// isGiven tells whether an option has a value that is not its default.
func (l *loader) isGiven(option string) bool {
	s, ok := l.settings[option]
	if !ok || s.where == byDefault || len(s.values) == 0 {
		return false
	}
	if o, _ := l.option(option); o.Kind == Bool {
		on, err := parseBool(s.values[0].text)
		return on && err == nil
	}
	return s.values[0].text != ""
}

// readTokenFiles reads the tokens that are given as files.
func (l *loader) readTokenFiles() error {
	join := &l.server.Join
	for _, f := range []struct {
		option string
		field  *Secret
	}{
		{"token-file", &join.Token},
		{"agent-token-file", &join.AgentToken},
	} {
		if !l.isGiven(f.option) {
			continue
		}
		file := l.settings[f.option].values[0]
		secret, warning, err := readTokenFile(file.text)
		if err != nil {
			return file.refuse(err)
		}
		if warning != "" {
			l.server.Warnings = append(l.server.Warnings, file.prefix+": "+warning)
		}
		*f.field = secret
	}
	return nil
}
