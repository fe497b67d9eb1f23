package addon

import (
	"fmt"
	"strings"
	"testing"
)

func refs(names string) []Ref {
	var all []Ref
	for name := range strings.FieldsSeq(names) {
		all = append(all, Ref{APIVersion: "v1", Kind: "ConfigMap", Name: name})
	}
	return all
}

func names(refs []Ref) string {
	var all []string
	for _, ref := range refs {
		all = append(all, ref.Name)
	}
	return strings.Join(all, " ")
}

func TestPlan(t *testing.T) {
	t.Parallel()
	// A file is the names of its objects; "!" is a broken one, "-" a skipped one,
	// "~" one that is being written, and one that begins with "*" is packaged.
	for _, test := range []struct {
		name    string
		files   map[string]string
		held    map[string]string
		partial bool
		prune   map[string]string
		rest    map[string]string
		taken   map[string]string
	}{
		{name: "new", files: map[string]string{"a": "x y"}},
		{name: "as it was", files: map[string]string{"a": "x y"}, held: map[string]string{"a": "x y"}, rest: map[string]string{"a": "x y"}},
		{name: "an object is gone, the last goes first", files: map[string]string{"a": "x"}, held: map[string]string{"a": "x y z"},
			prune: map[string]string{"a": "z y"}, rest: map[string]string{"a": "x"}},
		{name: "a file is gone", held: map[string]string{"a": "x y"}, prune: map[string]string{"a": "y x"}},
		{name: "a file is gone, perhaps", held: map[string]string{"a": "x"}, partial: true, rest: map[string]string{"a": "x"}},
		{name: "broken", files: map[string]string{"a": "!"}, held: map[string]string{"a": "x"}, rest: map[string]string{"a": "x"}},
		{name: "skipped", files: map[string]string{"a": "-"}, held: map[string]string{"a": "x"}, rest: map[string]string{"a": "x"}},
		{name: "being written", files: map[string]string{"a": "~"}, held: map[string]string{"a": "x"}, rest: map[string]string{"a": "x"}},
		{name: "moved", files: map[string]string{"a": "y", "b": "x"}, held: map[string]string{"a": "x y"}, rest: map[string]string{"a": "y"}},
		{name: "renamed file", files: map[string]string{"b": "x y"}, held: map[string]string{"a": "x y"}},
		{name: "moved out of a skipped file", files: map[string]string{"a": "-", "b": "x"}, held: map[string]string{"a": "x y"}, rest: map[string]string{"a": "y"}},
		{name: "in two files", files: map[string]string{"a": "x", "b": "x"}, taken: map[string]string{"b": "x"}},
		{name: "in two files, one has it", files: map[string]string{"a": "x", "b": "x"}, held: map[string]string{"b": "x"},
			taken: map[string]string{"a": "x"}, rest: map[string]string{"b": "x"}},
		{name: "in a packaged file, too", files: map[string]string{"a": "x", "b": "*x"}, held: map[string]string{"a": "x"},
			taken: map[string]string{"a": "x"}},
		{name: "in two files, one is broken", files: map[string]string{"a": "!", "b": "x"}, held: map[string]string{"a": "x"}},
		{name: "in two files no longer", files: map[string]string{"b": "x"}, held: map[string]string{"a": "x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			now := tree{files: map[string]*file{}}
			if test.partial {
				now.partial = errBusy
			}
			for name, text := range test.files {
				objects, packaged := strings.CutPrefix(text, "*")
				f := &file{path: name + ".yaml", packaged: packaged, skipped: text == "-", pending: text == "~"}
				if text == "!" {
					f.err = errBusy
				} else if f.active() {
					f.refs = refs(objects)
				}
				now.files[name] = f
			}
			s := state{addons: map[string]*Addon{}}
			for name, held := range test.held {
				s.addons[name] = newAddon(name, name+".yaml")
				s.addons[name].hold(refs(held), 0)
			}
			s.setFiles(now)
			for _, name := range []string{"a", "b"} {
				p := s.plan(name)
				if got, want := names(p.prune), test.prune[name]; got != want {
					t.Errorf("%s prunes %q, want %q", name, got, want)
				}
				if got, want := names(p.rest), test.rest[name]; got != want {
					t.Errorf("the rest of %s is %q, want %q", name, got, want)
				}
				taken := ""
				for k := range p.taken {
					taken += k.name
				}
				if want := test.taken[name]; taken != want {
					t.Errorf("of %s is taken %q, want %q", name, taken, want)
				}
			}
		})
	}
}

// TestOtherServersFile wants objects to stay whose file lies on another server.
func TestOtherServersFile(t *testing.T) {
	t.Parallel()
	for server, want := range map[string]string{"": "", "this": "", "other": "x"} {
		a := newAddon("a", "a.yaml")
		a.Spec.Server = server
		a.Status.Objects = refs("x")
		s := state{server: "this", addons: map[string]*Addon{"a": a}}
		s.setFiles(tree{files: map[string]*file{}})
		p := s.plan("a")
		if got := names(p.rest); got != want || p.unclear != (want != "") {
			t.Errorf("of server %q: %q stays, want %q", server, got, want)
		}
	}
}

func TestSettled(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		change  func(*state)
		applied bool
		want    bool
	}{
		{"unchanged", func(*state) {}, false, true},
		{"changed content", func(s *state) { s.files["a"].checksum = "2" }, false, false},
		{"new", func(s *state) { delete(s.addons, "a") }, false, false},
		{"failed before", func(s *state) { s.addons["a"].setReady(reasonFailed, "") }, false, false},
		{"broken", func(s *state) { s.files["a"].err = errBusy }, false, false},
		{"packaged", func(s *state) { s.files["a"].packaged, s.addons["a"].Spec.Packaged = true, true }, false, false},
		{"packaged and applied", func(s *state) { s.files["a"].packaged, s.addons["a"].Spec.Packaged = true, true }, true, true},
		{"packaged no longer", func(s *state) { s.addons["a"].Spec.Packaged = true }, true, false},
		{"something to prune", func(s *state) { s.addons["a"].hold(refs("x y"), 2) }, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := state{addons: map[string]*Addon{"a": newAddon("a", "a.yaml")}}
			s.addons["a"].hold(refs("x"), 1)
			s.addons["a"].Status.Checksum = "1"
			s.addons["a"].setReady(reasonApplied, "")
			now := tree{files: map[string]*file{"a": {path: "a.yaml", checksum: "1", refs: refs("x")}}}
			s.setFiles(now)
			test.change(&s)
			if got := s.plan("a").settled(test.applied); got != test.want {
				t.Error(fmt.Sprint("settled is ", got))
			}
		})
	}
}
