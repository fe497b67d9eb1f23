package hostcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ruleset is what the kernel's packet filter was told, but for sets.
type ruleset struct {
	chains  []ruleChain
	unknown bool // it could not be read
}

type ruleChain struct {
	Family, Table, Name string
	Type, Hook, Policy  string // of a base chain
	rules               []rule
}

// rule is as much of a rule as tells whether it lets a cluster's traffic pass.
type rule struct {
	verdict string // accept, drop, reject; empty for others
	jump    string // the chain that it leads to
	// matches has what is compared with, by what is: tcp dport, ip saddr, iifname …
	matches map[string][]string
}

// readRules reads the chains, and the rules of the tables that may keep
// something out.
func readRules(ctx context.Context) (ruleset, error) {
	all, err := listRules(ctx, "chains")
	if err != nil {
		return ruleset{unknown: true}, err
	}
	set := ruleset{chains: all}
	read := map[string]bool{}
	for _, c := range all {
		key := c.Family + " " + c.Table
		if !c.guards() || read[key] {
			continue
		}
		read[key] = true
		chains, err := listRules(ctx, "table", c.Family, c.Table)
		if err != nil {
			return ruleset{unknown: true}, err
		}
		set.chains = slices.DeleteFunc(slices.Clone(set.chains), func(other ruleChain) bool {
			return other.Family == c.Family && other.Table == c.Table
		})
		set.chains = append(set.chains, chains...)
	}
	return set, nil
}

func listRules(ctx context.Context, what ...string) ([]ruleChain, error) {
	args := append([]string{"--json", "--terse", "list"}, what...)
	out, err := exec.CommandContext(ctx, nftProgram(), args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("read the packet filter: nft %s: %w", strings.Join(args, " "), err)
	}
	return parseRules(out)
}

// nftProgram is the one that travels with Kedge, or else the machine's.
func nftProgram() string {
	if exe, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(exe), "nft")
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return "nft"
}

