package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Defaults for components that are no Limiter, and the pace of the lines that
// say what is waited for.
const (
	DefaultStartLimit = 2 * time.Minute
	DefaultStopLimit  = 5 * time.Second
	waitNotice        = 5 * time.Second
)

// abandonAfter is how long a component's start-up may go on once it was told to
// end. Libraries do not listen everywhere.
const abandonAfter = time.Second

// Step is one component's line in the start-up timeline. Times count from the
// call of Manager.Start.
type Step struct {
	Name  string
	Began time.Duration // when all it needs was ready
	Ready time.Duration // when it was ready itself
}

// Manager starts and stops a set of components. A Manager is used once.
type Manager struct {
	log        *slog.Logger
	components []Component
	failures   chan error

	mu       sync.Mutex
	started  []Component // in the order in which Start returned
	timeline []Step
	stopping bool
	watchers sync.WaitGroup
	stop     chan struct{}
}

// NewManager checks that the components form a graph that can be started:
// unique names, every need present, no cycle.
func NewManager(log *slog.Logger, components ...Component) (*Manager, error) {
	if err := checkGraph(components); err != nil {
		return nil, err
	}
	return &Manager{
		log:        log,
		components: components,
		failures:   make(chan error, len(components)),
		stop:       make(chan struct{}),
	}, nil
}

func checkGraph(components []Component) error {
	byName := make(map[string]Component, len(components))
	for _, c := range components {
		if byName[c.Name()] != nil {
			return fmt.Errorf("two components are named %q", c.Name())
		}
		byName[c.Name()] = c
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(c Component, path []string) error
	visit = func(c Component, path []string) error {
		path = append(path, c.Name())
		switch state[c.Name()] {
		case done:
			return nil
		case visiting:
			cycle := path[slices.Index(path, c.Name()):]
			return fmt.Errorf("components need each other in a cycle: %s", strings.Join(cycle, " → "))
		}
		state[c.Name()] = visiting
		for _, need := range c.Needs() {
			next := byName[need]
			if next == nil {
				return fmt.Errorf("component %q needs %q, which does not exist", c.Name(), need)
			}
			if err := visit(next, path); err != nil {
				return err
			}
		}
		state[c.Name()] = done
		return nil
	}
	for _, c := range components {
		if err := visit(c, nil); err != nil {
			return err
		}
	}
	return nil
}

// Start starts every component as soon as what it needs is ready, and returns
// when all are. When one fails, the others' start-up is cancelled and the
// first error is returned; Stop must be called in either case.
func (m *Manager) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	begin := time.Now()
	ready := make(map[string]chan struct{}, len(m.components))
	for _, c := range m.components {
		ready[c.Name()] = make(chan struct{})
	}

	var wg sync.WaitGroup
	for _, c := range m.components {
		wg.Go(func() {
			for _, need := range c.Needs() {
				select {
				case <-ready[need]:
				case <-ctx.Done():
					return
				}
			}
			if ctx.Err() != nil {
				return
			}
			began := time.Since(begin)
			if err := m.startOne(ctx, cancel, c); err != nil {
				cancel(fmt.Errorf("%s: %w", c.Name(), err))
				return
			}
			step := Step{Name: c.Name(), Began: began, Ready: time.Since(begin)}
			m.mu.Lock()
			m.timeline = append(m.timeline, step)
			m.mu.Unlock()
			m.log.Info("ready", "component", c.Name(),
				"took", round(step.Ready-step.Began), "at", round(step.Ready))
			close(ready[c.Name()])
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// ErrRestart is wrapped by the failure of a component after which all is well
// once everything has been stopped and started again.
var ErrRestart = errors.New("everything is to start again")

// Hooks are called on the way through a Run. Either may be nil.
type Hooks struct {
	// Started is called once all components are ready. Its context ends with the
	// run, which waits for it to return.
	Started func(ctx context.Context)
	// Stopping is called before the components are stopped, with the error that
	// ended the run, if there is one.
	Stopping func(err error)
}

// Run starts the components, and stops them within the limit when ctx ends or
// one of them fails. It returns that failure.
func (m *Manager) Run(ctx context.Context, stopLimit time.Duration, hooks Hooks) error {
	err := m.Start(ctx)
	switch {
	case err == nil:
		m.log.Info("started", "timeline", m.timelineText())
		err = m.untilEnd(ctx, hooks.Started)
	case ctx.Err() != nil:
		err = nil // asked to stop while starting
	}
	if hooks.Stopping != nil {
		hooks.Stopping(err)
	}
	stopping := time.Now()
	m.log.Info("stopping; pods keep running")
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if stopErr := m.Stop(stopCtx); stopErr != nil {
		m.log.Warn("some parts were cut off", "err", stopErr)
	}
	m.log.Info("stopped", "took", round(time.Since(stopping)))
	return err
}

// untilEnd returns when ctx ends, or with the error of the part that failed.
func (m *Manager) untilEnd(ctx context.Context, started func(context.Context)) error {
	if started != nil {
		inner, cancel := context.WithCancel(ctx)
		returned := make(chan struct{})
		go func() { defer close(returned); started(inner) }()
		defer func() { cancel(); <-returned }()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-m.Failures():
		if errors.Is(err, ErrRestart) {
			m.log.Warn("starting again", "why", err)
		} else {
			m.log.Error("a part of Kedge failed; stopping the rest", "err", err)
		}
		return err
	}
}

// timelineText is the start-up in one line: each part with when it began and
// when it was ready.
func (m *Manager) timelineText() string {
	var out []string
	for _, step := range m.Timeline() {
		out = append(out, fmt.Sprintf("%s %.2f–%.2fs", step.Name, step.Began.Seconds(), step.Ready.Seconds()))
	}
	return strings.Join(out, ", ")
}

// startOne runs Start and Ready of one component within its limit.
func (m *Manager) startOne(parent context.Context, cancelStart context.CancelCauseFunc, c Component) error {
	limit, _ := limits(c)
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()

	done := make(chan error, 1)
	go func() { done <- m.startAndWait(ctx, cancelStart, c) }()
	notice := time.NewTicker(waitNotice)
	defer notice.Stop()
	began := time.Now()
	ended, abandon := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case err := <-done:
			if err != nil && parent.Err() == nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not ready after %s: %w", limit, err)
			}
			return err
		case <-ended:
			ended, abandon = nil, time.After(abandonAfter)
		case <-abandon:
			if parent.Err() != nil {
				return fmt.Errorf("given up while starting: %w", context.Cause(parent))
			}
			return fmt.Errorf("not started after %s", limit)
		case <-notice.C:
			m.log.Info("waiting for "+c.Name(), "component", c.Name(),
				"for", round(time.Since(began)), "limit", limit)
		}
	}
}

func (m *Manager) startAndWait(ctx context.Context, cancelStart context.CancelCauseFunc, c Component) error {
	if err := c.Start(ctx); err != nil {
		return err
	}
	if !m.register(cancelStart, c) {
		return m.stopOne(context.WithoutCancel(ctx), c)
	}
	if r, ok := c.(Readier); ok {
		return r.Ready(ctx)
	}
	return nil
}

// register adds a started component to those that Stop stops. It refuses one
// that was given up: Stop has been called meanwhile.
func (m *Manager) register(cancelStart context.CancelCauseFunc, c Component) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping {
		return false
	}
	m.started = append(m.started, c)
	if f, ok := c.(Failer); ok {
		m.watchers.Go(func() { m.watch(cancelStart, c.Name(), f) })
	}
	return true
}

