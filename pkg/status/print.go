package status

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Form is how a report is printed.
type Form struct {
	Width  int  // of the terminal in characters; 0: lines may be of any length
	Colour bool // the state of things also in colours
}

const (
	red    = "\x1b[31;1m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
)

// maxProblems is how many problems a screen shows, maxNodes how many nodes.
const (
	maxProblems = 8
	maxNodes    = 12
)

// Print writes the report for a person.
func (r *Report) Print(w io.Writer, form Form) error {
	p := &printer{form: form}
	r.head(p)
	r.facts(p)
	r.nodeTable(p)
	r.addOnTable(p)
	r.problemList(p)
	_, err := io.WriteString(w, p.text.String())
	return err
}

func (r *Report) head(p *printer) {
	line := []string{"Kedge"}
	if r.Role != "" {
		line = append(line, r.Role)
	}
	if r.Node != "" {
		line = append(line, r.Node)
	}
	title := p.paint(bold, strings.Join(line, " "))
	details := []string{r.Version}
	if r.Started != nil {
		details = append(details, "up "+age(r.Taken.Sub(*r.Started)))
	}
	if r.PID > 0 {
		details = append(details, "process "+strconv.Itoa(r.PID))
	}
	p.line(title+"   "+strings.Join(details, ", "), "")
	switch {
	case r.State == Stopped:
		p.line(p.paint(red, "not running"), "")
	case r.State == Starting:
		p.line(p.paint(yellow, "not answering yet"), "")
	case len(r.Problems) > 0:
		p.line(p.paint(red, things(len(r.Problems))+" wrong"), "")
	default:
		p.line(p.paint(green, "all is well"), "")
	}
	p.gap()
}

func things(n int) string {
	if n == 1 {
		return "1 thing is"
	}
	return fmt.Sprintf("%d things are", n)
}

