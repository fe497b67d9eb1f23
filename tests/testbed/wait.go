package testbed

import (
	"context"
	"fmt"
	"time"
)

// Wait calls check again and again until it says true. When that doesn't happen
// within the limit, the error tells what was waited for and the last state that
// check gave.
func Wait(ctx context.Context, what string, limit time.Duration, check func(context.Context) (done bool, state string)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	last := "never checked"
	// Short at first for what is quick, longer then: checks cost the processor
	// that the thing waited for needs.
	for pause := 50 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		done, state := check(ctx)
		if done {
			return nil
		}
		// A check that the limit cut short has nothing to say.
		if ctx.Err() == nil {
			last = state
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w; last state: %s",
				time.Since(begin).Round(time.Millisecond), what, ctx.Err(), last)
		case <-time.After(pause):
		}
	}
}
