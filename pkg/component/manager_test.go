package component

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errBoom = errors.New("boom")

// journal records what happened to fake components, in order.
type journal struct {
	mu     sync.Mutex
	events []string
}

func (j *journal) add(event string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, event)
}

func (j *journal) before(t *testing.T, first, second string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	a, b := slices.Index(j.events, first), slices.Index(j.events, second)
	if a < 0 || b < 0 || a > b {
		t.Errorf("want %q before %q in %v", first, second, j.events)
	}
}

func (j *journal) has(event string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Contains(j.events, event)
}

type fake struct {
	name   string
	needs  []string
	j      *journal
	start  func(context.Context) error
	ready  func(context.Context) error
	stop   func(context.Context) error
	failed chan error
	limit  time.Duration
}

func (f *fake) Name() string    { return f.name }
func (f *fake) Needs() []string { return f.needs }
func (f *fake) Start(ctx context.Context) error {
	f.j.add("start " + f.name)
	if f.start != nil {
		return f.start(ctx)
	}
	return nil
}

func (f *fake) Ready(ctx context.Context) error {
	if f.ready != nil {
		if err := f.ready(ctx); err != nil {
			return err
		}
	}
	f.j.add("ready " + f.name)
	return nil
}

func (f *fake) Stop(ctx context.Context) error {
	f.j.add("stop " + f.name)
	if f.stop != nil {
		return f.stop(ctx)
	}
	return nil
}
func (f *fake) Failed() <-chan error                   { return f.failed }
func (f *fake) Limits() (time.Duration, time.Duration) { return f.limit, f.limit }

