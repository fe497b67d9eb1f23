package localpath

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

// fakeDirectories records what it is asked.
type fakeDirectories struct {
	made    []string // "VOLUME in ROOT"
	removed []string // "DIR in ROOT"
	path    string
	err     error
}

func (f *fakeDirectories) Make(_ context.Context, v Volume, root string) (string, error) {
	f.made = append(f.made, fmt.Sprintf("%s in %s", v.Dir(), root))
	return f.path, f.err
}

func (f *fakeDirectories) Remove(_ context.Context, root, dir string) error {
	f.removed = append(f.removed, fmt.Sprintf("%s in %s", dir, root))
	return f.err
}

// over returns the far end of a Handler of d.
func over(d Directories) Remote {
	handler := Handler(d)
	return Remote{RoundTrip: func(r *http.Request) (*http.Response, error) {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, r)
		return recorder.Result(), nil
	}}
}

func TestRemote(t *testing.T) {
	d := &fakeDirectories{path: "/a b/pvc-1_ns_data"}
	remote := over(d)
	path, err := remote.Make(t.Context(), volume, "/a b")
	if err != nil || path != d.path {
		t.Errorf("made %q, %v", path, err)
	}
	if err := remote.Remove(t.Context(), "/a b&?", "x/../y"); err != nil {
		t.Error(err)
	}
	if got, want := fmt.Sprint(d.made, d.removed), "[pvc-1_ns_data in /a b] [x/../y in /a b&?]"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
}

func TestRemoteErrors(t *testing.T) {
	for _, test := range []struct {
		err     error
		notHere bool
	}{
		{errors.New("permission denied"), false},
		{fmt.Errorf("no space left: %w", ErrNotHere), true},
	} {
		remote := over(&fakeDirectories{err: test.err})
		_, err := remote.Make(t.Context(), volume, "")
		for _, err := range []error{err, remote.Remove(t.Context(), "/r", "d")} {
			if err == nil || err.Error() != test.err.Error() || errors.Is(err, ErrNotHere) != test.notHere {
				t.Errorf("got %v, want %v", err, test.err)
			}
		}
	}
	remote := Remote{RoundTrip: func(*http.Request) (*http.Response, error) { return nil, ErrNotConnected }}
	if err := remote.Remove(t.Context(), "/r", "d"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("got %v, want %v", err, ErrNotConnected)
	}
}

func TestHandlerRefuses(t *testing.T) {
	d := &fakeDirectories{path: "/r"}
	handler := Handler(d)
	for _, request := range []struct{ method, path string }{
		{http.MethodGet, "/volumes"}, {http.MethodPost, "/"}, {http.MethodDelete, "/volumes"}, {http.MethodPost, "/volumes"}, // no body
	} {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(request.method, request.path, nil))
		if recorder.Code/100 != 4 {
			t.Errorf("%s %s: code %d", request.method, request.path, recorder.Code)
		}
	}
	if len(d.made)+len(d.removed) > 0 {
		t.Errorf("asked for %v, %v", d.made, d.removed)
	}
}
