package datastore

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// newDatabase makes a database as kine does, with a few objects.
func newDatabase(t *testing.T) (SQLiteFile, *sql.DB) {
	t.Helper()
	f := NewSQLiteFile(t.TempDir())
	if err := f.create(t.Context()); err != nil {
		t.Fatal(err)
	}
	db, err := f.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	run(t, db, `CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER,
		create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)`)
	run(t, db, `CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)`)
	put(t, db, "compact_rev_key", "")
	put(t, db, "/registry/configmaps/default/a", "one")
	put(t, db, "/registry/configmaps/default/b", "one")
	return f, db
}

func run(t *testing.T, db *sql.DB, statement string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, db *sql.DB, name, value string) { t.Helper(); add(t, db, name, value, 0) }

func remove(t *testing.T, db *sql.DB, name string) { t.Helper(); add(t, db, name, "", 1) }

func add(t *testing.T, db *sql.DB, name, value string, deleted int) {
	t.Helper()
	run(t, db, "INSERT INTO kine (name, created, deleted, prev_revision, value) SELECT ?1, 0, ?2, COALESCE((SELECT MAX(id) FROM kine WHERE name = ?1), 0), ?3", name, deleted, []byte(value))
}

func number(t *testing.T, db *sql.DB, query string) (n int64) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func storedNode(t *testing.T, change func(*corev1.Node)) string {
	t.Helper()
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "1"}}
	change(&node)
	raw, err := node.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	text, err := (&runtime.Unknown{Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return "k8s\x00" + string(text)
}

func TestState(t *testing.T) {
	f, db := newDatabase(t)
	const node = "/registry/minions/n"
	put(t, db, node, storedNode(t, func(*corev1.Node) {}))
	last, err := f.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name    string
		do      func()
		changes bool
	}{
		{"nothing", func() {}, false},
		{"a lease", func() { put(t, db, "/registry/leases/kube-node-lease/n", "x") }, false},
		{"an event", func() { put(t, db, "/registry/events/default/x", "x") }, false},
		{"a heartbeat", func() {
			put(t, db, node, storedNode(t, func(n *corev1.Node) { n.Status.Conditions = []corev1.NodeCondition{{Type: "Ready"}} }))
		}, false},
		{"a node's label", func() {
			put(t, db, node, storedNode(t, func(n *corev1.Node) { n.Labels = map[string]string{"a": "b"} }))
		}, true},
		{"a node in another form", func() { put(t, db, node, "k8s:enc:aesgcm:v1:x") }, true},
		{"an update", func() { put(t, db, "/registry/configmaps/default/a", "two") }, true},
		{"a creation", func() { put(t, db, "/registry/configmaps/default/c", "one") }, true},
		{"a deletion", func() { remove(t, db, "/registry/configmaps/default/c") }, true},
		{"a compaction", func() { run(t, db, "DELETE FROM kine WHERE deleted = 1 OR id IN (SELECT prev_revision FROM kine)") }, false},
	} {
		step.do()
		state, err := f.State(t.Context())
		if err != nil || (state != last) != step.changes {
			t.Errorf("%s: the state was %s and is %s, %v", step.name, last, state, err)
		}
		last = state
	}
}

func TestInstall(t *testing.T) {
	f, db := newDatabase(t)
	put(t, db, "/registry/configmaps/default/a", "two")
	remove(t, db, "/registry/configmaps/default/b")
	before := number(t, db, "SELECT MAX(id) FROM kine")
	copied, aside := filepath.Join(t.TempDir(), "copy"), filepath.Join(t.TempDir(), "aside")
	if err := f.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if err := f.CheckCopy(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	put(t, db, "/registry/configmaps/default/late", "one") // stays in the write-ahead log
	last := f.Revision(t.Context())
	if last > before+1 {
		t.Errorf("the last revision is %d, and was %d", last, before)
	}
	if err := f.Prepare(t.Context(), copied, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.SetAside(t.Context(), aside); err != nil {
		t.Fatal(err)
	}
	if err := f.Install(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(aside, "state.db-wal")); err != nil {
		t.Errorf("the write-ahead log is not kept with its database: %v", err)
	}
	restored, err := f.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = restored.Close() }()
	for query, want := range map[string]int64{
		"SELECT MAX(id) FROM kine":                                              before + leap,
		"SELECT prev_revision FROM kine WHERE name = 'compact_rev_key'":         before + leap,
		"SELECT seq FROM sqlite_sequence WHERE name = 'kine'":                   before + leap,
		"SELECT COUNT(*) FROM kine":                                             2,
		"SELECT COUNT(*) FROM kine WHERE name LIKE '%/a' AND value = x'74776f'": 1,
		"SELECT page_size FROM pragma_page_size()":                              1024,
	} {
		if got := number(t, restored, query); got != want {
			t.Errorf("%s: %d, want %d", query, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	f, db := newDatabase(t)
	for range 200 {
		put(t, db, "/registry/configmaps/default/a", strings.Repeat("x", 500))
	}
	if err := f.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	damage := func() {
		file, err := os.OpenFile(f.Path(), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		if _, err := file.WriteAt([]byte(strings.Repeat("x", 8192)), 20<<10); err != nil {
			t.Fatal(err)
		}
	}
	damage()
	before, err := os.ReadFile(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	var damaged *DamagedError
	if err := f.Check(t.Context()); !errors.As(err, &damaged) || damaged.Path != f.Path() {
		t.Errorf("the check says %v", err)
	}
	if after, err := os.ReadFile(f.Path()); err != nil || string(after) != string(before) {
		t.Errorf("the check has changed the file, %v", err)
	}
}

// TestFullCheck damages what only the full check looks at: an index that does
// not fit its table.
func TestFullCheck(t *testing.T) {
	f, db := newDatabase(t)
	run(t, db, "PRAGMA writable_schema = ON")
	run(t, db, "UPDATE sqlite_schema SET sql = replace(sql, '(name, prev_revision)', '(name, lease)') WHERE name = 'kine_name_prev_revision_uindex'")
	_ = db.Close()
	if err := f.Check(t.Context()); err != nil {
		t.Fatalf("the quick check says %v", err)
	}
	if err := f.markRunning(); err != nil {
		t.Fatal(err)
	}
	var damaged *DamagedError
	if err := f.Check(t.Context()); !errors.As(err, &damaged) {
		t.Errorf("the full check says %v", err)
	}
	if err := f.markStopped(); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(t.Context()); err != nil {
		t.Errorf("after a stop in order the check says %v", err)
	}
}

func TestShrink(t *testing.T) {
	f, db := newDatabase(t)
	if given, err := f.shrink(t.Context()); err != nil || given != 0 {
		t.Errorf("a small database gives %d, %v", given, err)
	}
	run(t, db, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO kine (name, deleted, prev_revision, value) SELECT 'x', 0, i, randomblob(1500) FROM n")
	run(t, db, "DELETE FROM kine WHERE name = 'x'")
	_ = db.Close()
	given, err := f.shrink(t.Context())
	info, statErr := os.Stat(f.Path())
	if err != nil || statErr != nil || given < worthShrinking || info.Size() > 1<<20 {
		t.Errorf("it gives %d, %v; the file is %v, %v", given, err, info.Size(), statErr)
	}
}
