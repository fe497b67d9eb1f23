package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// benchmarksGroup is what Go benchmarks of single parts measure.
const benchmarksGroup = "benchmarks"

// benchmark is a metric that comes from Go benchmarks of a package. The value is
// found in the times of an operation of each, by its name.
type benchmark struct {
	metric
	pkg, pattern string
	value        func(took map[string]time.Duration) (time.Duration, error)
	unit         time.Duration
}

var benchmarks = []benchmark{
	{
		metric: metric{"launch", benchmarksGroup, "what the launcher adds to a start", "ms", 2, goal{limit: 20}},
		pkg:    "./cmd/launcher", pattern: "^BenchmarkStart$", unit: time.Millisecond,
		value: func(took map[string]time.Duration) (time.Duration, error) {
			both, err := pick(took, "BenchmarkStart/launched", "BenchmarkStart/direct")
			if err != nil {
				return 0, err
			}
			return both[0] - both[1], nil
		},
	},
	{
		metric: metric{"policies", benchmarksGroup, "1,000 policies over 10,000 pods, computed", "s", 2, goal{limit: 2}},
		pkg:    "./pkg/netpol", pattern: "^BenchmarkCompute$/^1000_pods_here$", unit: time.Second,
		value: slowest("BenchmarkCompute/1000_pods_here"),
	},
	{
		metric: metric{"policy-pod", benchmarksGroup, "1,000 policies over 10,000 pods, a changed pod applied", "ms", 2, goal{limit: 100}},
		pkg:    "./pkg/netpol", pattern: "^BenchmarkTable$/^pod_change,_1000_pods_here", unit: time.Millisecond,
		value: slowest("BenchmarkTable/pod_change,_1000_pods_here,_local_true", "BenchmarkTable/pod_change,_1000_pods_here,_local_false"),
	},
}

func benchmarkMetrics() []metric {
	var all []metric
	for _, m := range benchmarks {
		all = append(all, m.metric)
	}
	return all
}

// slowest takes the most that one of the benchmarks needs.
func slowest(names ...string) func(map[string]time.Duration) (time.Duration, error) {
	return func(took map[string]time.Duration) (most time.Duration, err error) {
		all, err := pick(took, names...)
		for _, d := range all {
			most = max(most, d)
		}
		return most, err
	}
}

func pick(took map[string]time.Duration, names ...string) ([]time.Duration, error) {
	var all []time.Duration
	for _, name := range names {
		d, ok := took[name]
		if !ok {
			return nil, fmt.Errorf("%s has not run", name)
		}
		all = append(all, d)
	}
	return all, nil
}

// goBenchmarks runs all of them once.
func (b *bench) goBenchmarks(ctx context.Context, i int) {
	title := fmt.Sprintf("run %d of %d, benchmarks", i+1, b.options.runs)
	for _, m := range benchmarks {
		if ctx.Err() != nil {
			return
		}
		value, err := m.measure(ctx, b.root)
		if err != nil {
			b.fail("%s: %s: %v", title, m.Name, err)
			continue
		}
		b.say("%s: %s: %.*f %s", title, m.Name, m.digits, value, m.Unit)
		b.record(kedgeSide, m.Key, value)
	}
}

// measure runs the benchmarks of the repository at root.
func (m benchmark) measure(ctx context.Context, root string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-run=^$", "-bench="+m.pattern, m.pkg)
	cmd.Dir = root
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	value, err := m.value(parseBenchmarks(out.String()))
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	return float64(value) / float64(m.unit), nil
}

// parseBenchmarks reads what go test says of benchmarks: how long an operation of
// each takes, by name.
func parseBenchmarks(output string) map[string]time.Duration {
	took := map[string]time.Duration{}
	for line := range strings.Lines(output) {
		fields := strings.Fields(line) // name, operations, time, its unit
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") || fields[3] != "ns/op" {
			continue
		}
		nanoseconds, err := strconv.ParseFloat(fields[2], 64)
		if err != nil {
			continue
		}
		name := fields[0]
		if at := strings.LastIndexByte(name, '-'); at > 0 {
			if _, err := strconv.Atoi(name[at+1:]); err == nil {
				name = name[:at] // without the number of processors
			}
		}
		took[name] = time.Duration(nanoseconds)
	}
	return took
}
