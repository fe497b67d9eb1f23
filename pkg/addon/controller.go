package addon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/workqueue"
)

const (
	workers = 4

	firstRetry, lastRetry = 250 * time.Millisecond, 30 * time.Second
	// refusedRetry is for what the API will refuse again unless its mind is
	// changed, such as by deleting an object that can't be changed.
	refusedRetry = 5 * time.Minute

	// coalesce is how long a change of the directory waits for others.
	coalesce = 100 * time.Millisecond
	// blindInterval is between looks at a directory that can't be watched.
	blindInterval = 10 * time.Second
	// packagedLimit is how long the user's files wait for the packaged ones.
	packagedLimit = 10 * time.Second
	// headStart is how long many files of the user's hardly slow down the rest of
	// the start.
	headStart = 10 * time.Second
)

// cluster is what the controller does there.
type cluster interface {
	load(ctx context.Context) ([]*Addon, error)
	save(ctx context.Context, a *Addon) (*Addon, error)
	forget(ctx context.Context, addon string) error
	warn(ctx context.Context, a *Addon) error
	apply(ctx context.Context, addon string, object *unstructured.Unstructured) (Ref, error)
	prune(ctx context.Context, addon string, ref Ref) error
	foreign(ctx context.Context, crd Ref) (int, error)
	watchKinds(ctx context.Context, changed func())
	rest()
}

// controller keeps the cluster as the files say.
type controller struct {
	dir      string
	packaged *packaged
	cluster  cluster
	log      *slog.Logger
	queue    workqueue.TypedRateLimitingInterface[string] // names of Addons
	stirred  chan struct{}                                // what waits may have changed

	mu       sync.Mutex
	state    state
	progress map[string]*progress // by the Addon's name
	waiting  map[string]string    // the reason for which an Addon waits for others' objects
}

// progress is what this process has applied of a file.
type progress struct {
	checksum string
	applied  map[key]Ref
	complete bool
}

func newController(dir, server string, packaged *packaged, cluster cluster, log *slog.Logger) *controller {
	return &controller{
		dir: dir, packaged: packaged, cluster: cluster, log: log,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)),
		stirred:  make(chan struct{}, 1),
		state:    state{server: server, addons: map[string]*Addon{}},
		progress: map[string]*progress{},
		waiting:  map[string]string{},
	}
}

// Run deploys the manifests until ctx ends. In a cluster only one may run.
func (c *controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer c.queue.ShutDown()
	defer cancel()

	loaded := make(chan []*Addon, 1)
	parts.Go(func() {
		if addons, ok := c.load(ctx); ok {
			loaded <- addons
		}
	})
	// What Kedge brings does not wait for that: pods need it.
	first := make(chan struct{})
	parts.Go(func() {
		defer close(first)
		c.applyPackaged(ctx)
	})
	select {
	case addons := <-loaded:
		c.adopt(addons)
	case <-ctx.Done():
		return nil
	}
	select {
	case <-first:
	case <-time.After(packagedLimit):
	case <-ctx.Done():
		return nil
	}

	watch := newWatcher(c.log)
	defer watch.close()
	parts.Go(watch.run)
	for i := range workers {
		parts.Go(func() {
			// At first one alone: the node and DNS need the processor more.
			if i > 0 && !sleep(ctx, headStart) {
				return
			}
			for c.work(ctx) {
			}
		})
	}
	c.follow(ctx, watch)
	return nil
}

// follow looks at the directory after each change of it.
func (c *controller) follow(ctx context.Context, watch *watcher) {
	kinds := kindWatch{start: c.cluster.watchKinds}
	defer kinds.stop()
	var trouble string
	for {
		next, err := c.look(watch)
		if err == nil {
			trouble = ""
		} else {
			if err.Error() != trouble {
				c.log.Warn("the directory of manifests can't be read; what it held stays as it is", "dir", c.dir, "err", err)
			}
			trouble, next = err.Error(), blindInterval
		}
		var again <-chan time.Time
		if next > 0 {
			again = time.After(next)
		}
		for looking := false; !looking; {
			kinds.wanted(ctx, c.waitsFor(reasonUnknownKind), c.kick)
			select {
			case <-watch.changed:
				select {
				case <-time.After(coalesce):
				case <-ctx.Done():
					return
				}
				looking = true
			case <-again:
				looking = true
			case <-c.stirred:
			case <-ctx.Done():
				return
			}
		}
	}
}

