package install

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeService runs the program that is in place, if that is a good one.
type fakeService struct {
	service
	program string
	good    string
	onStart func() error // of a program that is not good
	running string
}

func (f *fakeService) start(ctx context.Context) error {
	content, err := os.ReadFile(f.program)
	if err != nil {
		return err
	}
	if f.running = string(content); f.running != f.good {
		return errors.Join(f.onStart(), ctx.Err())
	}
	return ctx.Err()
}

func (f *fakeService) stop(ctx context.Context) error { f.running = ""; return ctx.Err() }

func (f *fakeService) status(context.Context) (status, error) {
	if f.running == f.good {
		return ready, nil
	}
	return starting, nil
}

func (*fakeService) log(context.Context, int) string { return "" }
func (*fakeService) hint() string                    { return "" }
func (*fakeService) String() string                  { return "fake" }

// TestChange upgrades to a program that doesn't work, in all ways that go back.
func TestChange(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	for _, test := range []struct {
		name, good, want, after string
		onStart                 func() error
	}{
		{"a good one", "new", "", "new", nil},
		{"one that is not Ready", "old", "the new version does not work here: the service fake is not well", "old", func() error { return nil }},
		{"one that can't be started", "old", "the new version does not work here: no", "old", func() error { return errors.New("no") }},
		{"an interruption", "old", "interrupted; the previous version runs again, and the node is Ready", "old", func() error { interrupt(); return nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			u := Upgrade{Record: Record{BinDir: dir, DataDir: dir}, Timeout: time.Millisecond, Out: io.Discard}
			next, previous := filepath.Join(dir, "next"), filepath.Join(dir, "previous")
			for path, content := range map[string]string{next: "new", u.Record.ProgramFile(): "old", previous: "old"} {
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s := &fakeService{program: u.Record.ProgramFile(), good: test.good, onStart: test.onStart}
			err := u.change(ctx, s, next, previous)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want %q", err, test.want)
			}
			if content, _ := os.ReadFile(u.Record.ProgramFile()); string(content) != test.after || s.running != test.after {
				t.Errorf("the program is %q, and %q runs, want %q", content, s.running, test.after)
			}
		})
	}
}
