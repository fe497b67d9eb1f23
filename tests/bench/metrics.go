package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// metric is a line of the table.
type metric struct {
	Key    string `json:"key"`
	Group  string `json:"group"` // what -only takes
	Name   string `json:"name"`
	Unit   string `json:"unit"`
	digits int    // after the decimal point
	goal   goal
}

// goal is what Kedge wants to reach: all of it that isn't zero.
type goal struct {
	ratio float64 // of the stock stack's
	limit float64 // in the metric's unit
}

func (g goal) String() string {
	var parts []string
	if g.ratio != 0 {
		parts = append(parts, fmt.Sprintf("≤ %g × stock", g.ratio))
	}
	if g.limit != 0 {
		parts = append(parts, fmt.Sprintf("≤ %g", g.limit))
	}
	return strings.Join(parts, ", ")
}

// reached says whether medians reach the goal; known is false when there is no
// goal, or not all to tell by.
func (g goal) reached(kedge, stock float64) (ok, known bool) {
	if g == (goal{}) || math.IsNaN(kedge) || (g.ratio != 0 && math.IsNaN(stock)) {
		return false, false
	}
	return (g.ratio == 0 || kedge <= g.ratio*stock) && (g.limit == 0 || kedge <= g.limit), true
}

// metrics are all that is measured, in the order of the table: at scale, with each
// of the numbers of nodes.
func metrics(nodes []int) []metric {
	all := []metric{
		{"node-ready", "start", "start to Node Ready", "s", 2, goal{ratio: 1}},
		{"dns", "start", "start to DNS answering", "s", 2, goal{}},
		{"first", "first", "first start from the bare file to DNS answering", "s", 2, goal{limit: 8}},
		{"addons", "addons", "start to all add-ons ready", "s", 2, goal{limit: 12}},
		{"pss", "idle", "memory, PSS, idle", "MB", 0, goal{ratio: 0.45}},
		{"anonymous", "idle", "memory, anonymous, idle", "MB", 0, goal{ratio: 0.6}},
		{"shims", "idle", "memory, PSS of the pods' shims, idle", "MB", 0, goal{}},
		{"cpu", "idle", "processor, idle", "ms/s", 1, goal{ratio: 0.6}},
		{"writes", "idle", "writes, idle", "kB/s", 1, goal{ratio: 0.1}},
		{"pod", "pods", "Deployment of 1 pod, applied to Ready", "s", 2, goal{ratio: 1}},
		{"pods", "pods", "Deployment of 30 pods, applied to all Ready", "s", 2, goal{ratio: 1}},
		{"pods-pss", "pods", "memory, PSS, with 31 pods and after all above", "MB", 0, goal{}},
		{"stop", "restart", "stop with 31 pods running", "s", 2, goal{limit: 10}},
		{"restart", "restart", "restart to API ready, with 31 pods running", "s", 2, goal{limit: 3}},
		{"join", "agent", "agent: start to Node Ready", "s", 2, goal{limit: 5}},
		{"agent-pss", "agent", "agent: memory, PSS, idle", "MB", 0, goal{ratio: 0.55, limit: 110}},
		{"agent-anonymous", "agent", "agent: memory, anonymous, idle", "MB", 0, goal{}},
		{"agent-cpu", "agent", "agent: processor, idle", "ms/s", 1, goal{limit: 10}},
		{"agent-writes", "agent", "agent: writes, idle", "kB/s", 1, goal{}},
		{"join-together", "agent", fmt.Sprintf("agent: start of %d at once to the last one Ready", joinTogether), "s", 2, goal{limit: 5}},
		{"size", "size", "size of the file", "MB", 1, goal{limit: 95}},
	}
	var load []metric
	for _, p := range dnsPercentiles {
		m := metric{
			Key: dnsKey(p), Group: "dns",
			Name: fmt.Sprintf("DNS at %d queries/s, p%d", dnsLoad.Rate, p), Unit: "ms", digits: 2,
		}
		if p == 99 {
			m.goal = goal{limit: 5}
		}
		load = append(load, m)
	}
	for _, workers := range apiWorkers {
		for _, operation := range apiOperations {
			for _, percentile := range apiPercentiles {
				load = append(load, metric{
					Key: apiKey(operation, workers, percentile), Group: "api",
					Name: fmt.Sprintf("API %s, %s, p%d", operation, plural(workers, "client"), percentile), Unit: "ms", digits: 2,
				})
			}
		}
	}
	before := slices.IndexFunc(all, func(m metric) bool { return m.Group == "pods" })
	return slices.Concat(slices.Insert(all, before, load...), serversMetrics(), benchmarkMetrics(), sqliteMetrics(), scaleMetrics(nodes))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// groups are the names that -only takes.
func groups() []string {
	var names []string
	for _, m := range metrics(scaleNodes) {
		if !slices.Contains(names, m.Group) {
			names = append(names, m.Group)
		}
	}
	return names
}

// longGroups take a quarter of an hour or more alone.
var longGroups = []string{scaleGroup, sqliteGroup}

// defaultGroups are those that don't take a quarter of an hour alone.
func defaultGroups() []string {
	return slices.DeleteFunc(groups(), func(name string) bool { return slices.Contains(longGroups, name) })
}

// series is what the runs of one side gave for one metric.
type series struct {
	Runs   []float64 `json:"runs"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
}

func newSeries(runs []float64) *series {
	if len(runs) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(runs))
	middle := len(sorted) / 2
	median := sorted[middle]
	if len(sorted)%2 == 0 {
		median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return &series{Runs: runs, Median: median, Min: sorted[0], Max: sorted[len(sorted)-1]}
}

// median of what may not have been measured.
func (s *series) median() float64 {
	if s == nil {
		return math.NaN()
	}
	return s.Median
}
