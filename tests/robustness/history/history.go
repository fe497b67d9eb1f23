// Package history records what clients asked of a Kubernetes API and what they
// were told, and checks that the answers go together: that every object behaved
// like a register of which there is one (linearizability), that no acknowledged
// write is gone, and that watches were complete and in order.
//
// Every value is written once. So a value names the write it is from, and what
// became of a write that nobody answered shows in what others have seen.
package history

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Kind is what a client asked for.
type Kind int

const (
	// Read asks for the current value, never for any value there ever was.
	Read Kind = iota
	// Create writes the value of a key that has none.
	Create
	// Update writes a value in place of an expected one.
	Update
	// Delete removes the key if its value is the expected one.
	Delete
)

func (k Kind) String() string { return [...]string{"read", "create", "update", "delete"}[k] }

// Outcome is what the client knows afterwards.
type Outcome int

const (
	// Unknown is after no answer, or one that says neither. The operation may have
	// happened, or may still happen.
	Unknown Outcome = iota
	// Done is what has happened.
	Done
	// Refused is what has not, because the key did not hold what was expected.
	Refused
)

// Operation is one request of a client about one key.
type Operation struct {
	Client  int
	Kind    Kind
	Key     string
	Value   string // what is written, or was read; empty: the key does not exist
	Expect  string // what an update or a delete replaces
	Outcome Outcome
	Version uint64 // resource version of the value as the answer names it, 0 if it does not
	Begin   time.Duration
	End     time.Duration // of no meaning while the outcome is unknown
}

func (o Operation) String() string {
	var what string
	switch o.Kind {
	case Read:
		return fmt.Sprintf("read %s", orNothing(o.Value)+o.version())
	case Create:
		what = "create " + o.Value
	case Update:
		what = fmt.Sprintf("update %s to %s", o.Expect, o.Value)
	case Delete:
		what = "delete " + o.Expect
	}
	return what + ": " + [...]string{"unknown", "done", "refused"}[o.Outcome] + o.version()
}

func (o Operation) version() string {
	if o.Version == 0 {
		return ""
	}
	return fmt.Sprintf(" (version %d)", o.Version)
}

func orNothing(value string) string {
	if value == "" {
		return "nothing"
	}
	return value
}

// line is the operation in a readable history.
func (o Operation) line() string {
	end := fmt.Sprintf("%.4f", o.End.Seconds())
	if o.Outcome == Unknown {
		end = "?"
	}
	return fmt.Sprintf("%10.4f – %-9s s  client %-3d  %s", o.Begin.Seconds(), end, o.Client, o)
}

// written says whether the operation gave the key the value.
func (o Operation) written() bool {
	return o.Outcome == Done && (o.Kind == Create || o.Kind == Update)
}

// History is what all clients have done. Its methods may be called at any time.
type History struct {
	start time.Time

	mu         sync.Mutex
	operations []Operation
}

// New begins a history.
func New() *History { return &History{start: time.Now()} }

// Now is the time in the history.
func (h *History) Now() time.Duration { return time.Since(h.start) }

// Add records operations.
func (h *History) Add(operations ...Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, operations...)
}

// Forget takes back the answers since a time, which never left the machine that
// gave them: what was asked may have happened, and nobody knows.
func (h *History) Forget(since time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.operations[:0]
	for _, o := range h.operations {
		if o.Outcome != Unknown && o.End >= since {
			if o.Kind == Read || o.Outcome == Refused {
				continue
			}
			o.Outcome, o.Version = Unknown, 0
		}
		kept = append(kept, o)
	}
	h.operations = kept
}

// Operations are those recorded so far.
func (h *History) Operations() []Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.operations)
}

// Keys lists the keys of operations, sorted.
func Keys(operations []Operation) []string {
	seen := map[string]bool{}
	var keys []string
	for _, o := range operations {
		if !seen[o.Key] {
			seen[o.Key] = true
			keys = append(keys, o.Key)
		}
	}
	slices.Sort(keys)
	return keys
}
