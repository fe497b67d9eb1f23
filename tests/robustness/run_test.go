//go:build robustness

package robustness

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/kedge-k8s/kedge/tests/robustness/history"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

var (
	percent = flag.Int("percent", 0, "`share` of the long form's faults; 0: the short form")
	seed    = flag.Uint64("seed", 0, "`number` that the choice of faults follows from; 0: any")
)

// limit is how long anything may take that has to happen.
const limit = 2 * time.Minute

// timeToCheck is what remains of the test's time when there are no more faults.
const timeToCheck = time.Minute

// ready are the arguments of servers that start fast: what runs in pods is not
// looked at here.
var ready = []string{
	"--disable-agent", "--disable=coredns,dashboard,gateway-api,ingress,local-storage,metrics-server,runtimes,servicelb",
	"--disable-helm-controller",
}

// faultKind is a kind of fault, and how many of it there are in the short form and
// in the long one.
type faultKind struct {
	name        string
	short, long int
	strike      func() error // and makes it good again
}

func (k faultKind) count() int {
	if *percent == 0 {
		return k.short
	}
	return max(1, k.long**percent/100)
}

// run is one cluster, its clients and its faults.
type run struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand // of the faults
	bed     *testbed.Bed
	servers []*server
	history *history.History
	watches []*watcher
	clients atomic.Int64

	mu      sync.Mutex
	current []string // keys that clients use
	created int      // keys
	errors  map[string]int
	faults  map[string]int

	stopLoad func()
}

// newRun makes hosts for servers. What the hosts need is done to them before the
// first server starts.
func newRun(t *testing.T, servers int, prepare func(*testbed.Host), args ...string) *run {
	t.Helper()
	r := &run{
		t: t, seed: cmp.Or(*seed, rand.Uint64()), bed: testbed.New(t), history: history.New(),
		errors: map[string]int{}, faults: map[string]int{},
	}
	t.Logf("seed %d", r.seed)
	r.rng = rand.New(rand.NewPCG(r.seed, 0))
	for range keysAtATime {
		r.newKey()
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	for i := range servers {
		host, err := r.bed.Host(fmt.Sprintf("server-%d", i+1))
		if err != nil {
			t.Fatal(err)
		}
		s := &server{host: host, args: slices.Concat(ready, args)}
		if prepare != nil {
			prepare(host)
		}
		if i > 0 {
			s.args = append(slices.Clone(ready), r.join(host)...)
		}
		r.servers = append(r.servers, s)
		r.must(s.start())
		r.must(s.process.WaitAPI(t.Context(), limit))
		url, web, err := host.API(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		web.Timeout = 0 // each request has its own
		s.api = &api{url, web}
		go s.supervise(ctx, t)
	}
	if servers > 1 {
		// The first one begins no new cluster when it is started again.
		r.servers[0].args = ready
	}
	object := map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]string{"name": namespace}}
	r.eventually("the clients' namespace to be made", func(ctx context.Context) (bool, string) {
		err := r.servers[0].api.send(ctx, http.MethodPost, "/api/v1/namespaces", namespace, object, nil)
		return err == nil || errors.Is(err, errRefused), fmt.Sprint(err)
	})
	for _, s := range r.servers {
		r.watches = append(r.watches, &watcher{run: r, servers: []*server{s}, seen: &history.Watch{Name: s.host.Name}})
	}
	if servers > 1 {
		r.watches = append(r.watches, &watcher{run: r, servers: r.servers, seen: &history.Watch{Name: "all servers in turn"}})
	}
	return r
}

// join gives a host what it needs to join the first server, and returns the
// arguments.
func (r *run) join(host *testbed.Host) []string {
	r.t.Helper()
	first := r.servers[0].host
	content, err := os.ReadFile(first.Path("/var/lib/kedge/server/token"))
	r.must(err)
	const file = "/etc/kedge/token"
	r.must(os.MkdirAll(filepath.Dir(host.Path(file)), 0o755))
	r.must(os.WriteFile(host.Path(file), content, 0o600))
	return []string{"--server", "https://" + first.Address.String() + ":6443", "--token-file", file}
}

func (r *run) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) eventually(what string, check func(context.Context) (bool, string)) {
	r.t.Helper()
	r.must(testbed.Wait(r.t.Context(), what, limit, check))
}

