package history

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Fault is something in a history that can't be.
type Fault struct {
	Key  string // empty if it is not about one key
	What string
}

func (f Fault) String() string {
	if f.Key == "" {
		return f.What
	}
	return f.Key + ": " + f.What
}

// Report is what a check has found.
type Report struct {
	Operations   int
	Acknowledged int // writes
	Unknown      int // writes without an answer that says what became of them
	Events       int // of watches
	Anew         int // watches that had to begin anew with a list
	Lost         []Operation
	Faults       []Fault
}

// checkLimit is how long the operations of one key may be looked at. It takes
// milliseconds, unless most of them are of an unknown outcome.
const checkLimit = time.Minute

// Check looks at operations and watches. The operations of each key must end with
// a read that began after all that was answered: it settles what became of writes
// of an unknown outcome. Where something is wrong, the key's history is written
// to the directory, readable and as porcupine's page.
func Check(operations []Operation, watches []*Watch, dir string) Report {
	r := Report{Operations: len(operations)}
	for _, o := range operations {
		switch {
		case o.Kind == Read:
		case o.Outcome == Done:
			r.Acknowledged++
		case o.Outcome == Unknown:
			r.Unknown++
		}
	}
	seen, unfit := versions(operations, watches)
	byKey := map[string][]Operation{}
	for _, o := range operations {
		byKey[o.Key] = append(byKey[o.Key], o)
	}
	var settled []Operation
	for _, key := range Keys(operations) {
		all := byKey[key]
		slices.SortStableFunc(all, func(a, b Operation) int { return cmp.Compare(a.Begin, b.Begin) })
		if what := unread(all); what != "" {
			r.Faults = append(r.Faults, Fault{key, what})
			continue
		}
		known := settle(all, seen)
		settled = append(settled, known...)
		r.Lost = append(r.Lost, lost(known)...)
		if what := linearize(known, seen, filepath.Join(dir, key)); what != "" {
			r.Faults = append(r.Faults, Fault{key, what})
		}
	}
	for _, o := range r.Lost {
		r.Faults = append(r.Faults, Fault{o.Key, "an acknowledged write is lost: " + o.line()})
	}
	for _, w := range watches {
		events, anew, faults := w.check(settled)
		r.Events += events
		r.Anew += anew
		r.Faults = append(r.Faults, faults...)
	}
	r.Faults = append(r.Faults, unfit...)
	return r
}

// versions finds the resource version of each value that was seen with one. A
// value has one version, and a version is of one value.
func versions(operations []Operation, watches []*Watch) (map[string]uint64, []Fault) {
	byValue, byVersion := map[string]uint64{}, map[uint64]string{}
	var faults []Fault
	see := func(key, value string, version uint64) {
		if value == "" || version == 0 {
			return
		}
		if other, ok := byValue[value]; ok && other != version {
			faults = append(faults, Fault{key, fmt.Sprintf("%s was seen with version %d and with version %d", value, other, version)})
		}
		if other, ok := byVersion[version]; ok && other != value {
			faults = append(faults, Fault{key, fmt.Sprintf("version %d was seen of %s and of %s", version, other, value)})
		}
		byValue[value], byVersion[version] = version, value
	}
	for _, o := range operations {
		if o.Outcome == Done {
			see(o.Key, o.Value, o.Version)
		}
	}
	for _, w := range watches {
		for _, e := range w.entries {
			for key, object := range e.objects {
				see(key, object.Value, object.Version)
			}
			if e.kind != Deleted { // which has a version of its own
				see(e.key, e.value, e.version)
			}
		}
	}
	return byValue, faults
}

// unread says what is wrong if the operations of a key don't end with a read that
// began after all answers.
func unread(operations []Operation) string {
	last := operations[len(operations)-1]
	if last.Kind != Read || last.Outcome != Done {
		return "the history does not end with a read, so that nothing can be said about it: " + last.line()
	}
	for _, o := range operations {
		if o.Kind != Read && o.Outcome != Unknown && o.End > last.Begin {
			return "the last read began before a write had ended: " + o.line()
		}
	}
	return ""
}

