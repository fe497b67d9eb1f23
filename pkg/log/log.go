// Package log is Kedge's one line format, for its own messages and for those
// of the libraries that run in the same process.
//
//	2026-11-20T10:35:52.123Z INFO  kubelet            message key=value
package log

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
)

// componentKey is the attribute that becomes the line's component column.
const componentKey = "component"

const timeFormat = "2006-01-02T15:04:05.000Z"

// Handler writes records as lines.
type Handler struct {
	out    *output
	level  slog.Leveler
	attrs  []slog.Attr
	prefix string // of attribute names, from groups
}

type output struct {
	mu sync.Mutex
	w  io.Writer
}

// NewHandler writes records of at least the level to w.
func NewHandler(w io.Writer, level slog.Leveler) *Handler {
	return &Handler{out: &output{w: w}, level: level}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(c.attrs[:len(c.attrs):len(c.attrs)], prefixed(h.prefix, attrs)...)
	return &c
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	c := *h
	c.prefix += name + "."
	return &c
}

// Handle implements slog.Handler.
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	component := ""
	var pairs strings.Builder
	add := func(a slog.Attr) {
		if a.Key == componentKey {
			component = a.Value.String()
			return
		}
		writeAttr(&pairs, a)
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(func(a slog.Attr) bool {
		add(slog.Attr{Key: h.prefix + a.Key, Value: a.Value})
		return true
	})

	line := fmt.Sprintf("%s %-5s %-18s %s%s\n", r.Time.UTC().Format(timeFormat), levelName(r.Level), component, oneLine(r.Message), pairs.String())
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := io.WriteString(h.out.w, line)
	return err
}

func prefixed(prefix string, attrs []slog.Attr) []slog.Attr {
	out := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		out[i] = slog.Attr{Key: prefix + a.Key, Value: a.Value}
	}
	return out
}

func writeAttr(out *strings.Builder, a slog.Attr) {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		for _, member := range value.Group() {
			writeAttr(out, slog.Attr{Key: a.Key + "." + member.Key, Value: member.Value})
		}
		return
	}
	out.WriteByte(' ')
	out.WriteString(a.Key)
	out.WriteByte('=')
	text := oneLine(value.String())
	if text == "" || strings.ContainsAny(text, " =\"") {
		text = strconv.Quote(text)
	}
	out.WriteString(text)
}

func oneLine(s string) string {
	s = strings.TrimSpace(s)
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), " | ")
}

func levelName(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "ERROR"
	case level >= slog.LevelWarn:
		return "WARN"
	case level >= slog.LevelInfo:
		return "INFO"
	default:
		return "DEBUG"
	}
}
