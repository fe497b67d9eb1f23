package log

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"sync"
)

// heldLimit is how many of the latest messages a closed gate remembers.
const heldLimit = 50

// Gate stands between the libraries' messages and the log. A closed gate
// remembers the latest warnings and errors instead of logging them.
type Gate struct {
	next slog.Handler

	mu       sync.Mutex
	open     bool
	stopping bool
	held     []func()
}

func newGate(next slog.Handler, open bool) *Gate { return &Gate{next: next, open: open} }

// Open lets messages through from now on, and forgets what was held back.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.held = true, nil
}

// Close holds messages back from now on: the process stops.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.stopping, g.held = false, true, nil
}

// exit is what klog's Fatal does. While the process stops, parts that find
// others gone must not cut that short: then it ends the calling goroutine only.
func (g *Gate) exit(int) {
	g.mu.Lock()
	stopping := g.stopping
	g.mu.Unlock()
	if stopping {
		runtime.Goexit()
	}
	g.Release()
	os.Exit(1)
}

// Release logs what was held back, and lets messages through from now on: the
// start-up failed, and they may tell why.
func (g *Gate) Release() {
	g.mu.Lock()
	held := g.held
	g.open, g.held = true, nil
	g.mu.Unlock()
	for _, log := range held {
		log()
	}
}

func (g *Gate) handler() slog.Handler { return gated{gate: g, next: g.next} }

// gated is the handler in front of a gate.
type gated struct {
	gate *Gate
	next slog.Handler
}

func (h gated) Enabled(ctx context.Context, level slog.Level) bool { return h.next.Enabled(ctx, level) }

func (h gated) Handle(ctx context.Context, r slog.Record) error {
	g := h.gate
	g.mu.Lock()
	if !g.open {
		r = r.Clone()
		if len(g.held) == heldLimit {
			g.held = g.held[1:]
		}
		g.held = append(g.held, func() { _ = h.next.Handle(context.Background(), r) })
		g.mu.Unlock()
		return nil
	}
	g.mu.Unlock()
	return h.next.Handle(ctx, r)
}

func (h gated) WithAttrs(attrs []slog.Attr) slog.Handler {
	return gated{gate: h.gate, next: h.next.WithAttrs(attrs)}
}

func (h gated) WithGroup(name string) slog.Handler {
	return gated{gate: h.gate, next: h.next.WithGroup(name)}
}
