package component

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestRunner(t *testing.T) {
	t.Run("stop ends it", func(t *testing.T) {
		var r Runner
		r.Run(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if err := r.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-r.Failed():
			t.Fatalf("a stopped runner reports %v", err)
		default:
		}
	})
	t.Run("its own end is a failure", func(t *testing.T) {
		boom := errors.New("boom")
		var r Runner
		r.Run(func(context.Context) error { return boom })
		if err := <-r.Failed(); !errors.Is(err, boom) {
			t.Fatalf("got %v", err)
		}
		var silent Runner
		silent.Run(func(context.Context) error { return nil })
		if err := <-silent.Failed(); err == nil || err.Error() != "ended by itself" {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("a stop waits for nothing", func(t *testing.T) {
		var r Runner
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Stop(ctx); err != nil || ctx.Err() != nil {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("a stop is limited", func(t *testing.T) {
		var r Runner
		block := make(chan struct{})
		defer close(block)
		r.Run(func(context.Context) error { <-block; return nil })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.Stop(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
}
