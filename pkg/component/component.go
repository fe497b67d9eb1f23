// Package component runs the parts of a Kedge process: it starts each as soon
// as what it needs is ready, in parallel, and stops them in reverse order.
package component

import (
	"context"
	"time"
)

// Component is one part of the process: one job that is started, becomes
// ready, runs and is stopped.
//
//	          Start            Ready             Stop
//	waiting ────────▶ starting ──────▶ running ────────▶ stopped
//	                     │                │
//	                     └────────────────┴── failed (Failures reports it)
//
// Start returns once the component runs in the background, or failed to. Its
// context limits the start-up only: it does not end the component, Stop does.
type Component interface {
	// Name is unique in a Manager, short, and the name users know the part by.
	Name() string
	// Needs names the components that must be ready before Start is called.
	Needs() []string
	// Start begins the component's work.
	Start(ctx context.Context) error
	// Stop ends the work and waits for its end, at most until ctx is done.
	// It is only called after a Start that returned nil.
	Stop(ctx context.Context) error
}

// Readier is implemented by components that are not yet ready to serve others
// when Start returns.
type Readier interface {
	// Ready returns nil as soon as the component serves, or ctx's error with
	// what is still missing.
	Ready(ctx context.Context) error
}

// Limiter is implemented by components whose limits differ from the Manager's.
type Limiter interface {
	// Limits are how long start-up (Start and Ready together) and Stop may
	// take; zero means the Manager's default.
	Limits() (start, stop time.Duration)
}

// Failer is implemented by components that can fail after their start.
type Failer interface {
	// Failed delivers the error that ended the component for good, and is
	// never closed without one.
	Failed() <-chan error
}