// watch passes on a component's failure; during the start-up it also ends that.
func (m *Manager) watch(cancelStart context.CancelCauseFunc, name string, f Failer) {
	select {
	case err := <-f.Failed():
		err = fmt.Errorf("%s: %w", name, err)
		m.failures <- err
		cancelStart(err)
	case <-m.stop:
	}
}

// Failures delivers the errors of components that ended by themselves.
func (m *Manager) Failures() <-chan error { return m.failures }

// Timeline is how the start-up went, in the order in which components became
// ready.
func (m *Manager) Timeline() []Step {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.timeline)
}

// Stop stops what was started. A component is stopped when everything that
// needs it has been, each within its own limit; independent ones in parallel.
func (m *Manager) Stop(ctx context.Context) error {
	m.mu.Lock()
	m.stopping = true
	started := slices.Clone(m.started)
	m.mu.Unlock()
	close(m.stop)
	m.watchers.Wait()

	stopped := make(map[string]chan struct{}, len(started))
	for _, c := range started {
		stopped[c.Name()] = make(chan struct{})
	}
	errs := make([]error, len(started))
	var wg sync.WaitGroup
	for i, c := range started {
		wg.Go(func() {
			defer close(stopped[c.Name()])
			for _, other := range started {
				if slices.Contains(other.Needs(), c.Name()) {
					<-stopped[other.Name()]
				}
			}
			errs[i] = m.stopOne(ctx, c)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (m *Manager) stopOne(ctx context.Context, c Component) error {
	_, limit := limits(c)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- c.Stop(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = fmt.Errorf("did not stop within %s", limit)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Name(), err)
	}
	m.log.Debug("stopped", "component", c.Name(), "took", round(time.Since(began)))
	return nil
}

func limits(c Component) (start, stop time.Duration) {
	if l, ok := c.(Limiter); ok {
		start, stop = l.Limits()
	}
	if start == 0 {
		start = DefaultStartLimit
	}
	if stop == 0 {
		stop = DefaultStopLimit
	}
	return start, stop
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
