// Package clock tells when the machine's clock is set.
package clock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// Sets returns a channel that holds a token once the machine's clock has been set:
// by hand, by NTP that found it far off, or because the machine has slept. Nothing
// comes any more when ctx has ended.
func Sets(ctx context.Context, log *slog.Logger) <-chan struct{} {
	sets := make(chan struct{}, 1)
	timer, err := newTimer()
	if err != nil {
		log.Warn("it is not noticed when the machine's clock is set", "err", err)
		return sets
	}
	context.AfterFunc(ctx, func() { _ = timer.Close() })
	go func() {
		if err := follow(timer, sets); ctx.Err() == nil {
			log.Warn("it is not noticed any more when the machine's clock is set", "err", err)
		}
	}()
	return sets
}

// newTimer makes a timer of the kernel whose reader is told when the clock is set,
// and wakes for nothing else.
func newTimer() (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "timer of the clock")
	// A time that 32-bit machines know as well. It comes once, and then never again.
	far := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt32}}
	// ECANCELED: the clock was set just now, before anybody read it.
	err = unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &far, nil)
	if err != nil && !errors.Is(err, unix.ECANCELED) {
		return nil, errors.Join(fmt.Errorf("start a timer: %w", err), timer.Close())
	}
	return timer, nil
}

// follow passes on what the timer tells, until reading it fails.
func follow(timer io.Reader, sets chan<- struct{}) error {
	expirations := make([]byte, 8)
	for {
		_, err := timer.Read(expirations)
		switch {
		case errors.Is(err, unix.ECANCELED):
			select {
			case sets <- struct{}{}:
			default: // nobody has looked since the last one
			}
		case err != nil:
			return err
		}
	}
}
