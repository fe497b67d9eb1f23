package addon

import (
	"cmp"
	"slices"
)

// state is what is wanted, and what there is: the files, and the Addons that the
// cluster has, both by the Addons' names.
type state struct {
	files   map[string]*file
	addons  map[string]*Addon
	wanted  map[key][]string // names of the files' Addons that want an object
	partial bool             // there may be more files
	server  string           // this one of several servers; empty: the only one
}

// setFiles takes a new look at the directory over.
func (s *state) setFiles(t tree) {
	s.files, s.partial = t.files, t.partial != nil
	s.wanted = map[key][]string{}
	for name, f := range s.files {
		if !f.active() {
			continue
		}
		for k := range keys(f.refs) {
			s.wanted[k] = append(s.wanted[k], name)
		}
	}
}

// owner is the one Addon that applies an object which several files may want: a
// packaged one before others, then the one that has it in the cluster, then the
// first by the path.
func (s *state) owner(k key) string {
	return slices.MinFunc(s.wanted[k], func(a, b string) int {
		return cmp.Or(
			before(s.files[a].packaged, s.files[b].packaged),
			before(s.holds(a, k), s.holds(b, k)),
			cmp.Compare(s.files[a].path, s.files[b].path),
		)
	})
}

func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}

func (s *state) holds(name string, k key) bool {
	a := s.addons[name]
	return a != nil && slices.ContainsFunc(a.Status.Objects, func(r Ref) bool { return r.key() == k })
}

// plan is what is to be done for one Addon.
type plan struct {
	file  *file  // nil: it is gone, unless that is unclear
	addon *Addon // as the cluster has it; nil: it does not
	// taken are the file's objects that another file's Addon applies.
	taken map[key]string
	// prune are objects that the Addon has in the cluster and no file wants; the
	// last applied first.
	prune []Ref
	// rest is what the Addon has in the cluster and its file wants, or can't say
	// that it doesn't.
	rest []Ref
	// unclear: there is no file, but not all of the directory could be read, or the
	// file is another server's.
	unclear bool
	server  string
}

// spec is what the Addon says of its file. Each server has the packaged ones.
func (p plan) spec() Spec {
	spec := Spec{Source: p.file.path, Packaged: p.file.packaged}
	if !spec.Packaged {
		spec.Server = p.server
	}
	return spec
}

// plan makes the plan for an Addon.
func (s *state) plan(name string) plan {
	p := plan{file: s.files[name], addon: s.addons[name], taken: map[key]string{}, server: s.server}
	p.unclear = p.file == nil && (s.partial || p.addon != nil && p.addon.Spec.Server != "" && p.addon.Spec.Server != s.server)
	if p.file.active() {
		for _, ref := range p.file.refs {
			if owner := s.owner(ref.key()); owner != name {
				p.taken[ref.key()] = s.files[owner].path
			}
		}
	}
	if p.addon == nil {
		return p
	}
	// A file that can't be read, or is not to be looked at, wants what it had.
	undecided := p.file != nil && !p.file.active() || p.unclear
	for _, ref := range p.addon.Status.Objects {
		wanted := s.wanted[ref.key()]
		switch {
		case slices.Contains(wanted, name) && p.taken[ref.key()] == "":
			p.rest = append(p.rest, ref)
		case len(wanted) > 0: // another has it from now on
		case undecided:
			p.rest = append(p.rest, ref)
		default:
			p.prune = append(p.prune, ref)
		}
	}
	slices.Reverse(p.prune)
	return p
}

// settled reports whether there is nothing to do. applied says that this process
// has applied what the file holds.
func (p plan) settled(applied bool) bool {
	return p.addon != nil && p.file.active() &&
		len(p.prune) == 0 && len(p.taken) == 0 &&
		p.addon.Spec == p.spec() &&
		p.addon.Status.Checksum == p.file.checksum &&
		p.addon.ready().Reason == reasonApplied &&
		(applied || !p.file.packaged) // a packaged one is put right at each start
}
