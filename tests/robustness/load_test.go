//go:build robustness

package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kedge-k8s/kedge/tests/robustness/history"
)

const (
	// clientsPerRun share the servers, and keys so few that they get in each
	// other's way.
	clientsPerRun = 6
	keysAtATime   = 5
	// patience is how long a client waits for an answer.
	patience = 3 * time.Second
	// thinkTime is the mean pause of a client. The processors are for the servers.
	thinkTime = 20 * time.Millisecond
	// watchTime is how long a watch lasts before it is begun again where it was.
	watchTime = 15 * time.Second
)

// client is one user of one server's API.
type client struct {
	run    *run
	server *server
	name   string // with which its values begin
	number int
	rng    *rand.Rand
	writes int
	known  map[string]history.Object // as far as it has heard
}

// work makes requests until ctx ends.
func (c *client) work(ctx context.Context) {
	for ctx.Err() == nil {
		pause := time.Duration(c.rng.ExpFloat64() * float64(thinkTime))
		if err := c.request(ctx); err != nil && !errors.Is(err, errRefused) {
			c.run.failed(err)
			pause += 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// request makes one request. It runs to its end even if ctx ends.
func (c *client) request(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	keys := c.run.keys()
	key := keys[c.rng.IntN(len(keys))]
	chance := c.rng.IntN(100)
	switch {
	case chance < 2:
		return c.list(ctx, keys)
	case chance < 20:
		return c.read(ctx, key)
	}
	// What it has heard of a key may be old, which the server has to notice.
	if _, ok := c.known[key]; !ok {
		if err := c.read(ctx, key); err != nil {
			return err
		}
	}
	if known := c.known[key]; known.Value == "" || chance < 95 {
		return c.write(ctx, key, known)
	}
	return c.remove(ctx, key, c.known[key])
}

func (c *client) read(ctx context.Context, key string) error {
	begin := c.run.history.Now()
	o, err := c.server.api.read(ctx, key)
	if err == nil {
		c.known[key] = o
		c.run.history.Add(history.Operation{
			Client: c.number, Kind: history.Read, Key: key, Value: o.Value, Version: o.Version,
			Outcome: history.Done, Begin: begin, End: c.run.history.Now(),
		})
	}
	return err
}

// list reads all keys at once.
func (c *client) list(ctx context.Context, keys []string) error {
	begin := c.run.history.Now()
	all, _, err := c.server.api.list(ctx)
	if err != nil {
		return err
	}
	end := c.run.history.Now()
	for _, key := range keys {
		o := all[key]
		c.known[key] = o
		c.run.history.Add(history.Operation{
			Client: c.number, Kind: history.Read, Key: key, Value: o.Value, Version: o.Version,
			Outcome: history.Done, Begin: begin, End: end,
		})
	}
	return nil
}

func (c *client) write(ctx context.Context, key string, known history.Object) error {
	c.writes++
	o := history.Operation{
		Kind: history.Update, Key: key, Expect: known.Value,
		Value: fmt.Sprintf("%s-%d", c.name, c.writes),
	}
	if known.Value == "" {
		o.Kind = history.Create
	}
	return c.record(o, func() (uint64, error) { return c.server.api.write(ctx, key, o.Value, known.Version) })
}

func (c *client) remove(ctx context.Context, key string, known history.Object) error {
	o := history.Operation{Kind: history.Delete, Key: key, Expect: known.Value}
	return c.record(o, func() (uint64, error) { return 0, c.server.api.remove(ctx, key, known.Version) })
}

// record has something written, and records what the client knows of it
// afterwards.
func (c *client) record(o history.Operation, do func() (version uint64, err error)) error {
	o.Client, o.Begin = c.number, c.run.history.Now()
	version, err := do()
	o.End = c.run.history.Now()
	delete(c.known, o.Key)
	switch {
	case err == nil:
		o.Outcome, o.Version = history.Done, version
		c.known[o.Key] = history.Object{Value: o.Value, Version: version}
		c.server.acknowledged.Add(1)
	case errors.Is(err, errNotDone):
		return err
	case errors.Is(err, errRefused):
		o.Outcome = history.Refused
	default:
		// As far as the history goes, this one still waits, and another one goes on.
		c.number = c.run.newClient()
	}
	c.run.history.Add(o)
	return err
}

// watcher keeps a watch of a server, or of one server after the other.
type watcher struct {
	run     *run
	servers []*server
	seen    *history.Watch
}

// follow watches until ctx ends, and goes on where it was whenever a watch ends.
func (w *watcher) follow(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		err := w.watch(ctx, w.servers[i%len(w.servers)].api)
		if err != nil && ctx.Err() == nil {
			w.run.failed(fmt.Errorf("watch: %w", err))
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func (w *watcher) watch(ctx context.Context, a *api) error {
	version := w.seen.Version()
	if version == 0 {
		return w.list(ctx, a)
	}
	err := a.watch(ctx, version, watchTime, func(kind history.EventKind, key string, o history.Object) {
		w.seen.Event(w.run.history.Now(), kind, key, o.Value, o.Version)
	})
	if errors.Is(err, errExpired) {
		w.run.failed(fmt.Errorf("watch: %w", err))
		return w.list(ctx, a)
	}
	return err
}

// list begins anew.
func (w *watcher) list(ctx context.Context, a *api) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, version, err := a.list(ctx)
	if err == nil {
		w.seen.List(w.run.history.Now(), version, all)
	}
	return err
}
