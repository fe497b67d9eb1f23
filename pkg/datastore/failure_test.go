package datastore

import (
	"context"
	"errors"
	"testing"

	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/server"
)

// brokenLog holds one key, and takes no write.
type brokenLog struct {
	logstructured.Log

	revision int64
	err      error
	after    int64 // revision of the key from the failed write on, if it is another
}

func (l *brokenLog) Append(context.Context, *server.Event) (int64, error) {
	if l.after != 0 {
		l.revision = l.after
	}
	return 0, l.err
}

func (l *brokenLog) List(context.Context, string, string, int64, int64, bool, bool) (int64, server.Events, error) {
	return l.revision, server.Events{{KV: &server.KeyValue{Key: "key", ModRevision: l.revision}}}, nil
}

func (l *brokenLog) CurrentRevision(context.Context) (int64, error) { return l.revision, nil }

func TestFailedWrites(t *testing.T) {
	t.Parallel()
	full := errors.New("database or disk is full")
	for _, test := range []struct {
		name     string
		log      brokenLog
		candid   bool // the log says why
		compared int64
		want     error
	}{
		{"the disk is full", brokenLog{revision: 5, err: full}, true, 5, full},
		{"the disk is full, on an external database", brokenLog{revision: 5, err: full}, false, 5, errWriteFailed},
		{"it has happened before it failed", brokenLog{revision: 5, err: full, after: 6}, true, 5, full},
		{"another one was faster", brokenLog{revision: 5, err: server.ErrKeyExists, after: 6}, true, 5, nil},
		{"another one was faster, on an external database", brokenLog{revision: 5, err: server.ErrKeyExists, after: 6}, false, 5, nil},
		{"another revision is there", brokenLog{revision: 7, err: full}, true, 5, nil},
	} {
		for name, write := range map[string]func(candid) (bool, error){
			"update": func(c candid) (bool, error) {
				_, _, ok, err := c.Update(t.Context(), "key", nil, test.compared, 0)
				return ok, err
			},
			"delete": func(c candid) (bool, error) {
				_, _, ok, err := c.Delete(t.Context(), "key", test.compared)
				return ok, err
			},
		} {
			broken := test.log
			log := logstructured.Log(&broken)
			if test.candid {
				log = candidLog{log}
			}
			if ok, err := write(candid{logstructured.New(log)}); ok || !errors.Is(err, test.want) {
				t.Errorf("%s: the %s gives %t and error %v, want %v", test.name, name, ok, err, test.want)
			}
		}
	}
}
