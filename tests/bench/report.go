package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// report is everything that was found out, as it is written to the file.
type report struct {
	Began      time.Time `json:"began"`
	Took       float64   `json:"took_seconds"`
	Machine    machine   `json:"machine"`
	Kubernetes string    `json:"kubernetes"`
	Runs       int       `json:"runs"`
	Idle       float64   `json:"idle_seconds"`
	Results    []result  `json:"results"`
	Failures   []string  `json:"failures"`
}

type machine struct {
	Kernel     string `json:"kernel"`
	Arch       string `json:"arch"`
	Processors int    `json:"processors"`
	MemoryMB   uint64 `json:"memory_mb"`
}

type result struct {
	metric
	Kedge *series  `json:"kedge,omitempty"`
	Stock *series  `json:"stock,omitempty"`
	Ratio *float64 `json:"ratio,omitempty"` // of the medians
	Goal  string   `json:"goal,omitempty"`
	OK    *bool    `json:"ok,omitempty"`
}

func newResult(m metric, kedge, stock []float64) result {
	r := result{metric: m, Kedge: newSeries(kedge), Stock: newSeries(stock), Goal: m.goal.String()}
	a, b := r.Kedge.median(), r.Stock.median()
	if ratio := a / b; !math.IsNaN(ratio) && !math.IsInf(ratio, 0) {
		r.Ratio = &ratio
	}
	if ok, known := m.goal.reached(a, b); known {
		r.OK = &ok
	}
	return r
}

func thisMachine() machine {
	m := machine{Arch: runtime.GOARCH, Processors: runtime.NumCPU()}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMB = uint64(info.Totalram) * uint64(info.Unit) / 1e6 //nolint:unconvert // 32 bits wide elsewhere
	}
	return m
}

// table prints what was measured, a line for each metric.
func (r *report) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tunit\tKedge\t(min–max)\tstock\t(min–max)\tratio\tgoal\t")
	for _, line := range r.Results {
		ratio, verdict := "", ""
		if line.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", *line.Ratio)
		}
		if line.OK != nil {
			verdict = map[bool]string{true: "ok", false: "missed"}[*line.OK]
		}
		fmt.Fprintln(w, strings.Join([]string{
			line.Name, line.Unit, line.cells(line.Kedge), line.cells(line.Stock), ratio, line.Goal, verdict,
		}, "\t"))
	}
	return w.Flush()
}

func (m metric) cells(s *series) string {
	if s == nil {
		return "–\t"
	}
	return fmt.Sprintf("%.*f\t(%.*f–%.*f)", m.digits, s.Median, m.digits, s.Min, m.digits, s.Max)
}

func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, append(text, '\n'), 0o644)
}
