package history

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// EventKind is what a watch was told.
type EventKind int

// What watches are told.
const (
	Added EventKind = iota
	Modified
	Deleted
	Bookmark
	listed
)

func (k EventKind) String() string {
	return [...]string{"added", "modified", "deleted", "bookmark", "listed"}[k]
}

// Object is what a list has of a key.
type Object struct {
	Value   string
	Version uint64
}

// entry is an event, or a list with which the watch began anew.
type entry struct {
	at      time.Duration
	kind    EventKind
	key     string
	value   string // of a deleted key: its last one
	version uint64
	objects map[string]Object
}

func (e entry) String() string {
	return fmt.Sprintf("%s %s %s (version %d, at %.4f s)", e.kind, e.key, e.value, e.version, e.at.Seconds())
}

// Watch is what one watcher was told. It goes on where it was when its connection
// ends; if the server does not know any more what happened since, it begins anew
// with a list. Its methods may be called at any time.
type Watch struct {
	Name string

	mu      sync.Mutex
	entries []entry
}

// List records that the watch begins with a list, of a resource version.
func (w *Watch) List(at time.Duration, version uint64, objects map[string]Object) {
	w.add(entry{at: at, kind: listed, version: version, objects: objects})
}

// Event records an event. A bookmark has no key.
func (w *Watch) Event(at time.Duration, kind EventKind, key, value string, version uint64) {
	w.add(entry{at: at, kind: kind, key: key, value: value, version: version})
}

func (w *Watch) add(e entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries = append(w.entries, e)
}

// Version is the last that the watch was told, from which it goes on; 0 if it has
// not begun.
func (w *Watch) Version() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.entries) == 0 {
		return 0
	}
	return w.entries[len(w.entries)-1].version
}

// Forget takes back what was told since a time, as History's does.
func (w *Watch) Forget(since time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries = slices.DeleteFunc(w.entries, func(e entry) bool { return e.at >= since })
}

// check looks whether the events go together with each other and with what has
// happened:
//
//   - Versions only rise.
//   - Each event of a key follows directly on the one before: an update replaces
//     the value that its client expected, nothing is created that is there.
//   - Each acknowledged write has an event, unless it fell into a time that a list
//     has covered.
func (w *Watch) check(known []Operation) (events, anew int, faults []Fault) {
	fault := func(key, format string, args ...any) {
		faults = append(faults, Fault{key, "watch of " + w.Name + ": " + fmt.Sprintf(format, args...)})
	}
	writes := map[string]Operation{}
	for _, o := range known {
		if o.Outcome != Refused && (o.Kind == Create || o.Kind == Update) {
			writes[o.Value] = o
		}
	}
	told := map[string]bool{}    // values
	state := map[string]Object{} // of each key
	var missed [][2]uint64       // versions that no event was sent of: above, up to
	var last entry
	for i, e := range w.entries {
		if i > 0 && (e.version < last.version || e.version == last.version && e.kind < Bookmark) {
			fault(e.key, "%s came after %s", e, last)
		}
		if e.kind == listed {
			if i > 0 {
				anew++
			}
			missed = append(missed, [2]uint64{last.version, e.version})
			for key, object := range e.objects {
				if before := state[key]; object.Version < before.Version {
					fault(key, "%s, and the list at version %d has the older %s of version %d", before.Value, e.version, object.Value, object.Version)
				}
			}
			state = maps.Clone(e.objects)
			if state == nil {
				state = map[string]Object{}
			}
		} else if e.kind != Bookmark {
			events++
			before, write := state[e.key], writes[e.value]
			switch {
			case write.Key != e.key:
				fault(e.key, "%s, which nobody wrote", e)
			case e.kind == Added && (before.Value != "" || write.Kind != Create),
				e.kind == Modified && (before.Value != write.Expect || write.Kind != Update),
				e.kind == Deleted && before.Value != e.value:
				fault(e.key, "%s came after %s, not after %s", e, orNothing(before.Value), orNothing(follows(e, write)))
			}
			told[e.value] = true
			state[e.key] = Object{e.value, e.version}
			if e.kind == Deleted {
				delete(state, e.key)
			}
		}
		last = e
	}
	for _, o := range known {
		covered := slices.ContainsFunc(missed, func(gap [2]uint64) bool { return o.Version > gap[0] && o.Version <= gap[1] })
		if o.written() && o.Version <= last.version && !told[o.Value] && !covered {
			fault(o.Key, "no event of an acknowledged write: %s", o.line())
		}
	}
	return events, anew, faults
}

// follows is the value that an event comes after.
func follows(e entry, write Operation) string {
	if e.kind == Deleted {
		return e.value
	}
	return write.Expect
}
