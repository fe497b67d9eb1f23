package hostcheck

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"
)

// Traffic is what a cluster sends through a machine's firewall.
type Traffic struct {
	Ports []FirewallPort // what nodes and users reach on the machine
	Pods  []netip.Prefix // what pods may send and get anything from; empty on a machine without pods
	Node  []netip.Addr   // the machine's own addresses towards the other nodes; empty if not known
}

// FirewallPort is a port as a firewall knows it.
type FirewallPort struct {
	Number   uint16
	Protocol string // tcp or udp
}

// PodNetworkPorts are what nodes send each other the pods' packets to, by the
// pod network's backend.
func PodNetworkPorts(backend string, pods []netip.Prefix) []FirewallPort {
	switch backend {
	case "vxlan":
		return []FirewallPort{{8472, "udp"}}
	case "wireguard-native":
		var ports []FirewallPort
		for _, p := range pods {
			if p.Addr().Is4() {
				ports = append(ports, FirewallPort{51820, "udp"})
			} else {
				ports = append(ports, FirewallPort{51821, "udp"})
			}
		}
		return ports
	}
	return nil
}

// Firewall is a firewall of the machine that is on.
type Firewall struct {
	Name string
	// Commands are what is still to be typed to open it for a cluster; none if
	// it is open.
	Commands []string
	// Passing says that the commands hold until the rules are loaded again: the
	// firewall has no command to keep them.
	Passing bool
}

// firewallLimit is for all answers together. They take some milliseconds.
const firewallLimit = 5 * time.Second

// Firewalls returns the firewalls of this machine that are on, as far as they
// can be told, and what is to be typed so that the traffic passes them. It only
// asks: a rule that accepts in a table of Kedge's own would not overrule one
// that drops in theirs, and theirs are the administrator's.
func (h Host) Firewalls(ctx context.Context, t Traffic) ([]Firewall, error) {
	if !h.live() {
		return nil, errors.New("the firewall of another machine can't be asked")
	}
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	var found []Firewall
	firewalld, firewalldErr := h.firewalld(ctx, t)
	if firewalld != nil {
		found = append(found, *firewalld)
	}
	rules, rulesErr := readRules(ctx)
	ufw, ufwErr := h.ufw(rules, t)
	if ufw != nil {
		found = append(found, *ufw)
	}
	found = append(found, rules.firewalls(t, ufw != nil)...)
	return found, errors.Join(firewalldErr, rulesErr, ufwErr)
}

// Closed says which of the firewalls are not open, and what opens them, as one
// line for a shell of root's. Both are empty when there is nothing to do.
func Closed(firewalls []Firewall) (problem, fix string) {
	var names, commands []string
	passing := false
	for _, f := range firewalls {
		if len(f.Commands) > 0 {
			names = append(names, f.Name)
			commands = append(commands, f.Commands...)
			passing = passing || f.Passing
		}
	}
	if len(names) == 0 {
		return "", ""
	}
	problem = "the firewall of this machine (" + strings.Join(names, ", ") + ") is on and not open for the cluster"
	if passing {
		problem += "; add what opens it to the file that its rules are loaded from, too"
	}
	return problem, strings.Join(commands, " && ")
}

func (h Host) firewallFinding(ctx context.Context, t Traffic) Finding {
	const name = "firewall"
	found, err := h.Firewalls(ctx, t)
	if problem, fix := Closed(found); problem != "" {
		return Finding{Name: name, Level: Warning, Detail: problem, Fix: fix}
	}
	if err != nil {
		return unknownf(name, "%v", err)
	}
	if len(found) == 0 {
		return okf(name, "none that is on")
	}
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.Name
	}
	return okf(name, "%s: open for the cluster", strings.Join(names, ", "))
}

// covers says whether all addresses of the inner range are in the outer.
func covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// parsePrefix reads an address or a range.
func parsePrefix(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, true
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}

// nodesIn says whether a range has one of the machine's addresses, and so
// probably those of the other nodes.
func (t Traffic) nodesIn(p netip.Prefix) bool {
	for _, a := range t.Node {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
