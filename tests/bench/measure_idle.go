package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// settleTime is how long what a start leaves to do is given before idling
// begins.
const settleTime = 15 * time.Second

// measureIdle leaves the side alone, with DNS as its only pod, and looks at what
// that costs.
func (r *run) measureIdle(ctx context.Context) error {
	early, err := processesOf(r.side.PIDs()[0])
	if err != nil {
		return err
	}
	if err := sleep(ctx, settleTime); err != nil {
		return err
	}
	found, err := processesOf(r.side.PIDs()[0])
	if err != nil {
		return err
	}
	// Programs that come and go are counted with those that started them.
	lasting := slices.DeleteFunc(found.stack, func(pid int) bool { return !slices.Contains(early.stack, pid) })
	began := time.Now()
	before, err := usageOf(lasting)
	if err != nil {
		return err
	}
	if err := sleep(ctx, r.bench.options.idle); err != nil {
		return err
	}
	after, err := usageOf(lasting)
	if err != nil {
		return fmt.Errorf("a program ended while idle: %w", err)
	}
	seconds := time.Since(began).Seconds()
	stack, err := memoryOf(lasting)
	if err != nil {
		return err
	}
	shims, err := memoryOf(found.shims)
	if err != nil {
		return err
	}
	r.record("cpu", float64((after.processor-before.processor).Milliseconds())/seconds)
	r.record("writes", (after.written-before.written)/1e3/seconds)
	r.record("pss", stack.pss)
	r.record("anonymous", stack.anonymous)
	r.record("shims", shims.pss)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
