package netpol

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/knftables"
)

// packet is what rules look at.
type packet struct {
	source, destination netip.Addr
	protocol            string
	sport, dport        int
	reply, related      bool
	icmpv6              string
}

// answer is a packet of the same connection in the other direction.
func (p packet) answer() packet {
	p.source, p.destination = p.destination, p.source
	p.sport, p.dport = p.dport, p.sport
	p.reply = !p.reply
	return p
}

// passes says what the table does with a packet at a hook: it walks the chains
// as the kernel does.
func passes(t *testing.T, table *knftables.FakeTable, hook knftables.BaseChainHook, p packet) bool {
	t.Helper()
	for _, c := range table.Chains {
		if c.Hook == nil || *c.Hook != hook {
			continue
		}
		if walk(t, table, c.Name, p) == "drop" {
			return false
		}
	}
	return true
}

// walk is the verdict of a chain, empty if it ends without one.
func walk(t *testing.T, table *knftables.FakeTable, name string, p packet) string {
	t.Helper()
	c := table.Chains[name]
	if c == nil {
		t.Fatalf("there is no chain %s", name)
	}
	for _, rule := range c.Rules {
		verdict := apply(t, table, strings.Fields(rule.Rule), p)
		target, isGoto := strings.CutPrefix(verdict, "goto ")
		if isGoto {
			return walk(t, table, target, p)
		}
		if target, isJump := strings.CutPrefix(verdict, "jump "); isJump {
			verdict = walk(t, table, target, p)
		}
		if verdict != "" {
			return verdict
		}
	}
	return ""
}

// apply is the verdict of a rule, empty if it does not match.
func apply(t *testing.T, table *knftables.FakeTable, words []string, p packet) string {
	t.Helper()
	for len(words) > 0 {
		switch words[0] {
		case "accept", "drop":
			return words[0]
		case "goto", "jump":
			return strings.Join(words[:2], " ")
		}
		var key []string
		for {
			value, ok := p.field(t, words[0]+" "+words[1])
			if !ok {
				return ""
			}
			key, words = append(key, value), words[2:]
			if words[0] != "." {
				break
			}
			words = words[1:]
		}
		element := strings.Join(key, " . ")
		if words[0] == "vmap" {
			m := table.Maps[words[1][1:]]
			if e := m.FindElement(element); e != nil {
				return e.Value[0]
			}
			return ""
		}
		var values []string
		if words[0] == "{" {
			end := slices.Index(words, "}")
			for _, word := range words[1:end] {
				values = append(values, strings.TrimSuffix(word, ","))
			}
			words = words[end+1:]
		} else {
			values, words = words[:1], words[1:]
		}
		if !slices.ContainsFunc(values, func(value string) bool { return matches(table, element, value) }) {
			return ""
		}
	}
	return ""
}

// field is a field of the packet, if it has it.
func (p packet) field(t *testing.T, name string) (string, bool) {
	t.Helper()
	switch name {
	case "ip saddr":
		return p.source.String(), p.source.Is4()
	case "ip daddr":
		return p.destination.String(), p.destination.Is4()
	case "ip6 saddr":
		return p.source.String(), p.source.Is6()
	case "ip6 daddr":
		return p.destination.String(), p.destination.Is6()
	case "meta l4proto":
		return p.protocol, true
	case "th sport":
		return strconv.Itoa(p.sport), true
	case "th dport":
		return strconv.Itoa(p.dport), true
	case "tcp sport", "udp sport", "sctp sport":
		return strconv.Itoa(p.sport), strings.HasPrefix(name, p.protocol)
	case "tcp dport", "udp dport", "sctp dport":
		return strconv.Itoa(p.dport), strings.HasPrefix(name, p.protocol)
	case "ct direction":
		if p.reply {
			return "reply", true
		}
		return "original", true
	case "ct state":
		return "related", p.related
	case "icmpv6 type":
		return p.icmpv6, p.icmpv6 != ""
	}
	t.Fatalf("no field %q", name)
	return "", false
}

// matches compares with a set, a range or a single value.
func matches(table *knftables.FakeTable, element, value string) bool {
	if name, isSet := strings.CutPrefix(value, "@"); isSet {
		return table.Sets[name].FindElement(element) != nil
	}
	if element == value {
		return true
	}
	first, last, isRange := strings.Cut(value, "-")
	if !isRange {
		return false
	}
	if addr, err := netip.ParseAddr(element); err == nil {
		from, err1 := netip.ParseAddr(first)
		to, err2 := netip.ParseAddr(last)
		return err1 == nil && err2 == nil && from.Compare(addr) <= 0 && addr.Compare(to) <= 0
	}
	number, err := strconv.Atoi(element)
	from, err1 := strconv.Atoi(first)
	to, err2 := strconv.Atoi(last)
	return err == nil && err1 == nil && err2 == nil && from <= number && number <= to
}
