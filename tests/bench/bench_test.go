package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/payload"
)

func TestSeries(t *testing.T) {
	for _, test := range []struct {
		runs             []float64
		median, min, max float64
	}{
		{[]float64{3}, 3, 3, 3},
		{[]float64{4, 1}, 2.5, 1, 4},
		{[]float64{9, 2, 5}, 5, 2, 9},
		{[]float64{9, 2, 5, 4}, 4.5, 2, 9},
	} {
		s := newSeries(test.runs)
		if s.Median != test.median || s.Min != test.min || s.Max != test.max {
			t.Errorf("%v: got %+v", test.runs, s)
		}
	}
	if newSeries(nil) != nil || !math.IsNaN(newSeries(nil).median()) {
		t.Error("a series of nothing is something")
	}
}

func TestPercentile(t *testing.T) {
	var sorted []time.Duration
	for i := range 500 {
		sorted = append(sorted, time.Duration(i+1))
	}
	for p, want := range map[int]time.Duration{50: 250, 99: 495, 100: 500} {
		if got := percentile(sorted, p); got != want {
			t.Errorf("p%d is %d, want %d", p, got, want)
		}
	}
}

func TestHammer(t *testing.T) {
	took, err := hammer(4, func(i int) error {
		if i < apiWarmUp {
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	})
	if err != nil || len(took) != apiRequests || !slices.IsSorted(took) {
		t.Errorf("%d values, sorted: %t, error %v", len(took), slices.IsSorted(took), err)
	}
	if took[len(took)/2] > 25*time.Millisecond {
		t.Errorf("the warm-up is counted: %s", took[len(took)/2])
	}
	if _, err := hammer(2, func(i int) error {
		if i == 7 {
			return os.ErrInvalid
		}
		return nil
	}); err == nil {
		t.Error("a request's error is lost")
	}
}

func TestMetrics(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range metrics(scaleNodes) {
		if seen[m.Key] || m.Key == "" || m.Name == "" || m.Unit == "" {
			t.Errorf("metric %+v is there twice, or lacks something", m)
		}
		seen[m.Key] = true
	}
	const want = "start,first,addons,idle,dns,api,pods,restart,agent,size,servers,benchmarks"
	if got := strings.Join(defaultGroups(), ","); got != want {
		t.Errorf("default groups are %s, want %s", got, want)
	}
	if got := strings.Join(groups(), ","); got != want+",sqlite,scale" {
		t.Errorf("groups are %s, want %s,sqlite,scale", got, want)
	}
}

func TestWriter(t *testing.T) {
	const outage = 300 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	var asked []int
	began := time.Now()
	server := func(i int, answer func(n int) error) func(context.Context, int) error {
		return func(_ context.Context, n int) error { asked = append(asked, i); return answer(n) }
	}
	w := &writer{servers: []func(context.Context, int) error{
		server(0, func(n int) error {
			if n == 1 {
				return os.ErrInvalid
			}
			return nil
		}),
		server(1, func(n int) error {
			switch n {
			case 2:
				time.Sleep(outage)
			case 4:
				stop()
			}
			return nil
		}),
	}}
	w.write(ctx)
	if want := []int{0, 0, 1, 1, 1}; !slices.Equal(asked, want) {
		t.Errorf("servers %v were asked, want %v", asked, want)
	}
	if w.acknowledged != 3 || w.failed != 1 || !errors.Is(w.longestAfter, os.ErrInvalid) || !errors.Is(w.last, os.ErrInvalid) {
		t.Errorf("got %+v", w)
	}
	if w.longest < outage || w.longest > time.Since(began) || w.longestFrom.Before(began) {
		t.Errorf("the longest pause is %s", w.longest)
	}
}

func TestAnotherFile(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	const launcher, stored = "launcher", "a payload"
	trailer := payload.Trailer{Offset: int64(len(launcher)), Length: int64(len(stored)), Sum: sha256.Sum256([]byte(stored))}
	if err := os.WriteFile(from, trailer.Append([]byte(launcher+stored)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := anotherFile(from, to); err != nil {
		t.Fatal(err)
	}
	file, err := payload.Open(to, to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	content, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if file.ID() == trailer.ID() || file.Sum != sha256.Sum256(content[file.Offset:file.Offset+file.Length]) || !strings.HasPrefix(string(content), launcher+stored) {
		t.Errorf("the file is %+v: %q", file.Trailer, content)
	}
}

func TestParseBenchmarks(t *testing.T) {
	const output = `goos: linux
cpu: of this machine
BenchmarkStart/direct-2         	    1000	   1200500 ns/op
BenchmarkStart/launched-2       	     500	   3700500 ns/op	     16 B/op	       1 allocs/op
BenchmarkOne/a_case 	       2	 512.25 ns/op
BenchmarkBroken/other-2 	 1000 B/op
PASS
ok  	example.org/some/package	3.2s
`
	want := map[string]time.Duration{"BenchmarkStart/direct": 1200500, "BenchmarkStart/launched": 3700500, "BenchmarkOne/a_case": 512}
	got := parseBenchmarks(output)
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if added, err := benchmarks[0].value(got); err != nil || added != 2500*time.Microsecond {
		t.Errorf("the launcher adds %s, error %v", added, err)
	}
	if _, err := benchmarks[1].value(got); err == nil || !strings.Contains(err.Error(), "has not run") {
		t.Errorf("a benchmark that has not run gives the error %v", err)
	}
	if most, err := slowest("BenchmarkStart/launched", "BenchmarkStart/direct")(got); err != nil || most != 3700500 {
		t.Errorf("the slowest takes %s, error %v", most, err)
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-runs", "2", "-only", "size,api", "-stock=false"})
	if err != nil || o.runs != 2 || o.stock || !slices.Equal(o.only, []string{"size", "api"}) || !slices.Equal(o.nodes, scaleNodes) {
		t.Errorf("got %+v, error %v", o, err)
	}
	if o, err = parse([]string{"-only", "scale", "-nodes", "7,30"}); err != nil || !slices.Equal(o.nodes, []int{7, 30}) {
		t.Errorf("got %+v, error %v", o, err)
	}
	for _, args := range [][]string{{"-only", "sise"}, {"-runs", "0"}, {"-nodes", "10,0"}, {"-nodes", "251"}, {"-nodes", ""}, {"more"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}

func TestReport(t *testing.T) {
	ratio := metric{"a", "g", "ratio", "s", 2, goal{ratio: 0.5}}
	limit := metric{"b", "g", "limit", "MB", 0, goal{limit: 95}}
	both := metric{"d", "g", "both", "MB", 0, goal{ratio: 0.5, limit: 100}}
	none := metric{"c", "g", "none", "ms", 1, goal{}}
	r := &report{Results: []result{
		newResult(ratio, []float64{1, 2, 3}, []float64{4, 4, 5}),
		newResult(ratio, []float64{3}, []float64{4}),
		newResult(limit, []float64{95.5}, nil),
		newResult(none, nil, []float64{1.25}),
		newResult(ratio, []float64{0}, []float64{0}),
		newResult(both, []float64{99}, []float64{200}),
		newResult(both, []float64{99}, []float64{190}),
		newResult(both, []float64{101}, []float64{300}),
		newResult(both, []float64{99}, nil),
	}}
	var out strings.Builder
	if err := r.table(&out); err != nil {
		t.Fatal(err)
	}
	const want = `       unit  Kedge  (min–max)    stock  (min–max)    ratio  goal                  
ratio  s     2.00   (1.00–3.00)  4.00   (4.00–5.00)  0.50   ≤ 0.5 × stock         ok
ratio  s     3.00   (3.00–3.00)  4.00   (4.00–4.00)  0.75   ≤ 0.5 × stock         missed
limit  MB    96     (96–96)      –                          ≤ 95                  missed
none   ms    –                   1.2    (1.2–1.2)                                 
ratio  s     0.00   (0.00–0.00)  0.00   (0.00–0.00)         ≤ 0.5 × stock         ok
both   MB    99     (99–99)      200    (200–200)    0.49   ≤ 0.5 × stock, ≤ 100  ok
both   MB    99     (99–99)      190    (190–190)    0.52   ≤ 0.5 × stock, ≤ 100  missed
both   MB    101    (101–101)    300    (300–300)    0.34   ≤ 0.5 × stock, ≤ 100  missed
both   MB    99     (99–99)      –                          ≤ 0.5 × stock, ≤ 100  
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if text, err := json.Marshal(r); err != nil || !strings.Contains(string(text), `"ratio":0.5`) {
		t.Errorf("JSON is %s, error %v", text, err)
	}
}

func TestPace(t *testing.T) {
	sent := 0
	took, err := pace(t.Context(), time.Millisecond, 100*time.Millisecond, func(i int) error {
		if i != sent {
			t.Errorf("request %d comes after %d others", i, sent)
		}
		if sent++; i == 0 {
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
	if err != nil || len(took) != sent || !slices.IsSorted(took) || took[len(took)-1] < 20*time.Millisecond {
		t.Errorf("%d values for %d requests, the last %s, error %v", len(took), sent, took[len(took)-1], err)
	}
	if sent > 100 {
		t.Errorf("%d requests in 100 intervals", sent)
	}
	_, err = pace(t.Context(), time.Millisecond, time.Minute, func(i int) error {
		if i == 2 {
			return os.ErrInvalid
		}
		return nil
	})
	if !errors.Is(err, os.ErrInvalid) {
		t.Errorf("got error %v", err)
	}
}

func TestRaise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limit")
	if err := os.WriteFile(path, []byte("128\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		least  int
		during string
	}{{100, "128\n"}, {300, "300"}} {
		restore, err := raise(path, test.least)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != test.during {
			t.Errorf("at least %d: the limit is %q, error %v", test.least, text, err)
		}
		restore()
		if text, err := os.ReadFile(path); err != nil || string(text) != "128\n" {
			t.Errorf("after at least %d: the limit is %q, error %v", test.least, text, err)
		}
	}
	if _, err := raise(path+"-missing", 1); err == nil {
		t.Error("a limit that isn't there is raised")
	}
}

func TestAddressCommands(t *testing.T) {
	commands := addressCommands(maxNodes)
	if got := strings.Count(commands, "\n"); got != maxNodes {
		t.Errorf("%d commands for %d nodes", got, maxNodes)
	}
	if !strings.HasPrefix(commands, "address add 198.18.1.1/32 dev eth0\n") ||
		!strings.HasSuffix(commands, "\naddress add 198.18.1.250/32 dev eth0\n") {
		t.Errorf("got %s", commands)
	}
}

func TestBusy(t *testing.T) {
	const stat = "cpu  10 2 30 4000 500 6 7 8 9 10\ncpu0 1 2 3\n"
	if busy, err := busyOf([]byte(stat)); err != nil || busy != 630*time.Millisecond {
		t.Errorf("busy for %s, error %v", busy, err)
	}
	for _, stat := range []string{"", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3", "cpu 1 2 3 4 5 x 7 8"} {
		if _, err := busyOf([]byte(stat)); err == nil {
			t.Errorf("%q is taken", stat)
		}
	}
	second := func(n int) usage { return usage{processor: time.Duration(n) * time.Second} }
	before := loads{server: second(1), hollow: second(2), all: 100 * time.Second}
	server, hollow, rest := loads{server: second(11), hollow: second(7), all: 120 * time.Second}.since(before)
	if server != 10*time.Second || hollow != 5*time.Second || rest != 5*time.Second {
		t.Errorf("server %s, hollow nodes %s, rest %s", server, hollow, rest)
	}
}

func TestOwnProcess(t *testing.T) {
	pid := os.Getpid()
	found, err := processesOf(pid)
	if err != nil || !slices.Contains(found.stack, pid) {
		t.Errorf("this process isn't among %v, error %v", found.stack, err)
	}
	before, err := usageOf([]int{pid})
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 100*time.Millisecond; {
		_ = len(out())
	}
	after, err := usageOf([]int{pid})
	if used := after.processor - before.processor; err != nil || used < 20*time.Millisecond || used > time.Second {
		t.Errorf("100 ms of work are %s, error %v", used, err)
	}
	ballast := make([]byte, 50e6)
	for i := range ballast {
		ballast[i] = 1
	}
	used, err := memoryOf([]int{pid})
	if err != nil || used.anonymous < 50 || used.pss < used.anonymous || used.pss > 500 {
		t.Errorf("with 50 MB the memory is %+v, error %v", used, err)
	}
	if ballast[len(ballast)-1] != 1 {
		t.Error("the compiler has done away with the memory")
	}
	if peak, err := peakOf(pid); err != nil || peak < used.anonymous {
		t.Errorf("the largest size is %f MB, error %v", peak, err)
	}
	if used, err := memoryOf([]int{1 << 30}); err != nil || used.pss != 0 {
		t.Errorf("memory of no process is %+v, error %v", used, err)
	}
}

// out keeps the processor busy.
func out() []byte { return make([]byte, 64<<10) }
