package hostcheck

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Level says how much a finding matters, in rising order.
type Level int

// The levels, in rising order.
const (
	OK      Level = iota // as it should be
	Unknown              // could not be found out
	Warning              // Kedge runs, but something will be missing or slow
	Failure              // Kedge can't run
)

// String returns the level as a person reads it in a table.
func (l Level) String() string {
	switch l {
	case OK:
		return "ok"
	case Unknown:
		return "unknown"
	case Warning:
		return "warning"
	case Failure:
		return "FAILURE"
	}
	return fmt.Sprintf("level %d", int(l))
}

// Finding is what was found out about one thing Kedge needs.
type Finding struct {
	Group  string // the heading it belongs under
	Name   string // what was looked at
	Level  Level
	Detail string // what was found, to be understood without the name
	Fix    string // what to type or to add; never empty for a Warning or a Failure
}

// Err returns the finding as an error if it is a Failure, else nil.
func (f Finding) Err() error {
	if f.Level != Failure {
		return nil
	}
	return errors.New(f.Detail + ": " + f.Fix)
}

// Worst returns the highest level among the findings; OK if there are none.
func Worst(findings []Finding) Level {
	worst := OK
	for _, f := range findings {
		worst = max(worst, f.Level)
	}
	return worst
}

func okf(name, format string, args ...any) Finding {
	return Finding{Name: name, Level: OK, Detail: fmt.Sprintf(format, args...)}
}

func unknownf(name, format string, args ...any) Finding {
	return Finding{Name: name, Level: Unknown, Detail: fmt.Sprintf(format, args...)}
}

var colours = map[Level]string{
	OK:      "\x1b[32m",
	Unknown: "\x1b[36m",
	Warning: "\x1b[33m",
	Failure: "\x1b[31;1m",
}

// Print writes the findings as PrintTable does, and a summary in the end.
func Print(w io.Writer, findings []Finding, colour bool) error {
	if err := PrintTable(w, findings, colour); err != nil {
		return err
	}
	text := summary(findings)
	if colour {
		text = colours[Worst(findings)] + text + "\x1b[0m"
	}
	_, err := io.WriteString(w, text+"\n")
	return err
}

// PrintTable writes the findings as a table for a person: under their groups'
// headings in the order they come, each fix below its finding. Fixes are not
// wrapped, so that they can be copied.
func PrintTable(w io.Writer, findings []Finding, colour bool) error {
	paint := func(l Level, s string) string {
		if !colour {
			return s
		}
		return colours[l] + s + "\x1b[0m"
	}
	levelWidth, nameWidth := 0, 0
	for _, f := range findings {
		levelWidth = max(levelWidth, len(f.Level.String()))
		nameWidth = max(nameWidth, len(f.Name))
	}
	indent := strings.Repeat(" ", 2+levelWidth+2)

	var b strings.Builder
	group := ""
	for i, f := range findings {
		if f.Group != group || i == 0 {
			if i > 0 {
				b.WriteByte('\n')
			}
			group = f.Group
			b.WriteString(group + "\n")
		}
		level := paint(f.Level, fmt.Sprintf("%-*s", levelWidth, f.Level))
		fmt.Fprintf(&b, "  %s  %-*s  %s\n", level, nameWidth, f.Name, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(&b, "%sfix: %s\n", indent, strings.ReplaceAll(f.Fix, "\n", "\n"+indent+"     "))
		}
	}
	if len(findings) > 0 {
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// summary counts the findings and says what they come to.
func summary(findings []Finding) string {
	count := map[Level]int{}
	for _, f := range findings {
		count[f.Level]++
	}
	s := fmt.Sprintf("%d ok, %d unknown, %s, %s", count[OK], count[Unknown],
		plural(count[Warning], "warning"), plural(count[Failure], "failure"))
	switch {
	case len(findings) == 0:
		return "Nothing was checked."
	case count[Failure] > 0:
		return s + ". Kedge can't run here until what failed is fixed."
	case count[Unknown] > 0:
		return s + ". Nothing found that stops Kedge, but not all could be found out."
	default:
		return s + ". Kedge can run here."
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// size returns bytes as a person reads them.
func size(bytes uint64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}
