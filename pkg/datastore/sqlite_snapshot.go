package datastore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Kind tells SQLite's copies from those of other datastores.
func (SQLiteFile) Kind() string { return "sqlite" }

// Backup writes a consistent copy to a new file, while a server uses the
// database or not.
func (f SQLiteFile) Backup(ctx context.Context, file string) error {
	db, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", file); err != nil {
		return fmt.Errorf("copy %s: %w", f.Path(), err)
	}
	return os.Chmod(file, 0o600)
}

// open opens a database that exists.
func (f SQLiteFile) open(ctx context.Context) (*sql.DB, error) {
	if _, err := os.Stat(f.Path()); err != nil {
		return nil, fmt.Errorf("there is no SQLite datastore here: %w", err)
	}
	db, err := openSQLite(f.Path(), "mode=rw")
	if err != nil {
		return nil, err
	}
	return db, db.PingContext(ctx)
}

// CheckCopy checks all of a copy.
func (SQLiteFile) CheckCopy(ctx context.Context, file string) error {
	if err := checkSQLite(ctx, file, "integrity_check"); err != nil {
		return err
	}
	db, err := openSQLite(file, "mode=ro")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var rows int64
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM kine WHERE name = 'compact_rev_key'").Scan(&rows); err != nil || rows == 0 {
		return fmt.Errorf("it is not the database of a server: %w", errors.Join(err, errNoRows(rows)))
	}
	return nil
}

func errNoRows(rows int64) error {
	if rows == 0 {
		return errors.New("it holds no objects")
	}
	return nil
}

// liveRows are the objects there are, each in its last version.
const liveRows = "FROM kine WHERE id IN (SELECT MAX(id) FROM kine GROUP BY name) AND deleted = 0"

// nodesPrefix begins the keys of nodes, whose kubelets report every few minutes
// that they are alive.
const nodesPrefix = "/registry/minions/"

// volatile are the keys of what changes all the time in an idle cluster, or by
// taking snapshots.
var volatile = []string{"/registry/leases/", "/registry/events/", "/registry/masterleases/", "/registry/kedge.io/snapshots/", "compact_rev_key"}

// State tells whether any object but the volatile ones has changed. A change
// gives an object a higher revision, or takes one away; of nodes counts what
// they are told, not what they report.
func (f SQLiteFile) State(ctx context.Context) (string, error) {
	db, err := f.open(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = db.Close() }()
	query, args := "SELECT COUNT(*), COALESCE(MAX(id), 0) "+liveRows, []any{}
	for _, prefix := range append(volatile, nodesPrefix) {
		query += " AND NOT (name >= ? AND name < ?)"
		args = append(args, prefix, prefix+"\xff")
	}
	var count, revision int64
	if err := db.QueryRowContext(ctx, query, args...).Scan(&count, &revision); err != nil {
		return "", fmt.Errorf("read %s: %w", f.Path(), err)
	}
	told, err := nodesState(ctx, db)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", f.Path(), err)
	}
	return told.state(count, revision), nil
}

// nodes is the state of all nodes, of what they are told.
type nodes struct{ hash hash.Hash }

func newNodes() nodes { return nodes{sha256.New()} }

// add adds a node as it is stored, in the order of the keys.
func (n nodes) add(key string, revision int64, value []byte) {
	told, err := nodeTold(value)
	if err != nil { // stored in another way: every change counts
		told = strconv.AppendInt(nil, revision, 10)
	}
	fmt.Fprintf(n.hash, "%s %d %s\n", key, len(told), told)
}

// state joins what is known of all objects but the volatile ones.
func (n nodes) state(count, revision int64) string {
	return fmt.Sprintf("%d-%d-%x", count, revision, n.hash.Sum(nil)[:8])
}

