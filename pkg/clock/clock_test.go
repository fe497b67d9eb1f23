package clock

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// script answers one Read after the other.
type script []error

func (s *script) Read(b []byte) (int, error) {
	if len(*s) == 0 {
		return 0, fs.ErrClosed
	}
	err := (*s)[0]
	*s = (*s)[1:]
	if err != nil {
		return 0, &fs.PathError{Op: "read", Path: "timer", Err: err}
	}
	return len(b), nil
}

func TestFollow(t *testing.T) {
	for name, test := range map[string]struct {
		reads script
		want  int
	}{
		"the clock was set":        {script{unix.ECANCELED}, 1},
		"set twice, seen once":     {script{unix.ECANCELED, unix.ECANCELED}, 1},
		"the timer's time came":    {script{nil}, 0},
		"set after that time came": {script{nil, unix.ECANCELED}, 1},
		"nothing":                  {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			sets := make(chan struct{}, 1)
			if err := follow(&test.reads, sets); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("following ended with %v", err)
			}
			if len(sets) != test.want {
				t.Errorf("%d tokens, want %d", len(sets), test.want)
			}
		})
	}
}

// TestTimer has the kernel's timer wait, and its reader end with it. That it tells
// of a clock that is set is tested in a virtual machine, whose clock is its own.
func TestTimer(t *testing.T) {
	timer, err := newTimer()
	if err != nil {
		t.Fatal(err)
	}
	if err := timer.SetReadDeadline(time.Now()); err != nil {
		t.Fatalf("the timer can't be waited for: %v", err)
	}
	sets := make(chan struct{}, 1)
	if err := follow(timer, sets); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("following ended with %v", err)
	}
	if len(sets) != 0 {
		t.Error("it tells that the clock was set, which it was not")
	}
	if err := timer.Close(); err != nil {
		t.Error(err)
	}
}
