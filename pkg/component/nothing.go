package component

import "context"

// placeholder stands for a part that runs elsewhere.
type placeholder struct {
	name  string
	needs []string
}

// Nothing stands for a part that runs elsewhere, so that others can need it. It
// is ready when what is needed to reach the part is.
func Nothing(name string, needs ...string) Component { return placeholder{name, needs} }

func (p placeholder) Name() string              { return p.name }
func (p placeholder) Needs() []string           { return p.needs }
func (placeholder) Start(context.Context) error { return nil }
func (placeholder) Stop(context.Context) error  { return nil }
