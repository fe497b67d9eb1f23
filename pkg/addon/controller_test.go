package addon

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// fakeCluster is a cluster in memory. It outlives controllers.
type fakeCluster struct {
	mu       sync.Mutex
	objects  map[string]string // the owners of the objects, by the objects' names
	spaces   map[string]bool   // namespaces
	unknown  map[string]bool   // kinds
	refused  map[string]bool   // objects that can't be applied
	addons   map[string]*Addon
	requests []string // what was written
	events   []string
	watchers []func()
	inUse    map[string]int // others' objects of kinds, by the definitions' names
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{
		objects: map[string]string{}, spaces: map[string]bool{"default": true}, unknown: map[string]bool{},
		refused: map[string]bool{}, addons: map[string]*Addon{},
	}
}

func (c *fakeCluster) load(context.Context) ([]*Addon, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*Addon
	for _, a := range c.addons {
		all = append(all, a.clone())
	}
	return all, nil
}

func (c *fakeCluster) save(_ context.Context, a *Addon) (*Addon, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addons[a.Name] = a.clone()
	c.requests = append(c.requests, "save "+a.Name)
	return a.clone(), nil
}

func (c *fakeCluster) forget(_ context.Context, addon string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.addons, addon)
	return nil
}

func (c *fakeCluster) warn(_ context.Context, a *Addon) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, a.Name+" "+a.ready().Reason)
	return nil
}

func (c *fakeCluster) apply(_ context.Context, addon string, object *unstructured.Unstructured) (Ref, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ref := refOf(object)
	switch {
	case c.unknown[ref.Kind]:
		return ref, errUnknownKind
	case c.refused[ref.Name]:
		return ref, fmt.Errorf("%s is refused", ref.Name)
	case ref.Kind == "Namespace":
		c.spaces[ref.Name] = true
	case ref.Kind == "CustomResourceDefinition":
		delete(c.unknown, "Widget")
	default:
		if ref.Namespace == "" {
			ref.Namespace = metav1.NamespaceDefault
		}
		if !c.spaces[ref.Namespace] {
			return ref, errNoNamespace
		}
	}
	if a := c.addons[addon]; a != nil && !slices.ContainsFunc(a.Status.Objects, func(r Ref) bool { return r.key() == ref.key() }) {
		c.requests = append(c.requests, "NOT ANNOUNCED")
	}
	c.objects[ref.Name] = addon
	c.requests = append(c.requests, "apply "+ref.Name)
	return ref, nil
}

func (c *fakeCluster) prune(_ context.Context, addon string, ref Ref) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused[ref.Name] {
		return fmt.Errorf("%s is refused", ref.Name)
	}
	if c.objects[ref.Name] == addon {
		delete(c.objects, ref.Name)
		c.requests = append(c.requests, "delete "+ref.Name)
	}
	return nil
}

func (c *fakeCluster) foreign(_ context.Context, crd Ref) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inUse[crd.Name], nil
}

func (c *fakeCluster) watchKinds(ctx context.Context, changed func()) {
	c.mu.Lock()
	c.watchers = append(c.watchers, changed)
	c.mu.Unlock()
	<-ctx.Done()
}

func (*fakeCluster) rest() {}

// learn makes a kind known.
func (c *fakeCluster) learn(kind string) {
	c.mu.Lock()
	delete(c.unknown, kind)
	watchers := c.watchers
	c.mu.Unlock()
	for _, changed := range watchers {
		changed()
	}
}

// refuse has the object z refused, or not.
func (c *fakeCluster) refuse(refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused["z"] = refused
}

// forgetRequests returns what was written since the last time.
func (c *fakeCluster) forgetRequests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := c.requests
	c.requests = nil
	return done
}

