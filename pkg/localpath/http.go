package localpath

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Requests between a server and a node.
const (
	volumesPath = "/volumes"
	maxMessage  = 16 << 10
)

type makeRequest struct {
	Volume
	Root string `json:"root,omitempty"`
}

type makeAnswer struct {
	Path string `json:"path"`
}

// Handler answers the requests of Remote.
func Handler(d Directories) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+volumesPath, func(w http.ResponseWriter, r *http.Request) {
		var request makeRequest
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessage)).Decode(&request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		path, err := d.Make(r.Context(), request.Volume, request.Root)
		if err != nil {
			fail(w, err)
			return
		}
		_ = json.NewEncoder(w).Encode(makeAnswer{Path: path}) // fails only if nobody reads it
	})
	mux.HandleFunc("DELETE "+volumesPath+"/{dir}", func(w http.ResponseWriter, r *http.Request) {
		if err := d.Remove(r.Context(), r.URL.Query().Get("root"), r.PathValue("dir")); err != nil {
			fail(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	if errors.Is(err, ErrNotHere) {
		code = http.StatusInsufficientStorage
	}
	http.Error(w, err.Error(), code)
}

// Remote is the Directories of a node that is asked over HTTP.
type Remote struct {
	// RoundTrip sends a request to the node. Its error is ErrNotConnected if
	// there is no way to it.
	RoundTrip func(*http.Request) (*http.Response, error)
}

// Make implements Directories.
func (m Remote) Make(ctx context.Context, v Volume, root string) (string, error) {
	body, err := json.Marshal(makeRequest{Volume: v, Root: root})
	if err != nil {
		return "", err
	}
	answer, err := m.do(ctx, http.MethodPost, volumesPath, body)
	if err != nil {
		return "", err
	}
	var made makeAnswer
	if err := json.Unmarshal(answer, &made); err != nil {
		return "", fmt.Errorf("read the node's answer %q: %w", answer, err)
	}
	return made.Path, nil
}

// Remove implements Directories.
func (m Remote) Remove(ctx context.Context, root, dir string) error {
	target := volumesPath + "/" + url.PathEscape(dir) + "?" + url.Values{"root": {root}}.Encode()
	_, err := m.do(ctx, http.MethodDelete, target, nil)
	return err
}

func (m Remote) do(ctx context.Context, method, target string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://node"+target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := m.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxMessage))
	if err != nil {
		return nil, fmt.Errorf("read the node's answer: %w", err)
	}
	text := strings.TrimSpace(string(answer))
	switch {
	case response.StatusCode/100 == 2:
		return answer, nil
	case response.StatusCode == http.StatusInsufficientStorage:
		return nil, nodeError{text, ErrNotHere}
	}
	return nil, nodeError{text, nil}
}

// nodeError is what a node says; the text names the reason already.
type nodeError struct {
	text   string
	reason error
}

func (e nodeError) Error() string { return e.text }
func (e nodeError) Unwrap() error { return e.reason }
