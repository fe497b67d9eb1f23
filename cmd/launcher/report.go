package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quiet is how long unpacking may take before a terminal shows anything.
	quiet = 500 * time.Millisecond
	// redraw is the time between two progress lines.
	redraw = 100 * time.Millisecond
)

// reporter says on stderr how unpacking goes: on a terminal with a line that
// is drawn over and over, elsewhere with one line at the start and one at the
// end.
type reporter struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	dir     string
	size    int64
	started time.Time
	drawn   time.Time // last time the progress line was drawn; zero if never
}

func newReporter(out *os.File) *reporter {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &reporter{out: out, terminal: err == nil, now: time.Now}
}

func (r *reporter) Waiting(lock string, holder int) {
	who := "another kedge"
	if holder > 0 {
		who = fmt.Sprintf("%s (process %d)", who, holder)
	}
	r.print("waiting for %s to release %s\n", who, lock)
}

func (r *reporter) Unpacking(dir string, size int64) {
	r.dir, r.size, r.started = dir, size, r.now()
	if !r.terminal {
		r.print("unpacking Kedge (%d MB) into %s\n", mb(size), dir)
	}
}

func (r *reporter) Progress(done int64) {
	if !r.terminal || r.now().Sub(r.started) < quiet || r.now().Sub(r.drawn) < redraw {
		return
	}
	r.draw(fmt.Sprintf("%d of %d MB", mb(done), mb(r.size)))
}

func (r *reporter) Flushing() {
	if !r.drawn.IsZero() {
		r.draw("writing to disk")
	}
}

// end says the last word; err is what came of it all.
func (r *reporter) end(err error) {
	took := r.now().Sub(r.started).Round(10 * time.Millisecond)
	switch {
	case r.started.IsZero(): // another process unpacked, or nothing was begun
	case r.drawn.IsZero() && (r.terminal || err != nil):
	case err != nil:
		fmt.Fprintln(r.out)
	case r.terminal:
		r.draw(fmt.Sprintf("%d MB, done in %v", mb(r.size), took))
		fmt.Fprintln(r.out)
	default:
		r.print("done in %v\n", took)
	}
}

func (r *reporter) draw(state string) {
	r.drawn = r.now()
	const begin, clearRest = "\r", "\x1b[K"
	fmt.Fprintf(r.out, "%skedge: unpacking into %s: %s%s", begin, r.dir, state, clearRest)
}

func (r *reporter) print(format string, args ...any) {
	fmt.Fprintf(r.out, "kedge: "+format, args...)
}

func mb(bytes int64) int64 { return (bytes + 999_999) / 1_000_000 }