// settle decides what became of a key's writes of an unknown outcome, as far as
// that matters. What has happened is kept, and what has not is left out:
//
//   - A write whose value nobody has ever seen has not happened before the last
//     read: it would have shown, in that read or to whoever replaced it.
//   - A write whose value was seen has happened.
//   - A delete has not happened if its value was replaced, or deleted by one that
//     was acknowledged, or is there at the end. Of several that may have happened
//     one has: the first, whose time includes those of the others.
func settle(operations []Operation, seen map[string]uint64) []Operation {
	there, replaced := map[string]bool{}, map[string]bool{}
	for value := range seen {
		there[value] = true
	}
	for _, o := range operations {
		if o.Outcome == Done {
			there[o.Value], there[o.Expect] = true, true
		}
	}
	for _, o := range operations {
		if o.Outcome == Done && o.Kind == Delete || o.Kind == Update && there[o.Value] {
			replaced[o.Expect] = true
		}
	}
	replaced[operations[len(operations)-1].Value] = true
	known := make([]Operation, 0, len(operations))
	for _, o := range operations {
		if o.Outcome == Unknown {
			if o.Kind == Delete && replaced[o.Expect] || o.Kind != Delete && !there[o.Value] {
				continue
			}
			replaced[o.Expect] = true
		}
		known = append(known, o)
	}
	return known
}

// lost are the acknowledged writes that are neither part of what led to the last
// value nor of what was deleted later.
func lost(known []Operation) []Operation {
	writes := map[string]Operation{}
	ends := []string{known[len(known)-1].Value}
	for _, o := range known {
		switch {
		case o.Outcome == Refused:
		case o.Kind == Create || o.Kind == Update:
			writes[o.Value] = o
		case o.Kind == Delete:
			ends = append(ends, o.Expect)
		}
	}
	kept := map[string]bool{}
	for _, value := range ends {
		for value != "" && !kept[value] {
			kept[value] = true
			value = writes[value].Expect
		}
	}
	var lost []Operation
	for _, o := range known {
		if o.written() && !kept[o.Value] {
			lost = append(lost, o)
		}
	}
	return lost
}

// register is what a key holds.
type register struct {
	value   string // empty: it does not exist
	version uint64 // the highest it had, as far as known
}

// model is a register that changes only where its value is the expected one.
func model(seen map[string]uint64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return register{} },
		Step: func(state, input, _ any) (bool, any) {
			now, o := state.(register), input.(Operation)
			holds := now.value == o.Expect // nothing, of what is created
			switch {
			case o.Kind == Read:
				return now.value == o.Value, now
			case o.Outcome == Refused:
				return !holds, now
			case !holds:
				return false, now
			case o.Kind == Delete:
				return true, register{"", now.version}
			}
			version := seen[o.Value]
			if version != 0 && version <= now.version {
				return false, now
			}
			return true, register{o.Value, max(version, now.version)}
		},
		DescribeOperation: func(input, _ any) string { return input.(Operation).String() },
		DescribeState:     func(state any) string { return orNothing(state.(register).value) },
	}
}

// linearize looks for an order of a key's operations in which each has an answer
// that a single register would have given. If there is none, it says how far it
// came, and writes the history to files that begin with path.
func linearize(known []Operation, seen map[string]uint64, path string) string {
	var input []porcupine.Operation
	for _, o := range known {
		end := int64(o.End)
		if o.Outcome == Unknown {
			end = math.MaxInt64
		}
		input = append(input, porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Begin), Return: end})
	}
	m := model(seen)
	switch porcupine.CheckOperationsTimeout(m, input, checkLimit) {
	case porcupine.Ok:
		return ""
	case porcupine.Unknown:
		return fmt.Sprintf("no answer after %s whether the history is linearizable", checkLimit)
	}
	_, info := porcupine.CheckOperationsVerbose(m, input, checkLimit)
	var text strings.Builder
	text.WriteString("the history is not linearizable: no order of the operations explains all answers")
	far := longest(info)
	fmt.Fprintf(&text, "\n  the last of %d that can be explained, in their order:", len(far))
	for _, o := range far[max(0, len(far)-8):] {
		text.WriteString("\n    " + o.line())
	}
	text.WriteString("\n  the first of those that can't follow:")
	left := slices.DeleteFunc(slices.Clone(known), func(o Operation) bool { return slices.Contains(far, o) })
	for _, o := range left[:min(8, len(left))] {
		text.WriteString("\n    " + o.line())
	}
	var all strings.Builder
	for _, o := range known {
		fmt.Fprintln(&all, o.line())
	}
	if err := os.WriteFile(path+".txt", []byte(all.String()), 0o644); err != nil {
		fmt.Fprintf(&text, "\n  %v", err)
	}
	if err := porcupine.VisualizePath(m, info, path+".html"); err != nil {
		fmt.Fprintf(&text, "\n  %v", err)
	}
	fmt.Fprintf(&text, "\n  all of it is in %s.txt, and to look at in %s.html", path, path)
	return text.String()
}

// longest is the longest order that porcupine has found.
func longest(info porcupine.LinearizationInfo) []Operation {
	var far []Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, order := range partition {
			if len(order) <= len(far) {
				continue
			}
			far = far[:0]
			for _, o := range order {
				far = append(far, o.Input.(Operation))
			}
		}
	}
	return far
}
