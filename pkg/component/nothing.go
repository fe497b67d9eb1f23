package component

import "context"

// Nothing stands for a part that runs elsewhere, so that others can need it.
type Nothing string

// Name is the part's.
func (n Nothing) Name() string { return string(n) }

// Needs nothing.
func (Nothing) Needs() []string { return nil }

// Start does nothing.
func (Nothing) Start(context.Context) error { return nil }

// Stop does nothing.
func (Nothing) Stop(context.Context) error { return nil }
