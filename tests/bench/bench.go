package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/tests/bench/program"
	"github.com/kedge-k8s/kedge/tests/bench/stock"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// wholeGroups are measured in the life of one cluster, and stockGroups on both
// sides.
var (
	wholeGroups = []string{"start", "idle", "dns", "api", "pods", "restart"}
	stockGroups = append([]string{"agent"}, wholeGroups...)
)

const (
	kedgeSide = "kedge"
	stockSide = "stock"

	// stepLimit is how long one measure may take, apart from idling.
	stepLimit = 3 * time.Minute
	// stopLimit is above the minute that kube-apiserver gives its last watches.
	stopLimit = 2 * time.Minute
)

// bench runs all measures and keeps their values.
type bench struct {
	options  options
	binary   string // dist/kedge
	root     string // of the repository
	programs stock.Programs
	hollow   string // program of the hollow nodes
	metrics  []metric
	progress io.Writer

	values   map[string]map[string][]float64 // by side and metric
	failures []string
}

func newBench(o options, root, binary string, progress io.Writer) *bench {
	return &bench{
		options: o, root: root, binary: binary, metrics: metrics(o.nodes), progress: progress,
		values:   map[string]map[string][]float64{kedgeSide: {}, stockSide: {}},
		failures: []string{},
	}
}

func (b *bench) wants(groups ...string) bool {
	return slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(b.options.only, g) })
}

// build builds the programs that take part besides Kedge.
func (b *bench) build(ctx context.Context) (err error) {
	if b.options.stock && b.wants(stockGroups...) {
		b.say("building the stock stack, if it has changed")
		if b.programs, err = stock.Build(ctx, b.root, b.progress); err != nil {
			return err
		}
	}
	if b.wants(scaleGroup) {
		b.say("building the hollow nodes, if they have changed")
		dir := filepath.Join(b.root, "build", "hollow")
		b.hollow = filepath.Join(dir, "hollow")
		return program.Build(ctx, b.root, dir, b.progress, "./tests/bench/hollow")
	}
	return nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

// all runs everything that is wanted, the sides in turn.
func (b *bench) all(ctx context.Context) {
	if b.wants("size") {
		if size, err := fileSize(b.binary); err != nil {
			b.fail("size: %v", err)
		} else {
			b.record(kedgeSide, "size", size)
		}
	}
	sides := []string{kedgeSide}
	if b.options.stock {
		sides = append(sides, stockSide)
	}
	for i := range b.options.runs {
		for _, name := range sides {
			if b.wants(wholeGroups...) {
				b.one(ctx, name, i, (*run).whole)
			}
			if b.wants("agent") {
				b.one(ctx, name, i, (*run).agent)
			}
		}
		if b.wants("first") {
			b.one(ctx, kedgeSide, i, (*run).first)
		}
		if b.wants("addons") {
			b.one(ctx, kedgeSide, i, (*run).addons)
		}
		if b.wants(serversGroup) {
			b.one(ctx, kedgeSide, i, (*run).servers)
		}
		if b.wants(benchmarksGroup) {
			b.goBenchmarks(ctx, i)
		}
		if b.wants(sqliteGroup) {
			b.one(ctx, kedgeSide, i, (*run).sqlite)
		}
		if b.wants(scaleGroup) {
			for _, nodes := range b.options.nodes {
				b.one(ctx, kedgeSide, i, func(r *run, ctx context.Context) error { return r.scale(ctx, nodes) })
			}
		}
	}
}

func (b *bench) record(side, key string, value float64) {
	b.values[side][key] = append(b.values[side][key], value)
}

func (b *bench) fail(format string, args ...any) {
	failure := fmt.Sprintf(format, args...)
	b.failures = append(b.failures, failure)
	b.say("FAILED: %s", failure)
}

// run is one host with one of the sides, from its start to its end.
type run struct {
	bench *bench
	name  string // of the side
	title string
	bed   *testbed.Bed
	host  *testbed.Host
	side  side
	nodes []side // on other hosts, of the side's cluster
}

// sides are those there are.
func (r *run) sides() []side { return append([]side{r.side}, r.nodes...) }

func (r *run) record(key string, value float64) {
	all := r.bench.metrics
	m := all[slices.IndexFunc(all, func(m metric) bool { return m.Key == key })]
	if !r.bench.wants(m.Group) {
		return
	}
	r.bench.say("%s: %s: %.*f %s", r.title, m.Name, m.digits, value, m.Unit)
	r.bench.record(r.name, key, value)
}

// one makes a host with a side on it and runs measures there.
func (b *bench) one(ctx context.Context, name string, i int, measures func(*run, context.Context) error) {
	if ctx.Err() != nil {
		return
	}
	r := &run{bench: b, name: name, title: fmt.Sprintf("run %d of %d, %s", i+1, b.options.runs, name)}
	err := r.onHost(func() error {
		err := measures(r, ctx)
		for _, s := range r.sides() {
			if state := s.State(); state != "" {
				b.say("%s: %s", r.title, state)
			}
		}
		if err != nil && b.options.keep {
			err = errors.Join(err, r.keepLogs())
		}
		return err
	})
	if err != nil {
		b.fail("%s: %v", r.title, err)
	}
}

// onHost calls f with a host and a side that doesn't run yet.
func (r *run) onHost(f func() error) (err error) {
	if r.bed, err = testbed.Open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.bed.Close()) }()
	if r.host, err = r.newHost(r.name); err != nil {
		return err
	}
	if r.name == stockSide {
		r.side = stock.New(r.host, r.bench.programs)
	} else {
		k := &kedge{host: r.host}
		if r.bench.options.profiles != "" {
			k.args = []string{"--enable-pprof"}
		}
		r.side = k
	}
	defer func() {
		for _, s := range r.sides() {
			s.Close()
		}
	}()
	return f()
}

