package datastore

import (
	"context"
	"errors"

	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/server"
)

// kine takes every error of an update or a delete for a race that was lost: it
// answers that the compared revision is another one, with the object as it still
// is. The apiserver tries again at once, and again, until its client's time is up,
// and nobody learns that the disk is full. A write that did happen, and failed
// afterwards, would look like one that was refused.

// failureKey is where a context has room for the error of a write.
type failureKey struct{}

// candidLog notes why a write failed.
type candidLog struct{ logstructured.Log }

// Append implements logstructured.Log.
func (l candidLog) Append(ctx context.Context, event *server.Event) (int64, error) {
	revision, err := l.Log.Append(ctx, event)
	// A key that exists is what a lost race looks like.
	if failure, ok := ctx.Value(failureKey{}).(*error); ok && err != nil && !errors.Is(err, server.ErrKeyExists) {
		*failure = err
	}
	return revision, err
}

// errWriteFailed is all that is known of a database without a candidLog.
var errWriteFailed = errors.New("the database has not taken the write")

// candid is a backend of kine whose updates and deletes return the errors they
// have met.
type candid struct{ server.Backend }

// Update implements server.Backend.
func (c candid) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	var failure error
	now, kv, ok, err := c.Backend.Update(context.WithValue(ctx, failureKey{}, &failure), key, value, revision, lease)
	if !ok && err == nil {
		err = failed(failure, kv, revision)
	}
	return now, kv, ok, err
}

// Delete implements server.Backend.
func (c candid) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	var failure error
	now, kv, ok, err := c.Backend.Delete(context.WithValue(ctx, failureKey{}, &failure), key, revision)
	if !ok && err == nil {
		err = failed(failure, kv, revision)
	}
	return now, kv, ok, err
}

// failed is the error of a write that is said to have been refused although what
// it was compared with is what there is.
func failed(failure error, kv *server.KeyValue, compared int64) error {
	if failure == nil && kv != nil && kv.ModRevision == compared {
		return errWriteFailed
	}
	return failure
}