// is waits until the objects, as NAME=OWNER, and the Addons, as NAME=REASON, are
// those wanted.
func (c *fakeCluster) is(t *testing.T, when, objects, addons string) {
	t.Helper()
	var gotObjects, gotAddons string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		reasons := map[string]string{}
		for name, a := range c.addons {
			reasons[name] = a.ready().Reason
		}
		gotObjects, gotAddons = pairs(c.objects), pairs(reasons)
		c.mu.Unlock()
		if gotObjects == objects && gotAddons == addons {
			return
		}
	}
	t.Fatalf("%s: there are objects %q and Addons %q, want %q and %q", when, gotObjects, gotAddons, objects, addons)
}

func pairs(m map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		all = append(all, name+"="+m[name])
	}
	return strings.Join(all, " ")
}

// run runs a controller until the test ends, or stop is called.
func run(t *testing.T, c *fakeCluster, f folder, p *packaged) (stop func()) {
	t.Helper()
	if err := p.write(f.dir, quiet); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- newController(f.dir, "", p, c, quiet).Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func none() *packaged { return &packaged{} }

func TestFollowFiles(t *testing.T) {
	t.Parallel()
	c, f := newFakeCluster(), newFolder(t)
	f.put("bad.yaml", "a: [")
	f.put("a.yaml", configMap("x", "y"))
	run(t, c, f, none())
	broken := " bad=InvalidManifest"
	c.is(t, "at first", "x=a y=a", "a=Applied"+broken)
	f.put("a.yaml", configMap("x"))
	c.is(t, "an object is gone", "x=a", "a=Applied"+broken)
	f.put("sub/b.yaml", configMap("z"))
	c.is(t, "a file in a new folder", "x=a z=sub.b", "a=Applied"+broken+" sub.b=Applied")
	f.put("sub/b.yaml", configMap("z", "w"))
	c.is(t, "a change in the new folder", "w=sub.b x=a z=sub.b", "a=Applied"+broken+" sub.b=Applied")
	f.put("a.yaml", "a: [")
	c.is(t, "a file is broken", "w=sub.b x=a z=sub.b", "a=InvalidManifest"+broken+" sub.b=Applied")
	f.put("a.yaml", configMap("x"))
	c.is(t, "it is mended", "w=sub.b x=a z=sub.b", "a=Applied"+broken+" sub.b=Applied")
	f.put("a.yaml.skip", "")
	c.is(t, "it is skipped", "w=sub.b x=a z=sub.b", "a=Skipped"+broken+" sub.b=Applied")
	f.remove("a.yaml")
	f.remove("sub")
	c.is(t, "a folder is gone", "x=a", "a=Skipped"+broken)
	f.remove("a.yaml.skip")
	c.is(t, "the skipped file is gone, too", "", "bad=InvalidManifest")
	if want := []string{"bad InvalidManifest", "a InvalidManifest"}; !slices.Equal(c.events, want) {
		t.Errorf("the events are %q, want %q", c.events, want)
	}
	if slices.Contains(c.requests, "NOT ANNOUNCED") {
		t.Error("objects were applied that no Addon told of before")
	}
}

func TestMoves(t *testing.T) {
	t.Parallel()
	c, f := newFakeCluster(), newFolder(t)
	f.put("a.yaml", configMap("x", "y"))
	run(t, c, f, none())
	c.is(t, "at first", "x=a y=a", "a=Applied")
	f.put("b.yaml", configMap("x"))
	c.is(t, "in two files", "x=a y=a", "a=Applied b=InOtherFile")
	f.put("a.yaml", configMap("y"))
	c.is(t, "moved", "x=b y=a", "a=Applied b=Applied")
	f.put("c.yaml", configMap("y"))
	f.remove("a.yaml")
	c.is(t, "renamed", "x=b y=c", "b=Applied c=Applied")
	if deleted := slices.ContainsFunc(c.forgetRequests(), func(r string) bool { return strings.HasPrefix(r, "delete") }); deleted {
		t.Error("an object that moved was deleted")
	}
}

func TestWaitForOthers(t *testing.T) {
	t.Parallel()
	c, f := newFakeCluster(), newFolder(t)
	c.unknown["Widget"] = true
	f.put("a.yaml", "apiVersion: x.io/v1\nkind: Widget\nmetadata: {name: w}\n---\n"+configMap("x"))
	f.put("b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 'y', namespace: later}\n")
	run(t, c, f, none())
	c.is(t, "at first", "x=a", "a=UnknownKind b=NamespaceNotFound")
	f.put("c.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: later}\n")
	c.is(t, "with the namespace", "later=c x=a y=b", "a=UnknownKind b=Applied c=Applied")
	c.learn("Widget")
	c.is(t, "with the kind", "later=c w=a x=a y=b", "a=Applied b=Applied c=Applied")
	slices.Sort(c.events)
	if want := []string{"a UnknownKind", "b NamespaceNotFound"}; !slices.Equal(c.events, want) {
		t.Errorf("the events are %q, want %q", c.events, want)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	c, f := newFakeCluster(), newFolder(t)
	f.put("a.yaml", configMap("x", "y"))
	stop := run(t, c, f, none())
	c.is(t, "at first", "x=a y=a", "a=Applied")
	c.refuse(true)
	f.put("a.yaml", configMap("x", "z"))
	c.is(t, "an object is refused", "x=a y=a", "a=ApplyFailed") // y stays until all is well
	c.refuse(false)
	c.is(t, "no longer", "x=a z=a", "a=Applied")
	c.refuse(true)
	f.remove("a.yaml")
	c.is(t, "an object can't be pruned", "z=a", "a=PruneFailed")
	stop()
	c.refuse(false)
	run(t, c, f, none())
	c.is(t, "it can, later", "", "")
}

func TestRestart(t *testing.T) {
	t.Parallel()
	c, f := newFakeCluster(), newFolder(t)
	f.put("a.yaml", configMap("x", "y"))
	f.put("b.yaml", configMap("z"))
	stop := run(t, c, f, none())
	c.is(t, "at first", "x=a y=a z=b", "a=Applied b=Applied")
	stop()
	c.forgetRequests()

	f.put("c.yaml", configMap("w"))
	stop = run(t, c, f, none())
	c.is(t, "after a restart", "w=c x=a y=a z=b", "a=Applied b=Applied c=Applied")
	stop()
	if got, want := c.forgetRequests(), []string{"save c", "apply w", "save c"}; !slices.Equal(got, want) {
		t.Errorf("the restart does %q, want %q", got, want)
	}

	f.remove("b.yaml")
	f.put("a.yaml", configMap("x"))
	run(t, c, f, none())
	c.is(t, "changes while it was down", "w=c x=a", "a=Applied c=Applied")
}

func TestPackaged(t *testing.T) {
	t.Parallel()
	c, f := newFakeCluster(), newFolder(t)
	comesWith := func(disabled ...string) *packaged {
		p := &packaged{files: map[string][]byte{
			"dns.yaml":      []byte(firstLine + configMap("d")),
			"group/m.yaml":  []byte(firstLine + configMap("m")),
			"group/m2.yaml": []byte(firstLine + configMap("m2")),
		}, disabled: map[string]bool{}}
		for _, name := range disabled {
			p.disabled[name] = true
		}
		return p
	}
	f.put("own.yaml", configMap("o"))
	stop := run(t, c, f, comesWith())
	all, applied := "d=dns m=group.m m2=group.m2 o=own", "dns=Applied group.m=Applied group.m2=Applied own=Applied"
	c.is(t, "at first", all, applied)
	stop()
	c.forgetRequests()

	delete(c.objects, "d") // drift
	stop = run(t, c, f, comesWith())
	c.is(t, "put right at a restart", all, applied)
	stop()
	if saved := slices.ContainsFunc(c.forgetRequests(), func(r string) bool { return strings.HasPrefix(r, "save") }); saved {
		t.Error("a restart writes Addons that have not changed")
	}

	stop = run(t, c, f, comesWith("dns.yaml", "group/m.yaml", "group/m2.yaml"))
	c.is(t, "disabled", "o=own", "own=Applied")
	if found, _ := filepath.Glob(f.at("*/*.yaml")); len(found) > 0 {
		t.Errorf("the files %q of disabled add-ons stay", found)
	}
	stop()

	stop = run(t, c, f, comesWith("dns.yaml"))
	c.is(t, "two enabled again", "m=group.m m2=group.m2 o=own", "group.m=Applied group.m2=Applied own=Applied")
	f.put("dns.yaml", configMap("mine"))
	c.is(t, "a file of the user's in a disabled one's place", "m=group.m m2=group.m2 mine=dns o=own", "dns=Applied group.m=Applied group.m2=Applied own=Applied")
	stop()

	older := comesWith()
	delete(older.files, "group/m.yaml")
	delete(older.files, "dns.yaml")
	run(t, c, f, older)
	c.is(t, "a release without one of them", "m2=group.m2 mine=dns o=own", "dns=Applied group.m2=Applied own=Applied")
}

// A definition goes with its add-on, but not as long as users have such objects.
func TestPackagedKindInUse(t *testing.T) {
	t.Parallel()
	const kinds = firstLine + `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: used}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: unused}
`
	c, f := newFakeCluster(), newFolder(t)
	c.inUse = map[string]int{"used": 2, "own": 1}
	f.put("own.yaml", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: own}\n")
	p := &packaged{files: map[string][]byte{"kinds.yaml": []byte(kinds)}, disabled: map[string]bool{}}
	stop := run(t, c, f, p)
	c.is(t, "at first", "own=own unused=kinds used=kinds", "kinds=Applied own=Applied")
	stop()
	p.disabled["kinds.yaml"] = true
	run(t, c, f, p)
	c.is(t, "disabled", "own=own used=kinds", "own=Applied")
	f.remove("own.yaml")
	c.is(t, "the user's own definition is removed", "used=kinds", "")
}

// Whatever the Addons have lost, a disabled add-on goes.
func TestDisabledWithoutAddon(t *testing.T) {
	t.Parallel()
	for name, held := range map[string]string{"no Addon": "", "an older Addon": "d1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, f := newFakeCluster(), newFolder(t)
			p := &packaged{files: map[string][]byte{"dns.yaml": nil}, disabled: map[string]bool{"dns.yaml": true}}
			f.put("dns.yaml", firstLine+configMap("d1", "d2"))
			c.objects["d1"], c.objects["d2"], c.objects["other"] = "dns", "dns", "other"
			if held != "" {
				c.addons["dns"] = newAddon("dns", "dns.yaml")
				c.addons["dns"].hold(refs(held), 1)
			}
			run(t, c, f, p)
			c.is(t, "disabled", "other=other", "")
		})
	}
}

func TestManyFiles(t *testing.T) {
	t.Parallel()
	c, f := newFakeCluster(), newFolder(t)
	var objects, addons []string
	for i := range 300 {
		name := fmt.Sprintf("f%03d", i)
		if i == 150 {
			f.put(name+".yaml", "kind: [")
			addons = append(addons, name+"=InvalidManifest")
			continue
		}
		f.put(name+".yaml", configMap(name))
		objects, addons = append(objects, name+"="+name), append(addons, name+"=Applied")
	}
	run(t, c, f, none())
	c.is(t, "all", strings.Join(objects, " "), strings.Join(addons, " "))
}

// A directory that can't be read says nothing about what is to go.
func TestDirectoryVanishes(t *testing.T) {
	t.Parallel()
	c, f := newFakeCluster(), newFolder(t)
	f.put("in/a.yaml", configMap("x"))
	in := folder{t, f.at("in")}
	stop := run(t, c, in, none())
	c.is(t, "at first", "x=a", "a=Applied")
	c.forgetRequests()
	if err := os.Rename(f.at("in"), f.at("out")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // nothing is to happen
	stop()
	if got := c.forgetRequests(); len(got) > 0 {
		t.Errorf("without its directory it does %q", got)
	}
}