// keys are those that the clients use now.
func (r *run) keys() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// newKey gives the clients another key, in place of the oldest one: what is at
// rest has to survive as well, and short histories are checked fast.
func (r *run) newKey() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.created++
	next := append(slices.Clone(r.current), fmt.Sprintf("%s%04d", keyPrefix, r.created))
	r.current = next[max(0, len(next)-keysAtATime):]
}

// newClient is a number that no client has had.
func (r *run) newClient() int { return int(r.clients.Add(1)) - 1 }

var digits = regexp.MustCompile(`\d[\d.:]*`)

// failed counts an error that a client has met.
func (r *run) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors[digits.ReplaceAllString(err.Error(), "#")]++
}

// begin lets the clients and watchers work, until end.
func (r *run) begin() {
	ctx, cancel := context.WithCancel(r.t.Context())
	var working sync.WaitGroup
	for i := range clientsPerRun {
		number := r.newClient()
		c := &client{
			run: r, server: r.servers[i%len(r.servers)], name: fmt.Sprintf("c%d", number), number: number,
			rng: rand.New(rand.NewPCG(r.seed, uint64(number+1))), known: map[string]history.Object{},
		}
		working.Go(func() { c.work(ctx) })
	}
	for _, w := range r.watches {
		working.Go(func() { w.follow(ctx) })
	}
	r.stopLoad = func() { cancel(); working.Wait() }
}

// end stops the clients and watchers, and waits for their last answers.
func (r *run) end() { r.stopLoad() }

// goOn waits until every server acknowledges writes.
func (r *run) goOn() error {
	var before []int64
	for _, s := range r.servers {
		before = append(before, s.acknowledged.Load())
	}
	return testbed.Wait(r.t.Context(), "each server to acknowledge writes", limit, func(context.Context) (bool, string) {
		for i, s := range r.servers {
			if s.acknowledged.Load() < before[i]+2 { // the first may have been on its way
				return false, s.host.Name + " does not; clients have met " + r.commonErrors()
			}
		}
		return true, ""
	})
}

// someTime is at random, and no longer than the limit.
func (r *run) someTime(most time.Duration) time.Duration {
	return time.Duration(r.rng.Int64N(int64(most)))
}

// wait lets the load go on for some time.
func (r *run) wait(most time.Duration) { time.Sleep(r.someTime(most)) }

// injure has the faults happen, in an order of chance, each under load.
func (r *run) injure(kinds ...faultKind) {
	r.t.Helper()
	var order []faultKind
	for _, kind := range kinds {
		order = append(order, slices.Repeat([]faultKind{kind}, kind.count())...)
	}
	r.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	r.begin()
	r.must(r.goOn())
	for i, kind := range order {
		if end, ok := r.t.Deadline(); ok && time.Until(end) < timeToCheck {
			if i == 0 {
				r.t.Fatal("there is no time for a single fault: raise -timeout")
			}
			r.t.Logf("the test's time is nearly up: %d faults are left out", len(order)-i)
			break
		}
		r.wait(2 * time.Second)
		begin := time.Now()
		if err := kind.strike(); err != nil {
			r.t.Fatalf("fault %d, %s: %v", i+1, kind.name, err)
		}
		if err := r.goOn(); err != nil {
			r.t.Fatalf("after fault %d, %s: %v", i+1, kind.name, err)
		}
		r.faults[kind.name]++
		r.newKey()
		r.t.Logf("%d/%d %s, %s until all went on", i+1, len(order), kind.name, time.Since(begin).Round(100*time.Millisecond))
	}
	r.wait(2 * time.Second)
	r.finish()
}

