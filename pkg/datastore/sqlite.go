// Package datastore keeps the cluster's state: SQLite through kine, which
// speaks etcd's API to the apiserver on a private socket.
package datastore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	_ "github.com/k3s-io/kine/pkg/drivers/sqlite" // registers the driver
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// sqliteMagic begins every SQLite 3 database: https://sqlite.org/fileformat.html
var sqliteMagic = []byte("SQLite format 3\x00")

// maxRequest is etcd's own limit of a request with room for what wraps it.
const maxRequest = 2 << 20

// sqliteOptions: the write-ahead log is synced at each commit, so that what
// the API acknowledged survives a power cut. kine's own start-up VACUUM, which
// rewrites the whole file at each start, is off.
const sqliteOptions = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_stmt_cache_size=20&_kine_disable_startup_vacuum"

// emulatedVersion is the etcd that kine answers as: the last one without
// reliable watch progress requests. Above it the apiserver serves consistent
// lists from its watch cache, after waiting for kine's next progress report, up
// to 200 ms (at start-up, seconds); below it they are read from SQLite at once.
const emulatedVersion = "3.5.12"

// SQLite is the default datastore as a component.
type SQLite struct {
	dir    string
	socket string
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewSQLite keeps its database in dir and listens on the socket.
func NewSQLite(dir, socket string) *SQLite { return &SQLite{dir: dir, socket: socket} }

// Endpoint is the etcd endpoint that the apiserver is given.
func (s *SQLite) Endpoint() string { return "unix://" + s.socket }

func (*SQLite) Name() string    { return "datastore" }
func (*SQLite) Needs() []string { return nil }

// Start checks the database and serves it.
func (s *SQLite) Start(ctx context.Context) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("datastore directory: %w", err)
	}
	path := filepath.Join(s.dir, sqliteFile)
	if err := CheckSQLite(ctx, path); err != nil {
		return err
	}
	if err := createSQLite(ctx, path); err != nil {
		return err
	}
	life, cancel := context.WithCancel(context.Background())
	if err := s.serve(life, path); err != nil {
		cancel()
		return fmt.Errorf("SQLite database %s: %w", path, err)
	}
	s.cancel = cancel
	return nil
}

// serve does what kine's own endpoint does, with Kedge's watch server.
func (s *SQLite) serve(life context.Context, path string) error {
	// The values are those of kine's own command line: its library has no
	// defaults.
	_, backend, err := drivers.New(life, &s.wg, &drivers.Config{
		Endpoint:         "sqlite://" + path + "?" + sqliteOptions,
		CompactTimeout:   5 * time.Second,
		CompactMinRetain: 1000,
		CompactBatchSize: 1000,
		PollBatchSize:    500,
	})
	if err != nil {
		return err
	}
	if err := backend.Start(life); err != nil {
		return err
	}
	listener, err := s.listen(life)
	if err != nil {
		return err
	}
	watches := newWatchServer(backend)
	bridge := server.New(backend, "unix", time.Hour, emulatedVersion) // the interval is that of its own watch server
	g := grpc.NewServer(
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(math.MaxInt32),
	)
	etcdserverpb.RegisterKVServer(g, bridge)
	etcdserverpb.RegisterLeaseServer(g, bridge)
	etcdserverpb.RegisterClusterServer(g, bridge)
	etcdserverpb.RegisterMaintenanceServer(g, bridge)
	etcdserverpb.RegisterWatchServer(g, watches)
	s.wg.Go(func() { watches.reportProgress(life) })
	s.wg.Go(func() { _ = g.Serve(listener) })
	s.wg.Go(func() {
		<-life.Done()
		g.Stop()
	})
	return nil
}

// listen opens the socket, for root only, in place of a dead server's.
func (s *SQLite) listen(ctx context.Context) (net.Listener, error) {
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", s.socket)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(s.socket, 0o600)
}

// Stop ends kine and waits until the database is closed.
func (s *SQLite) Stop(ctx context.Context) error {
	s.cancel()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the database is still in use: %w", ctx.Err())
	}
}

// CheckSQLite says whether the database at path can be used; one that does not
// exist can. It never changes a damaged file.
func CheckSQLite(ctx context.Context, path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("datastore: %w", err)
	}
	defer func() { _ = file.Close() }()
	header := make([]byte, len(sqliteMagic))
	n, err := io.ReadFull(file, header)
	if err != nil && n == 0 && errors.Is(err, io.EOF) {
		return nil // created and never written to
	}
	if !bytes.Equal(header, sqliteMagic) {
		return damaged(path, errors.New("it is not a SQLite database"))
	}

	db, err := sql.Open("sqlite3", "file:"+path+"?mode=rw&_busy_timeout=5000")
	if err != nil {
		return fmt.Errorf("datastore %s: %w", path, err)
	}
	defer func() { _ = db.Close() }()
	var result string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return damaged(path, err)
	}
	if result != "ok" {
		return damaged(path, errors.New(result))
	}
	return nil
}

// createSQLite makes a database that does not exist yet, with small pages:
// most writes change a few hundred bytes in each of eight B-trees, and with
// SQLite's default of 4096 a node's heartbeat alone would write 300 MB a day.
func createSQLite(ctx context.Context, path string) error {
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		return nil
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=rwc")
	if err != nil {
		return fmt.Errorf("datastore %s: %w", path, err)
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	for _, pragma := range []string{"PRAGMA page_size = 1024", "PRAGMA journal_mode = WAL"} {
		if _, err := db.ExecContext(ctx, pragma); err != nil {
			return fmt.Errorf("datastore %s: %s: %w", path, pragma, err)
		}
	}
	return os.Chmod(path, 0o600)
}

func damaged(path string, why error) error {
	return fmt.Errorf("the datastore %s is damaged: %w; it was left as it is: put a backup of it in its place, or move it (and its -wal and -shm files) away to start with an empty cluster", path, why)
}

// TLS is what the apiserver connects with: nothing, the socket is root's.
func (*SQLite) TLS() TLS { return TLS{} }
