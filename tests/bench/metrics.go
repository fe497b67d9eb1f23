package main

import (
	"fmt"
	"math"
	"slices"
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

// goal is what Kedge wants to reach. The zero value is none.
type goal struct {
	ratio float64 // of the stock stack's
	limit float64 // in the metric's unit
}

func (g goal) String() string {
	switch {
	case g.ratio != 0:
		return fmt.Sprintf("≤ %g × stock", g.ratio)
	case g.limit != 0:
		return fmt.Sprintf("≤ %g", g.limit)
	}
	return ""
}

// reached says whether medians reach the goal; known is false when there is no
// goal, or nothing to tell by.
func (g goal) reached(kedge, stock float64) (ok, known bool) {
	switch {
	case g.ratio != 0:
		return kedge <= g.ratio*stock, !math.IsNaN(kedge) && !math.IsNaN(stock)
	case g.limit != 0:
		return kedge <= g.limit, !math.IsNaN(kedge)
	}
	return false, false
}

// metrics are all that is measured, in the order of the table.
func metrics() []metric {
	all := []metric{
		{"node-ready", "start", "start to Node Ready", "s", 2, goal{ratio: 1}},
		{"dns", "start", "start to DNS answering", "s", 2, goal{}},
		{"first", "first", "first start from the bare file to DNS answering", "s", 2, goal{limit: 8}},
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
		{"size", "size", "size of the file", "MB", 1, goal{limit: 95}},
	}
	var api []metric
	for _, workers := range apiWorkers {
		for _, operation := range apiOperations {
			for _, percentile := range apiPercentiles {
				api = append(api, metric{
					Key: apiKey(operation, workers, percentile), Group: "api",
					Name: fmt.Sprintf("API %s, %s, p%d", operation, plural(workers, "client"), percentile), Unit: "ms", digits: 2,
				})
			}
		}
	}
	before := slices.IndexFunc(all, func(m metric) bool { return m.Group == "pods" })
	return slices.Insert(all, before, api...)
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
	for _, m := range metrics() {
		if !slices.Contains(names, m.Group) {
			names = append(names, m.Group)
		}
	}
	return names
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
