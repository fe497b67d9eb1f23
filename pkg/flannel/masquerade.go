package flannel

import (
	"context"
	"fmt"
	"net/netip"

	"sigs.k8s.io/knftables"
)

// tableName is of one table for each IP family: rules for all pods, instead of
// some for each.
const tableName = "kedge-masquerade"

// masquerade installs the tables. It may be called again and again.
func (c Config) masquerade(ctx context.Context) error {
	for _, cidr := range c.ClusterCIDRs {
		nft, err := table(cidr)
		if err != nil {
			return err
		}
		tx := nft.NewTransaction()
		tx.Add(&knftables.Table{Comment: knftables.PtrTo("Kedge: pods reach the outside with the node's address")})
		chain := &knftables.Chain{
			Name:     "postrouting",
			Type:     knftables.PtrTo(knftables.NATType),
			Hook:     knftables.PtrTo(knftables.PostroutingHook),
			Priority: knftables.PtrTo(knftables.SNATPriority),
		}
		tx.Add(chain)
		tx.Flush(&knftables.Chain{Name: chain.Name})
		for _, rule := range masqueradeRules(cidr, c.IPv6Masq) {
			tx.Add(&knftables.Rule{Chain: chain.Name, Rule: rule})
		}
		if err := nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("nftables table %s: %w", tableName, err)
		}
	}
	return nil
}

func masqueradeRules(cidr netip.Prefix, ipv6Masq bool) (rules []string) {
	word, multicast := "ip", "224.0.0.0/4"
	if cidr.Addr().Is6() {
		word, multicast = "ip6", "ff00::/8"
	}
	if cidr.Addr().Is4() || ipv6Masq {
		rules = append(rules, knftables.Concat(
			word, "saddr", cidr.String(), word, "daddr", "!=", "{", cidr.String(), ",", multicast, "}", "masquerade fully-random"))
	}
	// What is not from a pod and goes through a tunnel gets the tunnel's
	// address. The answer would go past the tunnel otherwise, and strict
	// reverse-path filters drop that.
	return append(rules, knftables.Concat(word, "saddr", "!=", cidr.String(), "oifname", `"flannel*"`, "masquerade fully-random"))
}

// removeTables removes the tables, whether they are there or not.
func removeTables(ctx context.Context) error {
	for _, family := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		nft, err := table(family)
		if err != nil {
			return err
		}
		tx := nft.NewTransaction()
		tx.Add(&knftables.Table{})
		tx.Delete(&knftables.Table{})
		if err := nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("remove nftables table %s: %w", tableName, err)
		}
	}
	return nil
}

func table(cidr netip.Prefix) (knftables.Interface, error) {
	family := knftables.IPv4Family
	if cidr.Addr().Is6() {
		family = knftables.IPv6Family
	}
	nft, err := knftables.New(family, tableName)
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return nft, nil
}