func (r *run) newHost(name string) (*testbed.Host, error) {
	host, err := r.bed.Host(name)
	if err == nil {
		host.Binary = r.bench.binary
	}
	return host, err
}

// compare leaves what the stock stack hasn't got out of Kedge.
func (r *run) compare() {
	if k, ok := r.side.(*kedge); ok {
		k.args = append(k.args, dnsOnly...)
	}
}

// whole measures all that one cluster can be asked in its life.
func (r *run) whole(ctx context.Context) error {
	b := r.bench
	r.compare()
	if err := r.step(ctx, "prepare", r.side.Prepare); err != nil {
		return err
	}
	r.calm()
	if err := r.step(ctx, "start", r.measureStart); err != nil {
		return err
	}
	if b.wants("idle") {
		if err := r.measureIdle(ctx); err != nil {
			return fmt.Errorf("idle: %w", err)
		}
	}
	if b.wants("dns") {
		if err := r.step(ctx, "dns", r.measureDNS); err != nil {
			return err
		}
	}
	if b.wants("api") {
		if err := r.step(ctx, "api", r.measureAPI); err != nil {
			return err
		}
	}
	if b.wants("pods", "restart") {
		if err := r.step(ctx, "pods", r.measurePods); err != nil {
			return err
		}
	}
	if b.wants("restart") {
		return r.step(ctx, "restart", r.measureRestart)
	}
	return nil
}

// first measures the very first start.
func (r *run) first(ctx context.Context) error {
	r.calm()
	return r.step(ctx, "first", r.measureFirst)
}

// step runs a part of the measures within its limit.
func (r *run) step(ctx context.Context, name string, do func(context.Context) error) error {
	return r.within(ctx, stepLimit, name, do)
}

func (r *run) within(ctx context.Context, limit time.Duration, name string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s", limit))
	defer cancel()
	if err := do(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// calm makes both sides begin alike: programs in the page cache, as on a machine
// that has just got them, and nothing waiting to be written.
func (r *run) calm() {
	files := []string{r.bench.binary}
	if r.name == stockSide {
		files, _ = filepath.Glob(filepath.Join(r.bench.programs.Dir, "*"))
	}
	for _, name := range files {
		if file, err := os.Open(name); err == nil {
			_, _ = io.Copy(io.Discard, file)
			_ = file.Close()
		}
	}
	unix.Sync()
	load, _ := os.ReadFile("/proc/loadavg")
	r.bench.say("%s: starting; the machine's load is %.4s", r.title, load)
}

func (r *run) keepLogs() error {
	dir := filepath.Join(filepath.Dir(r.bench.options.json), "bench-logs",
		strings.NewReplacer(" ", "-", ",", "").Replace(r.title))
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	r.bench.say("%s: logs are kept in %s", r.title, dir)
	var all []error
	for i, s := range r.sides() {
		all = append(all, s.CopyLogs(filepath.Join(dir, strconv.Itoa(i+1))))
	}
	return errors.Join(all...)
}

// results are the lines of the table.
func (b *bench) results() []result {
	var all []result
	for _, m := range b.metrics {
		if b.wants(m.Group) {
			all = append(all, newResult(m, b.values[kedgeSide][m.Key], b.values[stockSide][m.Key]))
		}
	}
	return all
}
