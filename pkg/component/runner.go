package component

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Runner gives a function that blocks until its context ends the life of a
// component. Its zero value is ready for use.
type Runner struct {
	once   sync.Once
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // nil: there is no fn
	fail   chan error
}

func (r *Runner) init() {
	r.once.Do(func() {
		r.ctx, r.cancel = context.WithCancel(context.Background())
		r.fail = make(chan error, 1)
	})
}

// Context ends when the component is stopped.
func (r *Runner) Context() context.Context {
	r.init()
	return r.ctx
}

// Run calls fn in the background, until Stop. Its return before that is the
// component's failure.
func (r *Runner) Run(fn func(context.Context) error) {
	r.init()
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		err := fn(r.ctx)
		if r.ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		r.fail <- err
	}()
}

// Stop ends fn and waits for its return, at most until ctx is done. A component
// may have found nothing to run.
func (r *Runner) Stop(ctx context.Context) error {
	r.init()
	r.cancel()
	if r.done == nil {
		return nil
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("still busy: %w", ctx.Err())
	}
}

// Failed delivers the error with which fn ended by itself.
func (r *Runner) Failed() <-chan error {
	r.init()
	return r.fail
}
