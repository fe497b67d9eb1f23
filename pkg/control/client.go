package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// callLimit is how long a command may take that is not about all of the datastore.
const callLimit = 2 * time.Minute

func limit(command string) time.Duration {
	switch command {
	case SaveSnapshot, DeleteSnapshots, PruneSnapshots:
		return SnapshotLimit
	default:
		return callLimit
	}
}

// ErrNotRunning says that nobody answers at the socket.
var ErrNotRunning = errors.New("no Kedge is running here")

// Call asks the Kedge at the socket to do a command.
func Call[Q, A any](ctx context.Context, socket, command string, request Q) (answer A, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit(command))
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return answer, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kedge"+path(command), bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return answer, explain(ctx, socket, command, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer, explain(ctx, socket, command, err)
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(data, &f) != nil || f.Message == "" {
			f.Message = "the Kedge that runs here answers " + resp.Status
		}
		return answer, errors.New(f.Message)
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return answer, fmt.Errorf("read the answer of the Kedge that runs here: %w", err)
	}
	return answer, nil
}

// explain puts the reason why there is no answer into one line.
func explain(ctx context.Context, socket, command string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no %s", ErrNotRunning, socket)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w: nobody answers at %s", ErrNotRunning, socket)
	case errors.Is(err, fs.ErrPermission):
		return errors.New("the Kedge that runs here takes commands from root alone: use sudo")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("the Kedge that runs here has not answered within %s; look at its log", limit(command))
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the Kedge that ran here has stopped before it was done; start it and try again")
	default:
		return fmt.Errorf("ask the Kedge that runs here: %w", err)
	}
}
