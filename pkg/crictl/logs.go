package crictl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"github.com/urfave/cli/v2"
	criapi "k8s.io/cri-api/pkg/apis"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
	"k8s.io/klog/v2"
)

func logsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until the container ends", DisableDefaultText: true},
		&cli.BoolFlag{Name: "previous", Aliases: []string{"p"}, Usage: "show the log of the container before this one in the pod", DisableDefaultText: true},
		&cli.Int64Flag{Name: "tail", Value: -1, Usage: "show this many lines from the end", DefaultText: "all"},
		&cli.Int64Flag{Name: "limit-bytes", Value: -1, Usage: "show this many bytes at most", DefaultText: "all"},
		&cli.StringFlag{Name: "since", Usage: "show lines since a time (2026-01-02T13:23:37) or for as long (42m)"},
		&cli.BoolFlag{Name: "timestamps", Aliases: []string{"t"}, Usage: "show the time of each line", DisableDefaultText: true},
	}
}

func (t *tool) logs(c *cli.Context) error {
	options := &logs.LogOptions{
		TailLines:  unlessNegative(c.Int64("tail")),
		LimitBytes: unlessNegative(c.Int64("limit-bytes")),
		Follow:     c.Bool("follow"),
		Timestamp:  c.Bool("timestamps"),
	}
	var err error
	if options.Since, err = parseSince(c.String("since"), time.Now()); err != nil {
		return err
	}
	container, err := t.container(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	answer, err := t.ContainerStatus(c.Context, &runtime.ContainerStatusRequest{ContainerId: container.GetId()})
	if err != nil {
		return err
	}
	path := answer.GetStatus().GetLogPath()
	if path == "" {
		return fmt.Errorf("container %s has no log", short(container.GetId()))
	}
	if c.Bool("previous") {
		attempt := answer.GetStatus().GetMetadata().GetAttempt()
		if attempt == 0 {
			return fmt.Errorf("container %s is the first %s of its pod", short(container.GetId()), container.GetMetadata().GetName())
		}
		// The kubelet names logs by attempt.
		path = filepath.Join(filepath.Dir(path), strconv.Itoa(int(attempt)-1)+".log")
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the log %s is gone", path)
	}
	// What the library has to say of a half-written line helps nobody here.
	ctx := klog.NewContext(c.Context, logr.Discard())
	err = logs.ReadLogs(ctx, path, container.GetId(), options, statusReader{client: t.RuntimeServiceClient}, t.out, t.errOut)
	if c.Err() != nil {
		err = nil // whoever follows has seen enough
	}
	return err
}

func unlessNegative(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}

// parseSince reads a duration before now, a time, here where no zone is given,
// or seconds since 1970.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if age, err := time.ParseDuration(text); err == nil {
		return now.Add(-age), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		whole, fraction := math.Modf(seconds)
		return time.Unix(int64(whole), int64(fraction*1e9)), nil
	}
	return time.Time{}, fmt.Errorf("--since %q is neither a duration such as 42m nor a time such as 2026-01-02T13:23:37", text)
}

// statusReader is what following a log asks of the runtime: whether the
// container still runs.
type statusReader struct {
	criapi.RuntimeService // nil: nothing else is called
	client                runtime.RuntimeServiceClient
}

func (r statusReader) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtime.ContainerStatusResponse, error) {
	return r.client.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
}