func newManager(t *testing.T, components ...Component) *Manager {
	t.Helper()
	m, err := NewManager(slog.New(slog.DiscardHandler), components...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGraphIsChecked(t *testing.T) {
	j := &journal{}
	for name, tc := range map[string]struct {
		components []Component
		want       string
	}{
		"missing":   {[]Component{&fake{name: "a", needs: []string{"b"}, j: j}}, `component "a" needs "b", which does not exist`},
		"duplicate": {[]Component{&fake{name: "a", j: j}, &fake{name: "a", j: j}}, `two components are named "a"`},
		"cycle": {[]Component{
			&fake{name: "x", needs: []string{"a"}, j: j},
			&fake{name: "a", needs: []string{"b"}, j: j},
			&fake{name: "b", needs: []string{"a"}, j: j},
		}, "a → b → a"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewManager(slog.New(slog.DiscardHandler), tc.components...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestStartFollowsNeedsAndStopReverses(t *testing.T) {
	j := &journal{}
	m := newManager(t,
		&fake{name: "top", needs: []string{"left", "right"}, j: j},
		&fake{name: "left", needs: []string{"base"}, j: j},
		&fake{name: "right", needs: []string{"base"}, j: j},
		&fake{name: "base", j: j},
	)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{
		{"ready base", "start left"},
		{"ready base", "start right"},
		{"ready left", "start top"},
		{"ready right", "start top"},
		{"stop top", "stop left"},
		{"stop top", "stop right"},
		{"stop left", "stop base"},
		{"stop right", "stop base"},
	} {
		j.before(t, pair[0], pair[1])
	}
	if n := len(m.Timeline()); n != 4 {
		t.Errorf("timeline has %d steps, want 4", n)
	}
}

func TestIndependentComponentsStartInParallel(t *testing.T) {
	j := &journal{}
	var meet sync.WaitGroup
	meet.Add(2)
	wait := func(context.Context) error { meet.Done(); meet.Wait(); return nil }
	m := newManager(t, &fake{name: "a", j: j, start: wait}, &fake{name: "b", j: j, start: wait})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFailedStartStopsTheRest(t *testing.T) {
	j := &journal{}
	m := newManager(t,
		&fake{name: "base", j: j},
		&fake{name: "bad", needs: []string{"base"}, j: j, start: func(context.Context) error { return errBoom }},
		&fake{name: "top", needs: []string{"bad"}, j: j},
	)
	err := m.Start(t.Context())
	if !errors.Is(err, errBoom) || !strings.HasPrefix(err.Error(), "bad: ") {
		t.Fatalf("got %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if j.has("start top") || j.has("stop bad") || !j.has("stop base") {
		t.Errorf("wrong events: %v", j.events)
	}
}

func TestFailureDuringStartUpEndsIt(t *testing.T) {
	j := &journal{}
	failing := &fake{name: "failing", j: j, failed: make(chan error, 1)}
	failing.ready = func(context.Context) error { failing.failed <- errBoom; return nil }
	m := newManager(t, failing, &fake{name: "waiting", j: j, ready: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}})
	if err := m.Start(t.Context()); !errors.Is(err, errBoom) || !strings.HasPrefix(err.Error(), "failing: ") {
		t.Fatalf("got %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFailureAfterStartUpIsDelivered(t *testing.T) {
	failing := &fake{name: "failing", j: &journal{}, failed: make(chan error, 1)}
	m := newManager(t, failing)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	failing.failed <- errBoom
	if err := <-m.Failures(); !errors.Is(err, errBoom) {
		t.Fatalf("got %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLimits(t *testing.T) {
	forever := func(ctx context.Context) error { <-ctx.Done(); return errors.New("still thinking") }
	t.Run("start", func(t *testing.T) {
		m := newManager(t, &fake{name: "slow", j: &journal{}, limit: time.Millisecond, ready: forever})
		err := m.Start(t.Context())
		if err == nil || err.Error() != "slow: not ready after 1ms: still thinking" {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("stop", func(t *testing.T) {
		block := make(chan struct{})
		t.Cleanup(func() { close(block) })
		m := newManager(t,
			&fake{name: "stuck", j: &journal{}, limit: time.Millisecond, needs: []string{"base"}, stop: func(context.Context) error { <-block; return nil }},
			&fake{name: "base", j: &journal{}})
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := m.Stop(t.Context())
		if err == nil || err.Error() != "stuck: did not stop within 1ms" {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := newManager(t, &fake{name: "slow", j: &journal{}, ready: func(ctx context.Context) error { cancel(); <-ctx.Done(); return ctx.Err() }})
		if err := m.Start(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
}

// TestNotices has the log say every five seconds what is waited for, until it is ready.
func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		}}))
		j := &journal{}
		m, err := NewManager(log,
			&fake{name: "quick", j: j},
			&fake{name: "slow", needs: []string{"quick"}, j: j, limit: time.Minute, ready: func(context.Context) error {
				time.Sleep(12 * time.Second)
				return nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := `msg=ready component=quick took=0s at=0s
msg="waiting for slow" component=slow for=5s limit=1m0s
msg="waiting for slow" component=slow for=10s limit=1m0s
msg=ready component=slow took=12s at=12s
`
		if got := out.String(); got != want {
			t.Errorf("the log says\n%swant\n%s", got, want)
		}
		if err := m.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestStartThatDoesNotListenIsGivenUp(t *testing.T) {
	j := &journal{}
	deaf := make(chan struct{})
	stopped := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	m := newManager(t,
		&fake{name: "base", j: j},
		&fake{
			name: "deaf", needs: []string{"base"}, j: j,
			start: func(context.Context) error { cancel(); <-deaf; return nil },
			stop:  func(context.Context) error { close(stopped); return nil },
		})
	err := m.Start(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Start returned %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if !j.has("stop base") {
		t.Error("what had started was not stopped")
	}
	close(deaf)
	<-stopped // by itself, when it has started at last
}

func TestRun(t *testing.T) {
	for name, test := range map[string]struct {
		fail bool
		want error
	}{"asked to stop": {false, nil}, "failure": {true, errBoom}} {
		t.Run(name, func(t *testing.T) {
			j := &journal{}
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error, 1)
			m := newManager(t, &fake{name: "part", j: j, failed: failed})
			var stopping error
			err := m.Run(ctx, time.Second, Hooks{
				Started: func(ctx context.Context) {
					j.add("started")
					if test.fail {
						failed <- errBoom
					} else {
						cancel()
					}
					<-ctx.Done()
					j.add("hook ended")
				},
				Stopping: func(err error) { stopping = err },
			})
			cancel()
			if !errors.Is(err, test.want) || !errors.Is(stopping, test.want) {
				t.Errorf("Run returned %v, Stopping was told %v, want %v", err, stopping, test.want)
			}
			j.before(t, "start part", "started")
			j.before(t, "hook ended", "stop part")
		})
	}
}