// kindWatch watches for new kinds while somebody waits for one.
type kindWatch struct {
	start  func(ctx context.Context, changed func())
	cancel context.CancelFunc
	done   chan struct{}
}

func (k *kindWatch) wanted(ctx context.Context, wanted bool, changed func()) {
	switch {
	case wanted && k.cancel == nil:
		ctx, k.cancel = context.WithCancel(ctx)
		k.done = make(chan struct{})
		go func() {
			defer close(k.done)
			k.start(ctx, changed)
		}()
	case !wanted:
		k.stop()
	}
}

func (k *kindWatch) stop() {
	if k.cancel == nil {
		return
	}
	k.cancel()
	<-k.done
	k.cancel = nil
}

// load waits until the cluster has said which Addons it has.
func (c *controller) load(ctx context.Context) ([]*Addon, bool) {
	began, told := time.Now(), false
	for wait := 50 * time.Millisecond; ; wait = min(wait*3/2, 5*time.Second) {
		addons, err := c.cluster.load(ctx)
		if err == nil {
			return addons, true
		}
		if !told && time.Since(began) > 10*time.Second {
			told = true
			c.log.Warn("the Addons can't be read, and manifests of yours are not deployed; this is tried again", "err", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, false
		}
	}
}

// sleep returns false as soon as ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// adopt takes over what earlier runs have left in the cluster.
func (c *controller) adopt(addons []*Addon) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range addons {
		if a.Name != addonName(a.Spec.Source) {
			continue // not Kedge's
		}
		c.state.addons[a.Name] = a
		// An older Kedge's.
		if _, known := c.packaged.files[a.Spec.Source]; a.Spec.Packaged && !known {
			if err := c.packaged.remove(filepath.Join(c.dir, a.Spec.Source)); err != nil {
				c.log.Warn("a manifest that no longer comes with Kedge stays", "err", err)
			}
		}
	}
	// A disabled file lies there until what it held is gone. It says more than an
	// Addon that a power cut kept from being written.
	for name := range c.packaged.disabled {
		id := addonName(name)
		content, err := read(filepath.Join(c.dir, name))
		if err != nil || !c.packaged.owns(name, content) {
			continue
		}
		objects, err := parse(content)
		if err != nil {
			continue // edited; the Addon has to do
		}
		a := c.state.addons[id]
		if a == nil {
			a = newAddon(id, name)
			a.Spec.Packaged = true
			c.state.addons[id] = a
		}
		known := keys(a.Status.Objects)
		for _, object := range objects {
			if ref := refOf(object); !known[ref.key()] {
				a.Status.Objects = append(a.Status.Objects, ref)
			}
		}
	}
}

// applyPackaged applies the packaged manifests, all at once. What fails is left to
// the queue in the end.
func (c *controller) applyPackaged(ctx context.Context) {
	var all sync.WaitGroup
	for _, path := range c.packaged.enabled(c.dir) {
		all.Go(func() {
			text := c.packaged.files[path]
			objects, err := parse(text)
			if err != nil {
				return
			}
			// Right after its start the apiserver may not have read the roles yet.
			for wait := 50 * time.Millisecond; wait < 2*time.Second; wait *= 2 {
				if failed, _ := c.apply(ctx, addonName(path), checksum(text), objects, nil); len(failed) == 0 {
					return
				}
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return
				}
			}
		})
	}
	all.Wait()
}

// look looks at the directory and queues what is to be done. It returns after what
// time the next look is due, 0 for none.
func (c *controller) look(watch *watcher) (next time.Duration, err error) {
	c.mu.Lock()
	last := c.state.files
	c.mu.Unlock()
	now, err := scan(c.dir, c.packaged, last, watch.add)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.state.setFiles(now)
	names := map[string]bool{} // whether the file has changed
	for name, f := range now.files {
		names[name] = last[name] != f
	}
	for name := range c.state.addons {
		names[name] = names[name] || now.files[name] == nil && last[name] != nil
	}
	for name := range names {
		if c.state.plan(name).settled(c.progress[name].covers(now.files[name])) {
			delete(names, name)
		}
	}
	c.mu.Unlock()
	for name, changed := range names {
		if changed {
			c.queue.Forget(name)
		}
		c.queue.Add(name)
	}
	switch {
	case now.unsettled:
		next = settleTime
	case watch.blind != nil:
		next = blindInterval
	}
	return next, now.partial
}

