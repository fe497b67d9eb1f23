package preload

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
)

// retry is how long a list's images that could not be pulled are left alone, the
// first time and at most.
var retry = [2]time.Duration{10 * time.Second, 5 * time.Minute}

// readList reads a list of references, one a line, with comments after #.
func readList(list io.Reader) (names []string, err error) {
	lines := bufio.NewScanner(list)
	for number := 1; lines.Scan(); number++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		named, err := reference.ParseDockerRef(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %q is not the name of an image: %w", number, line, err)
		}
		if !slices.Contains(names, named.String()) {
			names = append(names, named.String())
		}
	}
	return names, lines.Err()
}

// pullAll pulls images until all are there or ctx ends.
func (d *directory) pullAll(ctx context.Context, names []string) {
	for pause := d.retry[0]; len(names) > 0; pause = min(2*pause, d.retry[1]) {
		names = slices.DeleteFunc(names, func(name string) bool {
			began := time.Now()
			err := d.store.pull(ctx, name)
			if err != nil && ctx.Err() == nil {
				d.log.Warn("an image of a list is not pulled yet", "image", name, "err", err, "retry", pause)
			}
			if err == nil {
				d.log.Info("is here", "image", name, "took", time.Since(began).Round(time.Millisecond))
			}
			return err == nil
		})
		if len(names) == 0 {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
