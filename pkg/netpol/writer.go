package netpol

import (
	"maps"
	"slices"

	"sigs.k8s.io/knftables"
)

// TableName is the name of Kedge's table; its family is inet.
const TableName = "kedge-netpol"

// commentLimit is what nftables takes.
const commentLimit = 127

// recreate makes the table, in place of one of the same name.
func recreate(tx *knftables.Transaction, to *ruleset) {
	// To delete a table that isn't there is an error, to add one that is not.
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	rebuild(tx, to, nil)
}

// rebuild writes everything that the table holds, given the names of what it
// has, by their kinds. The chains through which packets come stay the same:
// where one is deleted and another made, a packet may come through neither.
func rebuild(tx *knftables.Transaction, to *ruleset, existing map[string][]string) {
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("Kedge: NetworkPolicies of this node's pods")})
	addSets(tx, &ruleset{}, to)
	for _, name := range existing["set"] {
		tx.Flush(&knftables.Set{Name: name})
	}
	for _, name := range existing["map"] {
		tx.Flush(&knftables.Map{Name: name})
	}
	for _, name := range sorted(to.chains) {
		addChain(tx, name, to.chains[name])
	}
	for _, name := range existing["chain"] {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range sorted(to.chains) {
		addRules(tx, name, to.chains[name])
	}
	updateElements(tx, &ruleset{}, to)
	for _, name := range existing["chain"] {
		if _, stays := to.chains[name]; !stays {
			tx.Delete(&knftables.Chain{Name: name})
		}
	}
	for _, name := range existing["set"] {
		if _, stays := to.sets[name]; !stays {
			tx.Delete(&knftables.Set{Name: name})
		}
	}
	for _, name := range existing["map"] {
		if _, stays := to.sets[name]; !stays {
			tx.Delete(&knftables.Map{Name: name})
		}
	}
}

// update writes the differences between two rulesets, and the changed elements
// of those sets of peers that are in both. It first makes what others refer to,
// and removes last what others referred to.
func update(tx *knftables.Transaction, from, to *ruleset, changes map[change]bool) {
	if from == to { // as after changes of other nodes' pods
		updateMembers(tx, from, to, changes)
		return
	}
	addSets(tx, from, to)
	updateChains(tx, from, to)
	updateElements(tx, from, to)
	updateMembers(tx, from, to, changes)
	removeChains(tx, from, to)
	removeSets(tx, from, to)
}

func addSets(tx *knftables.Transaction, from, to *ruleset) {
	for _, name := range sorted(to.sets) {
		if _, exists := from.sets[name]; exists {
			continue
		}
		s := to.sets[name]
		var comment *string
		if s.comment != "" {
			comment = knftables.PtrTo(s.comment[:min(len(s.comment), commentLimit)])
		}
		if s.verdicts {
			tx.Add(&knftables.Map{Name: name, Type: s.keyType + " : verdict", Comment: comment})
		} else {
			tx.Add(&knftables.Set{Name: name, Type: s.keyType, Comment: comment})
		}
	}
}

func updateChains(tx *knftables.Transaction, from, to *ruleset) {
	var changed []string
	for _, name := range sorted(to.chains) {
		before, exists := from.chains[name]
		if exists && slices.Equal(before.rules, to.chains[name].rules) {
			continue
		}
		changed = append(changed, name)
		if exists {
			tx.Flush(&knftables.Chain{Name: name})
		} else {
			addChain(tx, name, to.chains[name])
		}
	}
	for _, name := range changed {
		addRules(tx, name, to.chains[name])
	}
}

func addChain(tx *knftables.Transaction, name string, c chain) {
	added := &knftables.Chain{Name: name}
	if c.hook != "" {
		added.Type = knftables.PtrTo(knftables.FilterType)
		added.Hook = knftables.PtrTo(c.hook)
		added.Priority = knftables.PtrTo(knftables.FilterPriority)
		added.Policy = knftables.PtrTo(knftables.AcceptPolicy)
	}
	tx.Add(added)
}

func addRules(tx *knftables.Transaction, name string, c chain) {
	for _, rule := range c.rules {
		tx.Add(&knftables.Rule{Chain: name, Rule: rule})
	}
}

func updateElements(tx *knftables.Transaction, from, to *ruleset) {
	for _, name := range sorted(to.sets) {
		before, s := from.sets[name], to.sets[name]
		// An element that is to have another verdict is removed and added.
		for element, verdict := range before.elements {
			if now, still := s.elements[element]; !still || now != verdict {
				tx.Delete(newElement(name, s, element, ""))
			}
		}
		for element, verdict := range s.elements {
			if was, already := before.elements[element]; !already || was != verdict {
				tx.Add(newElement(name, s, element, verdict))
			}
		}
		if _, exists := from.sets[name]; !exists && s.members != nil {
			for element := range s.members {
				tx.Add(newElement(name, s, element, ""))
			}
		}
	}
}

func updateMembers(tx *knftables.Transaction, from, to *ruleset, changes map[change]bool) {
	for ch, added := range changes {
		_, was := from.sets[ch.set]
		s, is := to.sets[ch.set]
		switch {
		case !was || !is: // the set is new and complete, or goes
		case added:
			tx.Add(newElement(ch.set, s, ch.element, ""))
		default:
			tx.Delete(newElement(ch.set, s, ch.element, ""))
		}
	}
}

func newElement(name string, s set, element, verdict string) *knftables.Element {
	e := &knftables.Element{Key: []string{element}}
	if !s.verdicts {
		e.Set = name
		return e
	}
	e.Map = name
	if verdict != "" {
		e.Value = []string{verdict}
	}
	return e
}

func removeChains(tx *knftables.Transaction, from, to *ruleset) {
	var gone []string
	for _, name := range sorted(from.chains) {
		if _, stays := to.chains[name]; !stays {
			gone = append(gone, name)
			tx.Flush(&knftables.Chain{Name: name}) // they may refer to each other
		}
	}
	for _, name := range gone {
		tx.Delete(&knftables.Chain{Name: name})
	}
}

func removeSets(tx *knftables.Transaction, from, to *ruleset) {
	for _, name := range sorted(from.sets) {
		if _, stays := to.sets[name]; !stays {
			tx.Delete(&knftables.Set{Name: name})
		}
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