func (p *progress) covers(f *file) bool {
	return p != nil && f != nil && p.complete && p.checksum == f.checksum
}

// work does one thing that is queued, or says that the end has come.
func (c *controller) work(ctx context.Context) bool {
	name, end := c.queue.Get()
	if end {
		return false
	}
	defer c.queue.Done(name)
	switch err := c.reconcile(ctx, name); {
	case ctx.Err() != nil:
		return false
	case errors.As(err, new(refusedError)):
		c.queue.AddAfter(name, refusedRetry)
	case err != nil:
		c.queue.AddRateLimited(name)
	default:
		c.queue.Forget(name)
	}
	if c.queue.Len() == 0 {
		c.cluster.rest()
	}
	return true
}

// reconcile does what is to be done for one Addon. An error means: again, later.
func (c *controller) reconcile(ctx context.Context, name string) error {
	c.mu.Lock()
	p := c.state.plan(name)
	settled := p.settled(c.progress[name].covers(p.file))
	c.mu.Unlock()
	switch f := p.file; {
	case settled, p.unclear, f != nil && f.pending:
		return nil
	case f == nil:
		c.wait(name, "")
		return c.remove(ctx, name, p)
	case f.skipped:
		c.wait(name, "")
		if p.addon == nil {
			return nil
		}
		return c.say(ctx, p, p.rest, reasonSkipped, "kept out by "+f.path+".skip; what was deployed before stays")
	case f.err != nil:
		c.wait(name, "")
		return c.say(ctx, p, p.rest, reasonInvalid, f.err.Error())
	}
	return c.deploy(ctx, name, p)
}

// deploy applies a file, and removes what is no longer in it.
func (c *controller) deploy(ctx context.Context, name string, p plan) error {
	content, err := read(filepath.Join(c.dir, p.file.path))
	if err != nil || checksum(content) != p.file.checksum {
		return nil //nolint:nilerr // it has changed: a look at the directory follows
	}
	objects, err := parse(content)
	if err != nil {
		return err
	}
	if p.addon, err = c.announce(ctx, name, p); err != nil {
		return err
	}
	failed, opened := c.apply(ctx, name, p.file.checksum, objects, p.taken)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if opened {
		c.kick()
	}
	c.mu.Lock()
	current := c.state.files[name] == p.file
	c.mu.Unlock()
	if !current {
		return nil // it is queued again
	}
	left := p.prune
	if len(failed) == 0 {
		left, failed = c.prune(ctx, name, p)
	}
	return c.conclude(ctx, name, p, left, failed)
}

// announce writes what the file is going to have in the cluster before it has:
// when the power goes, it is known. It returns the Addon as it is then.
func (c *controller) announce(ctx context.Context, name string, p plan) (*Addon, error) {
	c.mu.Lock()
	complete := c.progress[name].covers(p.file)
	c.mu.Unlock()
	known := keys(p.rest)
	announced := slices.Clone(p.rest)
	for _, ref := range p.file.refs {
		if p.taken[ref.key()] == "" && !known[ref.key()] {
			known[ref.key()] = true
			announced = append(announced, ref)
		}
	}
	if complete || p.addon != nil && len(announced) == len(p.rest) {
		return p.addon, nil
	}
	a := p.next()
	a.hold(append(announced, backwards(p.prune)...), int(a.Status.ObjectCount))
	if p.addon == nil {
		a.setReady(reasonApplying, "")
	}
	return c.save(ctx, a)
}

// next is the Addon to change.
func (p plan) next() *Addon {
	a := p.addon
	if a == nil {
		a = newAddon(addonName(p.file.path), p.file.path)
	} else {
		a = a.clone()
	}
	if p.file != nil {
		a.Spec = p.spec()
	}
	return a
}

func backwards(refs []Ref) []Ref {
	refs = slices.Clone(refs)
	slices.Reverse(refs)
	return refs
}