func nodesState(ctx context.Context, db *sql.DB) (nodes, error) {
	all := newNodes()
	rows, err := db.QueryContext(ctx, "SELECT id, name, value "+liveRows+" AND name >= ? AND name < ? ORDER BY name", nodesPrefix, nodesPrefix+"\xff")
	if err != nil {
		return all, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		var name string
		var value []byte
		if err := rows.Scan(&id, &name, &value); err != nil {
			return all, err
		}
		all.add(name, id, value)
	}
	return all, rows.Err()
}

// nodeTold is what a node is told by others, of its stored form:
// https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
func nodeTold(value []byte) ([]byte, error) {
	encoded, ok := strings.CutPrefix(string(value), "k8s\x00")
	if !ok {
		return nil, errors.New("not in Kubernetes' protobuf form")
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal([]byte(encoded)); err != nil {
		return nil, err
	}
	var node corev1.Node
	if err := node.Unmarshal(unknown.Raw); err != nil {
		return nil, err
	}
	return json.Marshal([]any{node.UID, node.Labels, node.Annotations, node.Spec})
}

// Revision is the last one in the database's file, which may be damaged and is not
// touched: what is only in the write-ahead log is passed over.
func (f SQLiteFile) Revision(ctx context.Context) (last int64) {
	db, err := openSQLite(f.Path(), "mode=ro&immutable=1")
	if err != nil {
		return 0
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRowContext(ctx, "SELECT MAX(id) FROM kine").Scan(&last); err != nil {
		return 0
	}
	return last
}

// Prepare moves the revision of a copy on.
func (SQLiteFile) Prepare(ctx context.Context, file string, past int64) error {
	return advance(ctx, file, past)
}

// SetAside moves the database into the directory aside.
func (f SQLiteFile) SetAside(_ context.Context, aside string) error {
	// The write-ahead log of one database must never meet another.
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := moveAside(f.Path()+suffix, aside); err != nil {
			return err
		}
	}
	return nil
}

// Install puts a prepared copy in the place of the database.
func (f SQLiteFile) Install(_ context.Context, file string) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	if err := os.Rename(file, f.Path()); err != nil {
		return err
	}
	if err := os.Remove(f.runningMarker()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(f.dir)
}

func moveAside(path, aside string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	return os.Rename(path, filepath.Join(aside, filepath.Base(path)))
}

// leap is how far the revision moves on in a restore: farther than it can have
// come since the snapshot was taken, unless by another restore.
const leap = 1_000_000_000

// advance lets the revisions of a copy begin behind all that clients may have
// seen of the cluster since, and declares those before it compacted: clients
// that still run, kubelets and controllers, then list everything anew instead
// of waiting for revisions that mean something else now.
func advance(ctx context.Context, file string, past int64) error {
	db, err := openSQLite(file, "mode=rw&_journal_mode=DELETE&_synchronous=FULL")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var last int64
	if err := tx.QueryRowContext(ctx, "SELECT MAX(id) FROM kine").Scan(&last); err != nil {
		return fmt.Errorf("read the revision: %w", err)
	}
	next := max(last, past) + leap
	for _, statement := range []struct {
		text string
		args []any
	}{
		// Old versions: nobody may ask for them any more.
		{"DELETE FROM kine WHERE name != 'compact_rev_key' AND (deleted != 0 OR id NOT IN (SELECT MAX(id) FROM kine GROUP BY name))", nil},
		{"DELETE FROM kine WHERE name = 'compact_rev_key' AND id != (SELECT MAX(id) FROM kine WHERE name = 'compact_rev_key')", nil},
		// The row in which kine keeps how far history is compacted is also the
		// one with the highest revision.
		{"UPDATE kine SET id = ?, prev_revision = ? WHERE name = 'compact_rev_key'", []any{next, next}},
		{"UPDATE sqlite_sequence SET seq = ? WHERE name = 'kine'", []any{next}},
	} {
		if _, err := tx.ExecContext(ctx, statement.text, statement.args...); err != nil {
			return fmt.Errorf("advance the revision: %w", err)
		}
	}
	return tx.Commit()
}
