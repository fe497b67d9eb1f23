package config

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a text that gives access to the cluster. However it is printed,
// logged or encoded, only whether there is one is told.
type Secret string

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String returns a stand-in for the secret; no secret is the empty string.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// Format prints the stand-in for every verb, the ones that do not fit a string
// included: fmt would print the value beside its complaint.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue keeps the secret out of structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the secret out of JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
