package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

const (
	sqliteGroup = "sqlite"
	// sqliteLimit is how long all updates may take.
	sqliteLimit   = 2 * time.Hour
	sqliteWorkers = 8
	sqliteObjects = 100
	// quietTime lets a compaction find nothing more to keep: upstream's comes
	// every five minutes, and keeps what is younger.
	quietTime = 11 * time.Minute // by default
)

// sqliteMetrics are of many updates, and of none.
func sqliteMetrics() []metric {
	return []metric{
		{"sqlite-idle", sqliteGroup, "SQLite: writes, idle", "MB/day", 0, goal{limit: 100}},
		{"sqlite-rate", sqliteGroup, "SQLite: updates through the API", "1/s", 0, goal{}},
		{"sqlite-writes", sqliteGroup, "SQLite: writes for 1,000 updates of 1 kB", "MB", 1, goal{}},
		{"sqlite-first", sqliteGroup, "SQLite: largest size in the first half of the updates", "MB", 0, goal{}},
		{"sqlite-second", sqliteGroup, "SQLite: largest size in the second half", "MB", 0, goal{}},
		{"sqlite-used", sqliteGroup, "SQLite: size after another tenth of the updates, later", "MB", 0, goal{}},
		{"sqlite-restart", sqliteGroup, "SQLite: size after a restart", "MB", 0, goal{limit: 50}},
	}
}

// sqlite updates objects again and again, and looks at the database's files.
func (r *run) sqlite(ctx context.Context) error {
	r.compare()
	if err := r.step(ctx, "prepare", r.side.Prepare); err != nil {
		return err
	}
	r.calm()
	if err := r.step(ctx, "start", r.measureStart); err != nil {
		return err
	}
	idle, err := r.idle(ctx, r.side)
	if err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	r.record("sqlite-idle", idle.written*(24*time.Hour).Seconds()/1e3)
	if err := r.within(ctx, sqliteLimit, "updates", r.measureUpdates); err != nil {
		return err
	}
	return r.step(ctx, "restart", r.measureShrinking)
}

func (r *run) measureUpdates(ctx context.Context) error {
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	const namespace = "bench-updates"
	if err := createNamespace(ctx, client, namespace); err != nil {
		return err
	}
	for i := range sqliteObjects {
		if err := client.Create(ctx, configMaps(namespace), configMap(i)); err != nil {
			return err
		}
	}
	half := r.bench.options.updates / 2
	before, err := usageOf(r.side.PIDs())
	if err != nil {
		return err
	}
	began := time.Now()
	for _, key := range []string{"sqlite-first", "sqlite-second"} {
		largest, err := r.update(ctx, client, namespace, half)
		if err != nil {
			return err
		}
		r.record(key, largest)
	}
	took := time.Since(began)
	after, err := usageOf(r.side.PIDs())
	if err != nil {
		return err
	}
	r.record("sqlite-rate", float64(2*half)/took.Seconds())
	r.record("sqlite-writes", (after.written-before.written)/1e6/float64(2*half)*1e3)
	if err := sleep(ctx, r.bench.options.quiet); err != nil {
		return err
	}
	size, err := r.update(ctx, client, namespace, half/5)
	if err == nil {
		r.record("sqlite-used", size)
	}
	return err
}

// update sends so many updates, and returns the largest size of the database's
// files meanwhile, in megabytes.
func (r *run) update(ctx context.Context, client *cluster.Client, namespace string, count int) (largest float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, groupCtx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range sqliteWorkers {
		group.Go(func() error {
			for {
				i := next.Add(1)
				if i > int64(count) || groupCtx.Err() != nil {
					return groupCtx.Err()
				}
				object := configMap(int(i) % sqliteObjects)
				object["apiVersion"], object["kind"] = "v1", "ConfigMap"
				object["data"] = cluster.Object{"text": fmt.Sprintf("%0*d", apiPayload, i)}
				body, err := json.Marshal(object)
				if err != nil {
					return err
				}
				_, err = client.Do(groupCtx, http.MethodPut, configMaps(namespace)+"/"+configMapName(int(i)%sqliteObjects), "application/json", body)
				if err != nil {
					return err
				}
			}
		})
	}
	done := make(chan error, 1)
	go func() { done <- group.Wait() }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		size, sizeErr := r.databaseSize()
		if sizeErr != nil {
			cancel()
			return 0, errors.Join(sizeErr, <-done)
		}
		largest = max(largest, size)
		select {
		case err := <-done:
			return largest, err
		case <-tick.C:
		}
	}
}

// databaseSize is that of the database and its write-ahead log, in megabytes.
func (r *run) databaseSize() (float64, error) {
	var sum float64
	for _, name := range []string{"state.db", "state.db-wal"} {
		size, err := fileSize(r.host.Path(filepath.Join(datastoreDir, name)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		sum += size
	}
	return sum, nil
}

// measureShrinking looks at the size after a restart.
func (r *run) measureShrinking(ctx context.Context) error {
	if _, err := r.side.Stop(stopLimit); err != nil {
		return err
	}
	if err := r.measureStart(ctx); err != nil {
		return err
	}
	size, err := r.databaseSize()
	if err == nil {
		r.record("sqlite-restart", size)
	}
	return err
}
