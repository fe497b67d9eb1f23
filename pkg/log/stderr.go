package log

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"time"
)

// TakeStderr takes the standard error of this process from the libraries: some
// have made a logger for it before main began, as etcd's client has, which repeats
// itself many times a second while etcd has no leader. What they write becomes
// debug messages of the handler that lines returns is given. The file returned is
// Kedge's own way to the standard error from now on, and os.Stderr's.
func TakeStderr() (own *os.File, lines func(slog.Handler), err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	libraries := os.Stderr
	own = &os.File{}
	// The libraries hold the pointer: what it points to is exchanged.
	*own, *libraries = *libraries, *write
	os.Stderr = own
	return own, func(next slog.Handler) {
		go func() { // until the process ends
			scanner := bufio.NewScanner(read)
			scanner.Buffer(nil, maxLine)
			for {
				for scanner.Scan() {
					if next.Enabled(context.Background(), slog.LevelDebug) {
						r := slog.NewRecord(time.Now(), slog.LevelDebug, scanner.Text(), 0)
						_ = next.Handle(context.Background(), r)
					}
				}
				if scanner.Err() == nil {
					return
				}
				scanner = bufio.NewScanner(read) // after a line that is too long
			}
		}()
	}, nil
}

// maxLine of what libraries write is kept whole.
const maxLine = 64 << 10
