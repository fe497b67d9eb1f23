package netpol

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// family is a version of IP. Sets and chains are of one family.
type family int

const (
	ip4 family = iota
	ip6
)

var families = [...]family{ip4, ip6}

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return ip4
	}
	return ip6
}

func (f family) String() string { return [...]string{"ip4", "ip6"}[f] }

// protocol is the family as nft calls it in matches.
func (f family) protocol() string { return [...]string{"ip", "ip6"}[f] }

// addrType is the type of the family's addresses in sets.
func (f family) addrType() string { return [...]string{"ipv4_addr", "ipv6_addr"}[f] }

// addrRange is a range of addresses of one family, both ends included.
type addrRange struct{ first, last netip.Addr }

func rangeOf(prefix netip.Prefix) addrRange {
	bytes := prefix.Masked().Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return addrRange{prefix.Masked().Addr(), last}
}

// all says whether the range is the whole family.
func (r addrRange) all() bool {
	return r.first.IsUnspecified() && !r.last.Next().IsValid()
}

func (r addrRange) String() string {
	if r.first == r.last {
		return r.first.String()
	}
	return r.first.String() + "-" + r.last.String()
}

// without takes other ranges of the family out of the range.
func (r addrRange) without(others []addrRange) []addrRange {
	var left []addrRange
	for _, other := range union(others) {
		if other.last.Less(r.first) || r.last.Less(other.first) {
			continue
		}
		if r.first.Less(other.first) {
			left = append(left, addrRange{r.first, other.first.Prev()})
		}
		if !other.last.Less(r.last) {
			return left
		}
		r.first = other.last.Next()
	}
	return append(left, r)
}

// union is the same addresses in as few ranges as possible, in order: nft
// refuses sets whose ranges overlap.
func union(ranges []addrRange) []addrRange {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b addrRange) int { return a.first.Compare(b.first) })
	var merged []addrRange
	for _, r := range sorted {
		end := len(merged) - 1
		if end < 0 || merged[end].last.Less(r.first) && merged[end].last.Next() != r.first {
			merged = append(merged, r)
		} else if merged[end].last.Less(r.last) {
			merged[end].last = r.last
		}
	}
	return merged
}

// portRange is a range of ports, both ends included.
type portRange struct{ first, last uint16 }

var allPorts = portRange{0, 1<<16 - 1}

func (r portRange) String() string {
	if r.first == r.last {
		return fmt.Sprint(r.first)
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

// unionPorts is what union is, for ports.
func unionPorts(ranges []portRange) []portRange {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	var merged []portRange
	for _, r := range sorted {
		end := len(merged) - 1
		if end < 0 || int(merged[end].last)+1 < int(r.first) {
			merged = append(merged, r)
		} else {
			merged[end].last = max(merged[end].last, r.last)
		}
	}
	return merged
}

// anyOf writes what a match compares with.
func anyOf[T fmt.Stringer](ranges []T) string {
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = r.String()
	}
	if len(texts) == 1 {
		return texts[0]
	}
	return "{ " + strings.Join(texts, ", ") + " }"
}
