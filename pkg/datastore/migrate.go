package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"golang.org/x/sync/errgroup"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/config"
)

const (
	// migrationPage is how many keys are read at a time, migrationWriters how many
	// are written at a time: etcd flushes them together.
	migrationPage    = 500
	migrationWriters = 64
	// revisionMargin keeps revisions that clients have seen below new ones.
	revisionMargin = 1000
	// raisedKey is the key whose writes raise the revision.
	raisedKey = "/kedge/migrated"
)

// asideSuffix is what a database's name ends with after a migration.
const asideSuffix = ".before-etcd"

// migrate takes the state of SQLite over, if there is one: all of it goes into a
// directory of another name first. Cut short, it begins anew.
func (e *Etcd) migrate(ctx context.Context) error {
	database := NewSQLiteFile(e.config.SQLite).Path()
	if info, err := os.Stat(database); e.config.SQLite == "" || errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	began := time.Now()
	staged := e.config.Dir + ".migrating"
	if err := os.RemoveAll(staged); err != nil {
		return err
	}
	if err := os.MkdirAll(staged, 0o700); err != nil {
		return err
	}
	e.log.Info("taking the state of SQLite over into etcd", "from", database)
	name := newName(e.config.Node)
	keys, revision, err := e.copyAll(ctx, staged, name)
	if err != nil {
		return err
	}
	if err := raiseRevision(staged, revision+revisionMargin); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(staged, "name"), []byte(name+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(e.config.Dir); err != nil { // holds no member's data
		return err
	}
	if err := os.Rename(staged, e.config.Dir); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(e.config.Dir)); err != nil {
		return err
	}
	if err := e.setAside(database); err != nil {
		return err
	}
	e.log.Info("took the state of SQLite over into etcd; the old file is kept aside", "keys", keys, "old", database+asideSuffix, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// finishMigration sets the database of SQLite aside that a migration has left,
// which was cut short at its end.
func (e *Etcd) finishMigration() error {
	database := NewSQLiteFile(e.config.SQLite).Path()
	if e.config.SQLite == "" || exists(database+asideSuffix) {
		return nil
	}
	return e.setAside(database)
}

// setAside moves the database itself last: what is left is then all of it.
func (*Etcd) setAside(database string) error {
	for _, part := range []string{"-wal", "-shm", ""} {
		err := os.Rename(database+part, database+asideSuffix+part)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(filepath.Dir(database))
}

// copyAll writes all keys of SQLite into a new etcd in dir. It returns how many,
// and SQLite's revision.
func (e *Etcd) copyAll(ctx context.Context, dir, name string) (keys int, revision int64, err error) {
	socket := filepath.Join(config.RuntimeDir, "migration.sock")
	source := NewSQLite(e.config.SQLite, socket, e.log)
	if err := source.Start(ctx); err != nil {
		return 0, 0, err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if stopErr := source.Stop(stopping); err == nil {
			err = stopErr
		}
		_ = os.Remove(socket)
	}()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{source.Endpoint()}, DialTimeout: 5 * time.Second, MaxCallRecvMsgSize: 1 << 30})
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = client.Close() }()

	settings, err := e.embedConfig(name, dir)
	if err != nil {
		return 0, 0, err
	}
	etcd, err := e.startEtcd(ctx, settings)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		closing := &Etcd{etcd: etcd}
		closing.close()
	}()
	select {
	case <-etcd.Server.ReadyNotify():
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	keys, revision, err = copyKeys(ctx, client, etcd)
	if err != nil {
		return 0, 0, err
	}
	// Members that join later get what is in the database, and not this log: the
	// revision that is raised now is only there.
	etcd.Server.ForceSnapshot()
	_, err = etcd.Server.Put(ctx, &etcdserverpb.PutRequest{Key: []byte(raisedKey), Value: fmt.Append(nil, revision)})
	return keys, revision, err
}

// copyKeys copies page by page, all of the same revision.
func copyKeys(ctx context.Context, from *clientv3.Client, to *embed.Etcd) (keys int, revision int64, err error) {
	leases := &leases{to: to, ids: map[int64]int64{}}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(migrationWriters)
	start, end := "/", clientv3.GetPrefixRangeEnd("/")
	for {
		options := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(migrationPage)}
		if revision > 0 {
			options = append(options, clientv3.WithRev(revision))
		}
		page, err := from.Get(ctx, start, options...)
		if err != nil {
			return 0, 0, errors.Join(fmt.Errorf("read from SQLite: %w", err), group.Wait())
		}
		revision = max(revision, page.Header.Revision)
		for _, kv := range page.Kvs {
			group.Go(func() error { return leases.put(ctx, kv) })
		}
		keys += len(page.Kvs)
		if len(page.Kvs) == 0 || !page.More {
			break
		}
		start = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	if err := group.Wait(); err != nil {
		return 0, 0, fmt.Errorf("write to etcd: %w", err)
	}
	return keys, revision, nil
}

// leases gives keys that expire a lease: in kine's API the number of a lease is
// its time to live.
type leases struct {
	to  *embed.Etcd
	mu  sync.Mutex
	ids map[int64]int64 // by the time to live
}

func (l *leases) put(ctx context.Context, kv *mvccpb.KeyValue) error {
	lease, err := l.of(ctx, kv.Lease)
	if err != nil {
		return err
	}
	_, err = l.to.Server.Put(ctx, &etcdserverpb.PutRequest{Key: kv.Key, Value: kv.Value, Lease: lease})
	return err
}

func (l *leases) of(ctx context.Context, ttl int64) (int64, error) {
	if ttl == 0 {
		return 0, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if id := l.ids[ttl]; id != 0 {
		return id, nil
	}
	granted, err := l.to.Server.LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{TTL: ttl})
	if err != nil {
		return 0, err
	}
	l.ids[ttl] = granted.ID
	return granted.ID, nil
}

// raiseRevision makes the revision of a stopped member the given one, with all
// before it compacted. etcd begins with 1, and clients that have seen a higher
// one of SQLite would wait for it in silence; now they hear that they are to list
// anew. It is what etcdutl does when it restores a snapshot with --bump-revision.
func raiseRevision(dir string, revision int64) error {
	logged := newEtcdLog(slog.New(slog.DiscardHandler))
	return logged.recovered(func() error { return putRevision(logged, dir, revision) })
}

func putRevision(logged *etcdLog, dir string, revision int64) error {
	b := backend.NewDefaultBackend(logged.zap(), filepath.Join(dir, "member", "snap", "db"))
	defer func() { _ = b.Close() }()
	kv := mvccpb.KeyValue{Key: []byte(raisedKey), CreateRevision: revision, ModRevision: revision, Version: 1, Value: fmt.Append(nil, revision)}
	value, err := kv.Marshal()
	if err != nil {
		return err
	}
	tx := b.BatchTx()
	tx.LockOutsideApply()
	tx.UnsafePut(schema.Key, mvcc.RevToBytes(mvcc.Revision{Main: revision}, mvcc.NewRevBytes()), value)
	mvcc.UnsafeSetScheduledCompact(tx, revision)
	tx.Unlock()
	b.ForceCommit()
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Sync()
}
