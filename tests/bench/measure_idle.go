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
	idle, err := r.idle(ctx, r.side)
	if err != nil {
		return err
	}
	r.record("cpu", idle.processor)
	r.record("writes", idle.written)
	r.record("pss", idle.stack.pss)
	r.record("anonymous", idle.stack.anonymous)
	r.record("shims", idle.shims.pss)
	return nil
}

// consumption is what a side that idles costs.
type consumption struct {
	processor    float64 // milliseconds a second
	written      float64 // kilobytes a second
	stack, shims memory
}

// idle leaves a side alone and looks at what that costs.
func (r *run) idle(ctx context.Context, s side) (idle consumption, err error) {
	r.bench.say("%s: idling", r.title)
	early, err := processesOf(s.PIDs()[0])
	if err != nil {
		return idle, err
	}
	if err := sleep(ctx, settleTime); err != nil {
		return idle, err
	}
	found, err := processesOf(s.PIDs()[0])
	if err != nil {
		return idle, err
	}
	// Programs that come and go are counted with those that started them.
	lasting := slices.DeleteFunc(found.stack, func(pid int) bool { return !slices.Contains(early.stack, pid) })
	began := time.Now()
	before, err := usageOf(lasting)
	if err != nil {
		return idle, err
	}
	if err := sleep(ctx, r.bench.options.idle); err != nil {
		return idle, err
	}
	after, err := usageOf(lasting)
	if err != nil {
		return idle, fmt.Errorf("a program ended while idle: %w", err)
	}
	idle.processor, idle.written = after.since(before, time.Since(began))
	if idle.stack, err = memoryOf(lasting); err != nil {
		return idle, err
	}
	idle.shims, err = memoryOf(found.shims)
	return idle, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
