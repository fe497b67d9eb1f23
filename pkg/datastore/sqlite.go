// Package datastore keeps the cluster's state: SQLite through kine, which
// speaks etcd's API to the apiserver on a private socket.
package datastore

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
)

// sqliteOptions: the write-ahead log is synced at each commit, so that what
// the API acknowledged survives a power cut. kine's own start-up VACUUM, which
// rewrites the whole file at each start, is off.
const sqliteOptions = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_stmt_cache_size=20&_kine_disable_startup_vacuum"

// SQLite is the default datastore as a component.
type SQLite struct {
	bridge

	file SQLiteFile
	log  *slog.Logger
}

// NewSQLite keeps its database in dir and listens on the socket.
func NewSQLite(dir, socket string, log *slog.Logger) *SQLite {
	return &SQLite{bridge: bridge{socket: socket}, file: NewSQLiteFile(dir), log: log}
}

// Start serves the database, which was checked, and makes it if there is none.
func (s *SQLite) Start(ctx context.Context) error {
	if err := os.MkdirAll(s.file.dir, 0o700); err != nil {
		return fmt.Errorf("datastore directory: %w", err)
	}
	if err := s.file.create(ctx); err != nil {
		return err
	}
	if given, err := s.file.shrink(ctx); err != nil {
		s.log.Warn("the datastore keeps its free space for now", "component", s.Name(), "err", err)
	} else if given > 0 {
		s.log.Info("gave free space of the datastore back", "component", s.Name(), "MB", given>>20)
	}
	if err := s.file.markRunning(); err != nil {
		return err
	}
	if err := s.serve(s.open); err != nil {
		return fmt.Errorf("SQLite database %s: %w", s.file.Path(), err)
	}
	return nil
}

// Stop ends kine, waits until the database is closed, and remembers that it
// was.
func (s *SQLite) Stop(ctx context.Context) error {
	if err := s.stop(ctx); err != nil {
		return err
	}
	return s.file.markStopped()
}

// open does what kine's own driver does, with a log that tells of failures.
func (s *SQLite) open(ctx context.Context, wg *sync.WaitGroup) (server.Backend, error) {
	c := kineConfig()
	c.DataSourceName = s.file.Path() + "?" + sqliteOptions
	_, dialect, err := sqlite.NewVariant(ctx, wg, "sqlite3", c)
	if err != nil {
		return nil, err
	}
	log := sqllog.New(dialect, c.CompactInterval, c.CompactIntervalJitter, c.CompactTimeout, c.CompactMinRetain, c.CompactBatchSize, c.PollBatchSize)
	return logstructured.New(candidLog{log}), nil
}