// finish reads what is there when nothing happens any more, and checks the history.
func (r *run) finish() {
	r.t.Helper()
	// The watches are complete when they have seen this one.
	mark := history.Operation{Client: r.newClient(), Kind: history.Create, Key: keyPrefix + "end", Value: "end", Begin: r.history.Now()}
	r.eventually("the last write", func(ctx context.Context) (bool, string) {
		version, err := r.servers[0].api.write(ctx, mark.Key, mark.Value, 0)
		if errors.Is(err, errRefused) { // it was written without an answer
			var o history.Object
			o, err = r.servers[0].api.read(ctx, mark.Key)
			version = o.Version
		}
		mark.Version = version
		return err == nil, fmt.Sprint(err)
	})
	mark.Outcome, mark.End = history.Done, r.history.Now()
	r.history.Add(mark)
	for _, w := range r.watches {
		r.eventually("the watch of "+w.seen.Name+" to come to the end", func(context.Context) (bool, string) {
			return w.seen.Version() >= mark.Version, fmt.Sprintf("it is at version %d of %d", w.seen.Version(), mark.Version)
		})
	}
	r.end()
	for _, s := range r.servers {
		r.eventually("a list of all on "+s.host.Name, func(ctx context.Context) (bool, string) {
			number, begin := r.newClient(), r.history.Now()
			all, _, err := s.api.list(ctx)
			if err != nil {
				return false, err.Error()
			}
			end := r.history.Now()
			keys := history.Keys(r.history.Operations())
			for key := range all {
				if !slices.Contains(keys, key) {
					keys = append(keys, key)
				}
			}
			for _, key := range keys {
				r.history.Add(history.Operation{
					Client: number, Kind: history.Read, Key: key, Value: all[key].Value, Version: all[key].Version,
					Outcome: history.Done, Begin: begin, End: end,
				})
			}
			return true, ""
		})
	}
	r.check()
}

// check looks at what was recorded and tells the figures.
func (r *run) check() {
	r.t.Helper()
	dir, err := os.MkdirTemp(cmp.Or(os.Getenv("KEDGE_TEST_LOGS"), os.TempDir()), "kedge-robustness-")
	r.must(err)
	operations := r.history.Operations()
	var watches []*history.Watch
	for _, w := range r.watches {
		watches = append(watches, w.seen)
	}
	report := history.Check(operations, watches, dir)
	const shown = 20
	for _, fault := range report.Faults[:min(shown, len(report.Faults))] {
		r.t.Error(fault)
	}
	if more := len(report.Faults) - shown; more > 0 {
		r.t.Errorf("and %d faults more", more)
	}
	if len(report.Faults) > 0 {
		r.t.Errorf("to choose the same faults: -seed %d -percent %d", r.seed, *percent)
	}
	_ = os.Remove(dir) // unless there is something in it
	r.t.Logf("clients have met %s", r.commonErrors())
	starts := 0
	for _, s := range r.servers {
		starts += s.starts
	}
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(r.faults)) {
		faults = append(faults, fmt.Sprintf("%d %s", r.faults[name], name))
	}
	results = append(results, result{
		name: r.t.Name(), faults: strings.Join(faults, ", "), starts: starts, report: report,
		took: r.history.Now(), pause: longestPause(operations),
	})
}

// commonErrors are those that clients have met most often.
func (r *run) commonErrors() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	messages := slices.SortedFunc(maps.Keys(r.errors), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.errors[b], r.errors[a]), strings.Compare(a, b))
	})
	text := fmt.Sprintf("%d kinds of errors", len(messages))
	for _, message := range messages[:min(10, len(messages))] {
		text += fmt.Sprintf("\n  %4d × %.200s", r.errors[message], message)
	}
	return text
}

// longestPause is the longest time without an acknowledged write by any client.
func longestPause(operations []history.Operation) time.Duration {
	var ends []time.Duration
	for _, o := range operations {
		if o.Outcome == history.Done && o.Kind != history.Read {
			ends = append(ends, o.End)
		}
	}
	slices.Sort(ends)
	var longest time.Duration
	for i := 1; i < len(ends); i++ {
		longest = max(longest, ends[i]-ends[i-1])
	}
	return longest
}

// result is a line of the table at the end.
type result struct {
	name, faults string
	starts       int
	report       history.Report
	took, pause  time.Duration
}

var results []result

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if len(results) > 0 {
		fmt.Println()
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "run\tfaults\tstarts\toperations\tacknowledged writes\tunknown\tevents\twatches anew\tlongest pause\tlost writes\tfaults found\ttook")
		for _, r := range results {
			fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f s\t%d\t%d\t%.0f s\n",
				strings.TrimPrefix(r.name, "Test"), r.faults, r.starts, r.report.Operations, r.report.Acknowledged, r.report.Unknown,
				r.report.Events, r.report.Anew, r.pause.Seconds(), len(r.report.Lost), len(r.report.Faults), r.took.Seconds())
		}
		_ = table.Flush()
	}
	os.Exit(code)
}