// parseRules reads what nft lists, see libnftables-json(5).
func parseRules(text []byte) ([]ruleChain, error) {
	var list struct {
		Nftables []struct {
			Chain *ruleChain
			Rule  *struct {
				Family, Table, Chain string
				Expr                 []map[string]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read the packet filter: %w", err)
	}
	set := ruleset{}
	for _, object := range list.Nftables {
		if object.Chain != nil {
			set.chains = append(set.chains, *object.Chain)
		}
	}
	for _, object := range list.Nftables {
		if r := object.Rule; r != nil {
			if c := set.find(r.Family, r.Table, r.Chain); c != nil {
				c.rules = append(c.rules, parseRule(r.Expr))
			}
		}
	}
	return set.chains, nil
}

func parseRule(statements []map[string]json.RawMessage) rule {
	r := rule{matches: map[string][]string{}}
	for _, statement := range statements {
		for name, content := range statement {
			switch name {
			case "accept", "drop", "reject":
				r.verdict = name
			case "jump", "goto":
				var to struct{ Target string }
				if json.Unmarshal(content, &to) == nil {
					r.jump = to.Target
				}
			case "counter", "log":
			case "match":
				key, values := parseMatch(content)
				r.matches[key] = values
			case "xt": // of iptables; of many nft knows the name alone
				var extension struct{ Type, Name string }
				_ = json.Unmarshal(content, &extension)
				if extension.Type == "target" && extension.Name == "REJECT" {
					r.verdict = "reject"
				} else if extension.Name != "comment" {
					r.matches[extension.Name] = nil
				}
			default: // it may concern anything
				r.matches[name] = nil
			}
		}
	}
	return r
}

// parseMatch returns what is compared, and with what: numbers, ranges,
// addresses or names. It returns nothing to compare with for other comparisons.
func parseMatch(content json.RawMessage) (key string, values []string) {
	var match struct {
		Op   string
		Left struct {
			Payload struct{ Protocol, Field string }
			Meta    struct{ Key string }
		}
		Right any
	}
	if err := json.Unmarshal(content, &match); err != nil {
		return "match", nil
	}
	key = strings.TrimSpace(match.Left.Payload.Protocol + " " + match.Left.Payload.Field + match.Left.Meta.Key)
	if match.Op != "==" {
		return key + " " + match.Op, nil
	}
	return key, operands(match.Right)
}

func operands(value any) []string {
	switch v := value.(type) {
	case string:
		return []string{v}
	case float64:
		return []string{fmt.Sprint(int(v))}
	case map[string]any:
		if set, ok := v["set"].([]any); ok {
			var all []string
			for _, element := range set {
				all = append(all, operands(element)...)
			}
			return all
		}
		if ends, ok := v["range"].([]any); ok && len(ends) == 2 {
			return []string{strings.Join(slices.Concat(operands(ends[0]), operands(ends[1])), "-")}
		}
		if prefix, ok := v["prefix"].(map[string]any); ok {
			return []string{fmt.Sprintf("%v/%v", prefix["addr"], prefix["len"])}
		}
	}
	return nil
}

// guards says whether packets to the machine or through it begin in the chain,
// and it is none of Kedge's own, nor of a firewall that is asked another way.
func (c ruleChain) guards() bool {
	return c.Type == "filter" && (c.Hook == "input" || c.Hook == "forward") &&
		c.Table != "firewalld" && c.Table != "kube-proxy" && !strings.HasPrefix(c.Table, "kedge-")
}

// closed says whether what no rule lets pass is dropped at the end.
func (c ruleChain) closed() bool {
	if c.Policy == "drop" {
		return true
	}
	if len(c.rules) == 0 {
		return false
	}
	last := c.rules[len(c.rules)-1]
	return len(last.matches) == 0 && (last.verdict == "drop" || last.verdict == "reject")
}

// hasChain says whether any table has a chain of the name.
func (s ruleset) hasChain(name string) bool {
	return slices.ContainsFunc(s.chains, func(c ruleChain) bool { return c.Name == name })
}

// find returns a chain, or nil.
func (s ruleset) find(family, table, name string) *ruleChain {
	for i, c := range s.chains {
		if c.Family == family && c.Table == table && c.Name == name {
			return &s.chains[i]
		}
	}
	return nil
}

// accepting returns the rules of a chain, and of those it leads to, that let
// something pass.
func (s ruleset) accepting(base ruleChain) []rule {
	var rules []rule
	seen := map[string]bool{base.Name: true}
	for todo := []ruleChain{base}; len(todo) > 0; todo = todo[1:] {
		for _, r := range todo[0].rules {
			if r.verdict == "accept" {
				rules = append(rules, r)
			}
			if r.jump != "" && !seen[r.jump] {
				seen[r.jump] = true
				if next := s.find(base.Family, base.Table, r.jump); next != nil {
					todo = append(todo, *next)
				}
			}
		}
	}
	return rules
}

// firewalls returns one for each table that keeps something out, other than
// ufw's if that is known to be on.
func (s ruleset) firewalls(t Traffic, ufw bool) []Firewall {
	var found []Firewall
	for _, c := range s.chains {
		iptables := (c.Family == "ip" || c.Family == "ip6") && c.Table == "filter"
		if !c.guards() || !c.closed() || ufw && iptables {
			continue
		}
		f := Firewall{Name: fmt.Sprintf("nftables table %s %s", c.Family, c.Table), Passing: true}
		write := ruleCommands{prefix: fmt.Sprintf("nft insert rule %s %s %s", c.Family, c.Table, c.Name)}
		if iptables {
			f.Name = c.Family + "tables"
			chain := c.Name
			if c.Hook == "forward" && s.find(c.Family, c.Table, dockerChain) != nil {
				f.Name, chain = "Docker's "+f.Name, dockerChain
			}
			write = ruleCommands{prefix: fmt.Sprintf("%stables -I %s", c.Family, chain), iptables: true}
		}
		f.Commands = write.missing(c, s.accepting(c), t)
		if i := slices.IndexFunc(found, func(other Firewall) bool { return other.Name == f.Name }); i >= 0 {
			found[i].Commands = append(found[i].Commands, f.Commands...)
		} else {
			found = append(found, f)
		}
	}
	return found
}

// dockerChain is where Docker, which has the machine forward nothing but its own
// containers' packets, leaves room for rules.
const dockerChain = "DOCKER-USER"

// ruleCommands writes commands that put a rule at the beginning of a chain.
type ruleCommands struct {
	prefix   string
	iptables bool
}

func (n ruleCommands) port(p FirewallPort) string {
	if n.iptables {
		return fmt.Sprintf("%s -p %s --dport %d -j ACCEPT", n.prefix, p.Protocol, p.Number)
	}
	return fmt.Sprintf("%s %s dport %d accept", n.prefix, p.Protocol, p.Number)
}

// pods takes saddr or daddr.
func (n ruleCommands) pods(field string, pods netip.Prefix) string {
	if n.iptables {
		return fmt.Sprintf("%s -%c %s -j ACCEPT", n.prefix, field[0], pods)
	}
	return fmt.Sprintf("%s %s %s %s accept", n.prefix, familyOf(pods), field, pods)
}

// familyOf is how nft calls the IP family of a range.
func familyOf(p netip.Prefix) string {
	if p.Addr().Is6() {
		return "ip6"
	}
	return "ip"
}

// missing returns the commands for what none of the accepting rules lets pass a
// chain.
func (n ruleCommands) missing(c ruleChain, accepting []rule, t Traffic) []string {
	var commands []string
	ipv6 := slices.ContainsFunc(t.Pods, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if c.Hook == "input" && (c.Family != "ip6" || ipv6) {
		for _, p := range t.Ports {
			if !slices.ContainsFunc(accepting, func(r rule) bool { return r.letsPort(p, t) }) {
				commands = append(commands, n.port(p))
			}
		}
	}
	for _, pods := range t.Pods {
		if c.Family != "inet" && c.Family != familyOf(pods) {
			continue
		}
		if !slices.ContainsFunc(accepting, func(r rule) bool { return r.letsPods("saddr", "iifname", pods) }) {
			commands = append(commands, n.pods("saddr", pods))
		}
		if c.Hook == "forward" && !slices.ContainsFunc(accepting, func(r rule) bool { return r.letsPods("daddr", "oifname", pods) }) {
			commands = append(commands, n.pods("daddr", pods))
		}
	}
	return commands
}

// letsPort says whether an accepting rule lets a port pass: by its number, for
// whomever the administrator means it, or with everything else from the nodes.
func (r rule) letsPort(p FirewallPort, t Traffic) bool {
	ports := slices.Concat(r.matches[p.Protocol+" dport"], r.matches["th dport"])
	if slices.ContainsFunc(ports, func(s string) bool { return inRange(s, "-", p.Number) }) {
		return true
	}
	return len(r.matches) == 1 && slices.ContainsFunc(slices.Concat(r.matches["ip saddr"], r.matches["ip6 saddr"]), func(s string) bool {
		from, ok := parsePrefix(s)
		return ok && t.nodesIn(from)
	})
}

// letsPods says whether an accepting rule lets everything of the pods pass, by
// their range or by the interface they are behind.
func (r rule) letsPods(field, device string, pods netip.Prefix) bool {
	if len(r.matches) != 1 {
		return false
	}
	return slices.Contains(r.matches[device], bridge) ||
		slices.ContainsFunc(r.matches[familyOf(pods)+" "+field], func(s string) bool {
			p, ok := parsePrefix(s)
			return ok && covers(p, pods)
		})
}