// held is what the Addon has in the cluster of its file, in the file's order, and
// what it may have: a request that failed may have had its effect. applied is how
// many objects are as the file says.
func (c *controller) held(name string, p plan, failed []failure) (held []Ref, applied int) {
	known := map[key]Ref{}
	for _, f := range failed {
		if !waits(f.reason) {
			known[f.ref.key()] = f.ref
		}
	}
	for _, ref := range p.rest {
		known[ref.key()] = ref
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	done := c.progress[name]
	if done != nil {
		maps.Copy(known, done.applied)
		applied = len(done.applied)
	}
	for _, ref := range p.file.refs {
		if found, ok := known[ref.key()]; ok {
			held = append(held, found)
			delete(known, ref.key()) // a file may say it twice
		}
	}
	return held, applied
}

// conclude writes what has become of a file. left is what could not be pruned.
func (c *controller) conclude(ctx context.Context, name string, p plan, left []Ref, failed []failure) error {
	reason, message := reasonApplied, ""
	again := len(failed) > 0
	switch {
	case len(failed) > 0:
		reason, message = sum(failed)
	case len(p.taken) > 0:
		reason, message = reasonConflict, overlap(p)
	}
	if again && waits(reason) {
		c.wait(name, reason)
		// What another file makes is there in a moment.
		if c.queue.NumRequeues(name) < 2 {
			return errors.New(message)
		}
	} else {
		c.wait(name, "")
	}
	a := p.next()
	held, applied := c.held(name, p, failed)
	a.hold(append(held, backwards(left)...), applied)
	a.Status.Checksum = ""
	if reason == reasonApplied {
		a.Status.Checksum = p.file.checksum
	}
	a.setReady(reason, message)
	if err := c.write(ctx, p.addon, a); err != nil {
		return err
	}
	switch {
	case !again:
		return nil
	case slices.ContainsFunc(failed, func(f failure) bool { return !errors.As(f.err, new(refusedError)) }):
		return errors.New(message)
	default:
		return refusedError{errors.New(message)}
	}
}

// remove removes what a file that is gone had in the cluster, and its Addon.
func (c *controller) remove(ctx context.Context, name string, p plan) error {
	if p.addon == nil {
		return nil
	}
	c.mu.Lock()
	delete(c.progress, name)
	c.mu.Unlock()
	left, failed := c.prune(ctx, name, p)
	if len(failed) > 0 {
		reason, message := sum(failed)
		if err := c.say(ctx, p, backwards(left), reason, message); err != nil {
			return err
		}
		return errors.New(message)
	}
	if err := c.cluster.forget(ctx, name); err != nil {
		return err
	}
	source := p.addon.Spec.Source
	if c.packaged.disabled[source] {
		if err := c.packaged.remove(filepath.Join(c.dir, source)); err != nil {
			return err
		}
	}
	c.mu.Lock()
	delete(c.state.addons, name)
	c.mu.Unlock()
	c.log.Info("removed", "addon", name, "objects", len(p.prune))
	return nil
}

// failure is an object that could not be applied or pruned.
type failure struct {
	ref    Ref
	reason string
	err    error
}

// apply applies a file's objects, but for those that this process has applied
// already. opened says that others may have waited for one of them.
func (c *controller) apply(ctx context.Context, name, checksum string, objects []*unstructured.Unstructured, taken map[key]string) (failed []failure, opened bool) {
	c.mu.Lock()
	done := c.progress[name]
	if done == nil || done.checksum != checksum {
		done = &progress{checksum: checksum, applied: map[key]Ref{}}
		c.progress[name] = done
	}
	for k := range taken {
		delete(done.applied, k)
		done.complete = false
	}
	had := maps.Clone(done.applied)
	c.mu.Unlock()
	for _, object := range objects {
		ref := refOf(object)
		if _, ok := had[ref.key()]; ok || taken[ref.key()] != "" {
			continue
		}
		applied, err := c.cluster.apply(ctx, name, object)
		if ctx.Err() != nil {
			return append(failed, failure{ref, reasonFailed, ctx.Err()}), opened
		}
		if err != nil {
			failed = append(failed, failure{ref, reasonOf(err), err})
			continue
		}
		opened = opened || opensWay(ref.groupKind())
		c.mu.Lock()
		done.applied[ref.key()] = applied
		c.mu.Unlock()
	}
	c.mu.Lock()
	done.complete = len(failed) == 0 && len(taken) == 0
	c.mu.Unlock()
	return failed, opened
}

// prune removes what the plan says, and returns what it could not. The definition
// of a packaged kind stays if others have objects of it, which would go with it.
func (c *controller) prune(ctx context.Context, name string, p plan) (left []Ref, failed []failure) {
	for _, ref := range p.prune {
		var foreign int
		var err error
		if p.addon.Spec.Packaged && ref.groupKind() == crdKind {
			foreign, err = c.cluster.foreign(ctx, ref)
		}
		if foreign > 0 {
			c.log.Warn("a kind that came with Kedge stays in the cluster, for the sake of its objects: delete them and then the definition, if they are not needed",
				"addon", name, "definition", ref.Name, "objects", foreign)
			continue
		}
		if err == nil {
			err = c.cluster.prune(ctx, name, ref)
		}
		if err != nil {
			left = append(left, ref)
			failed = append(failed, failure{ref, reasonPruneFailed, err})
		}
	}
	return left, failed
}

func reasonOf(err error) string {
	switch {
	case errors.Is(err, errUnknownKind):
		return reasonUnknownKind
	case errors.Is(err, errNoNamespace):
		return reasonNamespace
	}
	return reasonFailed
}

// waits reports whether what is wrong is that others' objects are not there yet.
func waits(reason string) bool { return reason == reasonUnknownKind || reason == reasonNamespace }

const (
	tellFailures = 3
	tellLimit    = 1000
)

// sum sums failures up: the reason of the worst, and what a person wants to read.
func sum(failed []failure) (reason, message string) {
	var told []string
	for _, f := range failed {
		if reason == "" || waits(reason) && !waits(f.reason) {
			reason = f.reason
		}
		if len(told) < tellFailures {
			told = append(told, strings.Join(strings.Fields(fmt.Sprintf("%s: %v", f.ref, f.err)), " ")) // on one line
		}
	}
	message = strings.Join(told, "; ")
	if more := len(failed) - len(told); more > 0 {
		message += fmt.Sprintf("; and %d more", more)
	}
	if len(message) > tellLimit {
		message = strings.ToValidUTF8(message[:tellLimit], "") + " …"
	}
	return reason, message
}

// overlap says which objects of a file another file's Addon applies.
func overlap(p plan) string {
	var told []string
	for _, ref := range p.file.refs {
		if other := p.taken[ref.key()]; other != "" && len(told) < tellFailures {
			told = append(told, fmt.Sprintf("%s is also in %s, which is the one applied", ref, other))
		}
	}
	if more := len(p.taken) - len(told); more > 0 {
		told = append(told, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(told, "; ")
}

// say writes a condition of the Addon and nothing else.
func (c *controller) say(ctx context.Context, p plan, held []Ref, reason, message string) error {
	a := p.next()
	a.hold(held, len(held))
	a.setReady(reason, message)
	return c.write(ctx, p.addon, a)
}

// write writes an Addon that has changed, and tells what is wrong with it once.
func (c *controller) write(ctx context.Context, was, a *Addon) error {
	if was != nil && a.says(was) {
		return nil
	}
	news := was == nil || was.ready().Reason != a.ready().Reason || was.ready().Message != a.ready().Message
	saved, err := c.save(ctx, a)
	if err != nil {
		return err
	}
	ready := a.ready()
	switch {
	case ready.Reason == reasonApplied:
		c.log.Info("applied", "addon", a.Name, "objects", len(a.Status.Objects))
	case news && ready.Reason == reasonSkipped:
		c.log.Info("skipped", "addon", a.Name)
	case news:
		c.log.Warn("a manifest is not applied as it is", "file", a.Spec.Source, "reason", ready.Reason, "err", ready.Message)
		if err := c.cluster.warn(ctx, saved); err != nil {
			c.log.Warn("an event can't be made", "addon", a.Name, "err", err)
		}
	}
	return nil
}

func (c *controller) save(ctx context.Context, a *Addon) (*Addon, error) {
	saved, err := c.cluster.save(ctx, a)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("what has become of a manifest can't be written down; this is tried again", "file", a.Spec.Source, "err", err)
		}
		return nil, err
	}
	c.mu.Lock()
	c.state.addons[a.Name] = saved
	c.mu.Unlock()
	return saved, nil
}

// wait notes that an Addon waits for objects of others; "" that it does not.
func (c *controller) wait(name, reason string) {
	c.mu.Lock()
	changed := c.waiting[name] != reason
	if reason == "" {
		delete(c.waiting, name)
	} else {
		c.waiting[name] = reason
	}
	c.mu.Unlock()
	if changed {
		select {
		case c.stirred <- struct{}{}:
		default:
		}
	}
}

func (c *controller) waitsFor(reason string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.waiting {
		if r == reason {
			return true
		}
	}
	return false
}

// kick has those that wait for others' objects tried at once.
func (c *controller) kick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.waiting {
		c.queue.Forget(name)
		c.queue.Add(name)
	}
}