// facts are a line for each thing that is one.
func (r *Report) facts(p *printer) {
	fact := func(name, format string, args ...any) {
		p.line(fmt.Sprintf("  %-14s", name)+fmt.Sprintf(format, args...), strings.Repeat(" ", 16))
	}
	if d := r.Datastore; d != nil {
		text := d.Kind
		if d.Dir != "" {
			text += ", " + bytesText(d.Bytes) + " in " + d.Dir
		}
		fact("datastore", "%s", text)
	}
	if s := r.Snapshot; s != nil {
		size := ""
		if s.Bytes > 0 {
			size = ", " + bytesText(uint64(s.Bytes))
		}
		fact("last snapshot", "%s ago%s: %s", age(r.Taken.Sub(s.Created)), size, s.Name)
	}
	if c := r.Certificates; c != nil {
		renewed := ""
		if r.State == Running {
			renewed = ", renewed before"
		}
		fact("certificates", "%d, the first ends in %d days (%s)%s", c.Count, c.Next.DaysLeft, c.Next.NotAfter.Format(time.DateOnly), renewed)
	}
	if m := r.Memory; m != nil {
		own := ""
		if m.Process > 0 {
			own = fmt.Sprintf("%s (%s private); ", bytesText(m.Process), bytesText(m.Private))
		}
		fact("memory", "%s%s of the machine's %s are free", own, bytesText(m.Available), bytesText(m.Total))
	}
	for i, s := range r.Servers {
		name := "servers"
		if i > 0 {
			name = ""
		}
		state := s.State
		switch s.State {
		case "failed":
			state = p.paint(red, "does not answer")
		case "suspect":
			state = p.paint(yellow, "being checked")
		case "healthy":
			state = p.paint(green, "well")
		}
		fact(name, "%s %s, %s", s.Address, state, count(s.Connections, "connection"))
	}
	if c := r.Pods; c != nil {
		parts := []string{fmt.Sprintf("%d ready", c.Ready)}
		if c.Starting > 0 {
			parts = append(parts, fmt.Sprintf("%d starting or ending", c.Starting))
		}
		if c.Wrong > 0 {
			parts = append(parts, p.paint(red, fmt.Sprintf("%d in trouble", c.Wrong)))
		}
		if c.Ended > 0 {
			parts = append(parts, fmt.Sprintf("%d done", c.Ended))
		}
		fact("pods", "%s", strings.Join(parts, ", "))
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (r *Report) nodeTable(p *printer) {
	if len(r.Nodes) == 0 {
		return
	}
	roles := slices.ContainsFunc(r.Nodes, func(n Node) bool { return n.Roles != "" })
	row := func(name, status, role, rest cell, more ...cell) []cell {
		cells := []cell{name, status}
		if roles {
			cells = append(cells, role)
		}
		return append(append(cells, rest), more...)
	}
	rows := [][]cell{row(cell{text: "NODE"}, cell{text: "STATUS"}, cell{text: "ROLES"}, cell{text: "PODS"}, cell{text: "AGE"}, cell{text: "ADDRESS"}, cell{text: "VERSION"})}
	shown := r.Nodes
	if len(shown) > maxNodes {
		shown = troubledFirst(shown)[:maxNodes]
	}
	for _, n := range shown {
		colour := green
		switch {
		case !n.Ready:
			colour = red
		case n.Status != "Ready":
			colour = yellow
		}
		pods := strconv.Itoa(n.Pods)
		if n.MaxPods > 0 {
			pods += "/" + strconv.FormatInt(n.MaxPods, 10)
		}
		rows = append(rows, row(
			cell{text: n.Name}, cell{text: n.Status, colour: colour}, cell{text: orDash(n.Roles)}, cell{text: pods},
			cell{text: age(r.Taken.Sub(n.Created))}, cell{text: orDash(n.Address)}, cell{text: n.Version},
		))
	}
	p.gap()
	p.table(rows)
	if more := len(r.Nodes) - len(shown); more > 0 {
		p.line(fmt.Sprintf("  and %d more: kedge kubectl get nodes", more), "")
	}
}

// troubledFirst orders nodes so that those that are not Ready are seen.
func troubledFirst(nodes []Node) []Node {
	var bad, good []Node
	for _, n := range nodes {
		if n.Ready {
			good = append(good, n)
		} else {
			bad = append(bad, n)
		}
	}
	return append(bad, good...)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (r *Report) addOnTable(p *printer) {
	if len(r.AddOns) == 0 {
		return
	}
	p.gap()
	rows := [][]cell{{{text: "ADD-ON"}, {text: "STATE"}, {}}}
	for _, a := range r.AddOns {
		colour := map[string]string{addOnReady: green, addOnStarting: yellow, addOnFailed: red}[a.State]
		rows = append(rows, []cell{{text: a.Name}, {text: a.State, colour: colour}, {text: a.Message}})
	}
	p.table(rows)
}

func (r *Report) problemList(p *printer) {
	for i, problem := range r.Problems {
		if i == maxProblems {
			p.gap()
			p.line(fmt.Sprintf("  and %d more: kedge status -o json lists all", len(r.Problems)-i), "")
			return
		}
		p.gap()
		p.line(p.paint(red, "✗")+" "+problem.What, "  ")
		if problem.Do != "" {
			p.line("  "+p.paint(bold, "→")+" "+problem.Do, "    ")
		}
	}
}

// printer writes lines that fit the terminal.
type printer struct {
	form Form
	text strings.Builder
}

func (p *printer) paint(colour, s string) string {
	if !p.form.Colour || colour == "" || s == "" {
		return s
	}
	return colour + s + plain
}

func (p *printer) gap() { p.text.WriteByte('\n') }

// line writes a line, broken between words where it is too long; what follows a
// break begins with the indent.
func (p *printer) line(s, indent string) {
	if p.form.Width <= 0 || width(s) <= p.form.Width {
		p.text.WriteString(strings.TrimRight(s, " ") + "\n")
		return
	}
	lead := s[:len(s)-len(strings.TrimLeft(s, " "))]
	column, first := width(lead), true
	p.text.WriteString(lead)
	for i, word := range strings.Split(s[len(lead):], " ") {
		space := 1
		if i == 0 {
			space = 0
		}
		if !first && column+space+width(word) > p.form.Width {
			p.text.WriteString("\n" + indent)
			column, space = width(indent), 0
		}
		if space > 0 {
			p.text.WriteByte(' ')
		}
		p.text.WriteString(word)
		column += space + width(word)
		first = first && word == ""
	}
	p.text.WriteByte('\n')
}

// cell is one of a table.
type cell struct{ text, colour string }

// table writes rows in columns, cut off at the terminal's edge.
func (p *printer) table(rows [][]cell) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for number, row := range rows {
		var b strings.Builder
		b.WriteString("  ")
		column := 2
		for i, c := range row {
			text := c.text
			if room := p.form.Width - column; p.form.Width > 0 && utf8.RuneCountInString(text) > room {
				text = cut(text, room)
			}
			colour := c.colour
			if number == 0 {
				colour = bold
			}
			b.WriteString(p.paint(colour, text))
			column += utf8.RuneCountInString(text)
			if i == len(row)-1 {
				break
			}
			pad := widths[i] - utf8.RuneCountInString(text) + 2
			if p.form.Width > 0 && column+pad >= p.form.Width {
				break
			}
			b.WriteString(strings.Repeat(" ", pad))
			column += pad
		}
		p.text.WriteString(strings.TrimRight(b.String(), " ") + "\n")
	}
}

// cut shortens a text to so many characters, the last of which says so.
func cut(s string, room int) string {
	if room <= 0 {
		return ""
	}
	return string([]rune(s)[:room-1]) + "…"
}

// width counts the characters that a terminal shows.
func width(s string) int {
	n, escape := 0, false
	for _, r := range s {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			n++
		}
	}
	return n
}
