package history

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// step makes an operation on the key k, whose versions are 10 times the numbers
// in the values v1, v2, ….
func step(kind Kind, expect, value string, outcome Outcome, begin, end int) Operation {
	o := Operation{
		Kind: kind, Key: "k", Value: value, Expect: expect, Outcome: outcome,
		Begin: time.Duration(begin) * time.Millisecond, End: time.Duration(end) * time.Millisecond,
	}
	if outcome == Done && value != "" {
		o.Version = version(value)
	}
	return o
}

func version(value string) uint64 { return 10 * uint64(value[1]-'0') }

func create(value string, outcome Outcome, begin, end int) Operation {
	return step(Create, "", value, outcome, begin, end)
}

func update(expect, value string, outcome Outcome, begin, end int) Operation {
	return step(Update, expect, value, outcome, begin, end)
}

func remove(expect string, outcome Outcome, begin, end int) Operation {
	return step(Delete, expect, "", outcome, begin, end)
}

func read(value string, begin, end int) Operation { return step(Read, "", value, Done, begin, end) }

func among(faults []Fault, text string) bool {
	return slices.ContainsFunc(faults, func(f Fault) bool { return strings.Contains(f.What, text) })
}

func TestOperations(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		operations []Operation
		want       string // in the only fault, empty: there is none
		lost       int
	}{
		{"one after the other", []Operation{
			create("v1", Done, 0, 1), read("v1", 2, 3), update("v1", "v2", Done, 4, 5), remove("v2", Done, 6, 7), read("", 8, 9),
		}, "", 0},
		{"a lost write", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Done, 2, 3), read("v1", 4, 5),
		}, "not linearizable", 1},
		{"a lost write and its successor", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Done, 2, 3), update("v2", "v3", Done, 4, 5), read("v1", 6, 7), update("v1", "v4", Done, 8, 9), read("v4", 10, 11),
		}, "not linearizable", 2},
		{"a lost object", []Operation{create("v1", Done, 0, 1), read("", 2, 3)}, "not linearizable", 1},
		{"a delete that is undone", []Operation{create("v1", Done, 0, 1), remove("v1", Done, 2, 3), read("v1", 4, 5)}, "not linearizable", 0},
		{"a stale read", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Done, 2, 3), read("v1", 4, 5), read("v2", 6, 7),
		}, "not linearizable", 0},
		{"a read of either, while it is written", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Done, 2, 9), read("v2", 3, 4), read("v2", 5, 6), read("v2", 10, 11),
		}, "", 0},
		{"a read of the new one, then of the old one", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Done, 2, 9), read("v2", 3, 4), read("v1", 5, 6), read("v2", 10, 11),
		}, "not linearizable", 0},
		{"two updates of one value", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Done, 2, 5), update("v1", "v3", Done, 2, 5), read("v3", 6, 7),
		}, "not linearizable", 1},
		{"refused rightly", []Operation{
			create("v1", Done, 0, 1), create("v2", Refused, 2, 3), update("v1", "v3", Done, 4, 5), update("v1", "v4", Refused, 6, 7), remove("v1", Refused, 8, 9), read("v3", 10, 11),
		}, "", 0},
		{"refused without a reason", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Refused, 2, 3), read("v1", 4, 5),
		}, "not linearizable", 0},
		{"a value that was never written", []Operation{create("v1", Done, 0, 1), read("v9", 2, 3)}, "not linearizable", 1},
		{"unknown and happened", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Unknown, 2, 0), read("v1", 3, 4), update("v1", "v3", Refused, 5, 8), read("v2", 9, 10),
		}, "", 0},
		{"unknown and not happened", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Unknown, 2, 0), read("v1", 3, 4), update("v1", "v3", Done, 5, 8), read("v3", 9, 10),
		}, "", 0},
		{"unknown, happened, and gone again", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Unknown, 2, 0), read("v2", 3, 4), read("v1", 5, 6),
		}, "not linearizable", 0},
		{"unknown, and another one refused for it", []Operation{
			create("v1", Done, 0, 1), update("v1", "v2", Unknown, 2, 0), update("v1", "v3", Refused, 3, 4), read("v1", 5, 6),
		}, "not linearizable", 0},
		{"unknown deletes", []Operation{
			create("v1", Done, 0, 1), remove("v1", Unknown, 2, 0), remove("v1", Unknown, 3, 0), create("v2", Done, 4, 5), remove("v2", Unknown, 6, 0), read("v2", 7, 8),
		}, "", 0},
		{"no last read", []Operation{create("v1", Done, 0, 1)}, "does not end with a read", 0},
		{"a last read that is too early", []Operation{create("v1", Done, 0, 3), read("v1", 1, 4)}, "began before", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := Check(test.operations, nil, dir)
			if len(r.Lost) != test.lost {
				t.Errorf("%d writes are lost, want %d: %v", len(r.Lost), test.lost, r.Lost)
			}
			if test.want == "" && len(r.Faults) != 0 || test.want != "" && (len(r.Faults) != 1+test.lost || !strings.Contains(r.Faults[0].String(), "k: ") || !strings.Contains(r.Faults[0].String(), test.want)) {
				t.Errorf("the faults are %v, want %q", r.Faults, test.want)
			}
			if test.want != "not linearizable" {
				return
			}
			for _, file := range []string{"k.txt", "k.html"} {
				content, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil || !strings.Contains(string(content), "v1") || !strings.Contains(r.Faults[0].What, file) {
					t.Errorf("%s: %v; it holds %.80q, and the fault says %s", file, err, content, r.Faults[0].What)
				}
			}
		})
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	other := read("v1", 4, 5)
	other.Version = 15
	same := update("v1", "v2", Done, 4, 5)
	same.Version = 10
	back := update("v1", "v2", Done, 4, 5)
	back.Version = 5
	last := read("v2", 6, 7)
	last.Version = 0
	for name, test := range map[string]struct {
		operations []Operation
		want       string
	}{
		"two versions of a value": {[]Operation{create("v1", Done, 0, 1), other}, "v1 was seen with version 10 and with version 15"},
		"two values of a version": {[]Operation{create("v1", Done, 0, 1), same, last}, "version 10 was seen of v1 and of v2"},
		"a version that falls":    {[]Operation{create("v1", Done, 0, 1), back, last}, "not linearizable"},
	} {
		if r := Check(test.operations, nil, t.TempDir()); !among(r.Faults, test.want) {
			t.Errorf("%s: the faults are %v, want %q", name, r.Faults, test.want)
		}
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	h := New()
	w := &Watch{}
	h.Add(create("v1", Done, 0, 1), update("v1", "v2", Done, 2, 6), read("v2", 5, 7), update("v1", "v3", Refused, 5, 8))
	w.List(0, 0, nil)
	w.Event(1*time.Millisecond, Added, "k", "v1", 10)
	w.Event(6*time.Millisecond, Modified, "k", "v2", 20)
	h.Forget(6 * time.Millisecond)
	w.Forget(6 * time.Millisecond)
	if w.Version() != 10 {
		t.Errorf("the watch goes on from version %d", w.Version())
	}
	h.Add(update("v1", "v4", Done, 10, 11), read("v4", 12, 13))
	w.Event(11*time.Millisecond, Modified, "k", "v4", 40)
	r := Check(h.Operations(), []*Watch{w}, t.TempDir())
	if len(r.Faults) != 0 || r.Acknowledged != 2 || r.Unknown != 1 || r.Operations != 4 || r.Events != 2 {
		t.Errorf("got %+v", r)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	operations := []Operation{
		create("v1", Done, 0, 1), update("v1", "v2", Done, 2, 3), update("v2", "v3", Unknown, 4, 0), update("v3", "v4", Done, 6, 7),
		remove("v4", Done, 8, 9), create("v6", Done, 10, 11), read("v6", 12, 13),
	}
	at := func(value string) map[string]Object { return map[string]Object{"k": {value, version(value)}} }
	type step struct {
		kind  EventKind
		value string
		list  map[string]Object
		at    uint64
	}
	event := func(kind EventKind, value string) step { return step{kind: kind, value: value, at: version(value)} }
	list := func(version uint64, objects map[string]Object) step {
		return step{kind: listed, list: objects, at: version}
	}
	deleted := step{kind: Deleted, value: "v4", at: 50}
	begin := list(1, nil)
	for _, test := range []struct {
		name  string
		steps []step
		want  string // in a fault, empty: there is none
	}{
		{"complete", []step{begin, event(Added, "v1"), event(Modified, "v2"), event(Modified, "v3"), event(Modified, "v4"), deleted, event(Added, "v6")}, ""},
		{"bookmarks", []step{begin, event(Added, "v1"), {kind: Bookmark, at: 10}, {kind: Bookmark, at: 12}, event(Modified, "v2")}, ""},
		{"begun in the middle", []step{list(20, at("v2")), event(Modified, "v3"), event(Modified, "v4"), deleted}, ""},
		{"anew with a gap", []step{begin, event(Added, "v1"), list(30, at("v3")), event(Modified, "v4"), deleted, list(60, at("v6"))}, ""},
		{"still there", []step{begin, event(Added, "v1"), event(Modified, "v2"), event(Modified, "v3"), event(Modified, "v4"), event(Added, "v6")}, "v6 (version 60, at 0.0000 s) came after v4, not after nothing"},
		{"a gap", []step{begin, event(Added, "v1"), event(Modified, "v3")}, "v3 (version 30, at 0.0000 s) came after v1, not after v2"},
		{"a gap at the end", []step{begin, event(Added, "v1"), {kind: Bookmark, at: 20}}, "no event of an acknowledged write"},
		{"out of order", []step{begin, event(Added, "v1"), event(Modified, "v3"), event(Modified, "v2")}, "came after"},
		{"twice", []step{begin, event(Added, "v1"), event(Modified, "v2"), event(Modified, "v2")}, "came after"},
		{"after its bookmark", []step{begin, {kind: Bookmark, at: 10}, event(Added, "v1")}, "came after bookmark"},
		{"another content", []step{begin, event(Added, "v1"), {kind: Modified, value: "v2", at: 25}}, "v2 was seen with version 20 and with version 25"},
		{"an unwritten value", []step{begin, event(Added, "v9")}, "which nobody wrote"},
		{"deleted too early", []step{begin, event(Added, "v1"), {kind: Deleted, value: "v4", at: 50}}, "came after v1"},
		{"a list of the past", []step{begin, event(Added, "v1"), event(Modified, "v2"), list(20, at("v1"))}, "the older v1"},
		{"a list of an older version", []step{begin, event(Added, "v1"), event(Modified, "v2"), list(19, at("v2"))}, "came after"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := &Watch{Name: "server"}
			for _, s := range test.steps {
				if s.kind == listed {
					w.List(0, s.at, s.list)
					continue
				}
				key := "k"
				if s.kind == Bookmark {
					key = ""
				}
				w.Event(0, s.kind, key, s.value, s.at)
			}
			r := Check(operations, []*Watch{w}, t.TempDir())
			if test.want == "" && len(r.Faults) > 0 || test.want != "" && !among(r.Faults, test.want) {
				t.Errorf("the faults are %v, want %q", r.Faults, test.want)
			}
		})
	}
}
