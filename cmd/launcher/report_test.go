package main

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func TestReporter(t *testing.T) {
	type step struct {
		after time.Duration
		do    func(*reporter)
	}
	begin := step{0, func(r *reporter) { r.Unpacking("/dir", 100e6) }}
	progress := func(after time.Duration, done int64) step {
		return step{after, func(r *reporter) { r.Progress(done) }}
	}
	flushing := step{0, (*reporter).Flushing}
	end := step{0, func(r *reporter) { r.end(nil) }}
	failed := step{0, func(r *reporter) { r.end(errors.New("disk on fire")) }}

	for _, tt := range []struct {
		name     string
		terminal bool
		steps    []step
		want     string
	}{
		{"no terminal", false, []step{begin, progress(time.Second, 10e6), flushing, end},
			"kedge: unpacking Kedge (100 MB) into /dir\nkedge: done in 1s\n"},
		{"no terminal, failed", false, []step{begin, progress(time.Second, 10e6), failed},
			"kedge: unpacking Kedge (100 MB) into /dir\n"},
		{"nothing to do", false, []step{end}, ""},
		{"fast", true, []step{begin, progress(quiet-1, 90e6), flushing, end}, ""},
		{"slow", true, []step{begin, progress(quiet, 50e6), progress(redraw-1, 51e6), progress(1, 52e6), flushing, end},
			"\rkedge: unpacking into /dir: 50 of 100 MB\x1b[K" +
				"\rkedge: unpacking into /dir: 52 of 100 MB\x1b[K" +
				"\rkedge: unpacking into /dir: writing to disk\x1b[K" +
				"\rkedge: unpacking into /dir: 100 MB, done in 600ms\x1b[K\n"},
		{"slow, failed", true, []step{begin, progress(quiet, 50e6), failed},
			"\rkedge: unpacking into /dir: 50 of 100 MB\x1b[K\n"},
		{"waiting", true, []step{{0, func(r *reporter) { r.Waiting("/lock", 12) }}, {0, func(r *reporter) { r.Waiting("/lock", 0) }}, end},
			"kedge: waiting for another kedge (process 12) to release /lock\nkedge: waiting for another kedge to release /lock\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			now := time.Unix(1, 0)
			r := &reporter{out: &out, terminal: tt.terminal, now: func() time.Time { return now }}
			for _, s := range tt.steps {
				now = now.Add(s.after)
				s.do(r)
			}
			if out.String() != tt.want {
				t.Errorf("got  %q\nwant %q", out.String(), tt.want)
			}
		})
	}
}
