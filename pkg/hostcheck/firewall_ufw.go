package hostcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ufw returns nil if it is not enabled, or its rules are not in the kernel.
func (h Host) ufw(rules ruleset, t Traffic) (*Firewall, error) {
	settings, err := h.settings("/etc/ufw/ufw.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ufw's settings: %w", err)
	}
	if !strings.EqualFold(settings["ENABLED"], "yes") || !rules.unknown && !rules.hasChain("ufw-before-input") && !h.legacyFilter() {
		return nil, nil
	}
	defaults, err := h.settings("/etc/default/ufw")
	if err != nil {
		return nil, fmt.Errorf("read ufw's defaults: %w", err)
	}
	var allowed ufwRules
	for _, file := range []string{"/etc/ufw/user.rules", "/etc/ufw/user6.rules"} {
		content, err := h.read(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read ufw's rules: %w", err)
		}
		allowed = append(allowed, parseUFW(content)...)
	}
	return &Firewall{Name: "ufw", Commands: allowed.commands(t, defaults)}, nil
}

// legacyFilter says whether rules of the kernel's older packet filter are in
// force, which nft doesn't see.
func (h Host) legacyFilter() bool {
	tables, err := h.read("/proc/net/ip_tables_names")
	return err == nil && slices.Contains(strings.Fields(tables), "filter")
}

// settings reads a file of shell assignments.
func (h Host) settings(file string) (map[string]string, error) {
	content, err := h.read(file)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for line := range strings.Lines(content) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			values[name] = strings.Trim(value, `"'`)
		}
	}
	return values, nil
}

// ufwRule is a rule that lets something pass.
type ufwRule struct {
	route      bool // through the machine, not to it
	protocol   string
	ports      string // such as any, 80, 80,443 or 6000:7000
	to, from   netip.Prefix
	interfaces string // such as in, in_eth0 or in_eth0!out_eth1
}

type ufwRules []ufwRule

// parseUFW reads the comments in which ufw keeps the rules it was given:
// ACTION PROTOCOL PORT TO PORT FROM [APPLICATION APPLICATION] DIRECTION [COMMENT].
func parseUFW(content string) ufwRules {
	var rules ufwRules
	for line := range strings.Lines(content) {
		tuple, ok := strings.CutPrefix(line, "### tuple ###")
		fields := strings.Fields(tuple)
		fields = slices.DeleteFunc(fields, func(f string) bool { return strings.HasPrefix(f, "comment=") })
		if !ok || len(fields) < 7 {
			continue
		}
		action, route := strings.CutPrefix(fields[0], "route:")
		action, _, _ = strings.Cut(action, "_") // allow_log, allow_log-all
		to, okTo := parsePrefix(fields[3])
		from, okFrom := parsePrefix(fields[5])
		if (action != "allow" && action != "limit") || !okTo || !okFrom || fields[4] != "any" {
			continue
		}
		rules = append(rules, ufwRule{
			route: route, protocol: fields[1], ports: fields[2], to: to, from: from, interfaces: fields[len(fields)-1],
		})
	}
	return rules
}

// commands returns what opens ufw. Packets to a Service are on their way to a
// pod when ufw sees them.
func (rules ufwRules) commands(t Traffic, defaults map[string]string) []string {
	var commands []string
	unless := func(open bool, format string, args ...any) {
		if !open {
			commands = append(commands, fmt.Sprintf(format, args...))
		}
	}
	if defaults["DEFAULT_INPUT_POLICY"] != "ACCEPT" {
		for _, p := range t.Ports {
			unless(slices.ContainsFunc(rules, func(r ufwRule) bool { return r.letsPort(p, t) }), "ufw allow %d/%s", p.Number, p.Protocol)
		}
		for _, pods := range t.Pods {
			unless(slices.ContainsFunc(rules, func(r ufwRule) bool {
				return !r.route && r.whole("in") && r.to.Bits() == 0 && covers(r.from, pods)
			}), "ufw allow from %s", pods)
		}
	}
	if defaults["DEFAULT_FORWARD_POLICY"] != "ACCEPT" {
		for _, pods := range t.Pods {
			unless(slices.ContainsFunc(rules, func(r ufwRule) bool {
				return r.route && r.whole("in") && r.to.Bits() == 0 && covers(r.from, pods)
			}), "ufw route allow from %s", pods)
			unless(slices.ContainsFunc(rules, func(r ufwRule) bool {
				return r.route && r.whole("out") && r.from.Bits() == 0 && covers(r.to, pods)
			}), "ufw route allow to %s", pods)
		}
	}
	return commands
}

// whole says whether a rule is for all packets of the pods in a direction.
func (r ufwRule) whole(direction string) bool {
	return r.protocol == "any" && r.ports == "any" &&
		(r.interfaces == "in" || r.interfaces == direction+"_"+bridge)
}

// letsPort says whether a rule lets a port pass: by its number, for whomever the
// administrator means it, or with everything else from the nodes.
func (r ufwRule) letsPort(p FirewallPort, t Traffic) bool {
	if r.route || r.protocol != "any" && r.protocol != p.Protocol {
		return false
	}
	if r.ports == "any" {
		return t.nodesIn(r.from)
	}
	for part := range strings.SplitSeq(r.ports, ",") {
		if inRange(part, ":", p.Number) {
			return true
		}
	}
	return false
}

// inRange says whether a number is the one, or within the range, in a text.
func inRange(text, separator string, number uint16) bool {
	first, last, isRange := strings.Cut(text, separator)
	if !isRange {
		last = first
	}
	from, errFrom := strconv.ParseUint(first, 10, 16)
	to, errTo := strconv.ParseUint(last, 10, 16)
	return errFrom == nil && errTo == nil && uint64(number) >= from && uint64(number) <= to
}
