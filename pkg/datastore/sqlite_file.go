package datastore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// sqliteMagic begins every SQLite 3 database: https://sqlite.org/fileformat.html
var sqliteMagic = []byte("SQLite format 3\x00")

// SQLiteFile is SQLite's database in a directory, whether a server uses it at
// the time or not.
type SQLiteFile struct{ dir string }

// NewSQLiteFile is the database in dir.
func NewSQLiteFile(dir string) SQLiteFile { return SQLiteFile{dir} }

// Path is the database's file.
func (f SQLiteFile) Path() string { return filepath.Join(f.dir, "state.db") }

// runningMarker is there while a server uses the database, and after one that
// did not stop in order.
func (f SQLiteFile) runningMarker() string { return filepath.Join(f.dir, "running") }

// DamagedError says that a database can't be used.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the datastore %s is damaged: %v; it was left as it is", e.Path, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// Check says whether the database can be used; one that does not exist can. It
// never changes a damaged file. All of it is checked when the server that used
// it last did not stop in order, else the pages but not the indexes.
func (f SQLiteFile) Check(ctx context.Context) error {
	check := "quick_check"
	if _, err := os.Stat(f.runningMarker()); err == nil {
		check = "integrity_check"
	}
	return checkSQLite(ctx, f.Path(), check)
}

// markRunning makes the next check a full one, until markStopped.
func (f SQLiteFile) markRunning() error {
	_, err := atomicfile.Update(f.runningMarker(), nil, 0o600)
	return err
}

func (f SQLiteFile) markStopped() error { return os.Remove(f.runningMarker()) }

func checkSQLite(ctx context.Context, path, check string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("datastore: %w", err)
	}
	header := make([]byte, len(sqliteMagic))
	n, err := io.ReadFull(file, header)
	_ = file.Close()
	if err != nil && n == 0 && errors.Is(err, io.EOF) {
		return nil // created and never written to
	}
	if !bytes.Equal(header, sqliteMagic) {
		return &DamagedError{path, errors.New("it is not a SQLite database")}
	}
	db, err := openSQLite(path, "mode=rw")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var result string
	if err := db.QueryRowContext(ctx, "PRAGMA "+check+"(1)").Scan(&result); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &DamagedError{path, err}
	}
	if result != "ok" {
		return &DamagedError{path, errors.New(result)}
	}
	return nil
}

// openSQLite opens a database for a single connection.
func openSQLite(path, mode string) (*sql.DB, error) {
	db, err := sql.Open("sqlite3", "file:"+path+"?"+mode+"&_busy_timeout=30000")
	if err != nil {
		return nil, fmt.Errorf("datastore %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// pageSize is small: most writes change a few hundred bytes in each of eight
// B-trees, and with SQLite's default of 4096 a node's heartbeat alone would
// write 300 MB a day.
const pageSize = "PRAGMA page_size = 1024"

// create makes the database if it does not exist yet.
func (f SQLiteFile) create(ctx context.Context) error {
	path := f.Path()
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		return nil
	}
	if err := execSQLite(ctx, path, "mode=rwc", pageSize, "PRAGMA journal_mode = WAL"); err != nil {
		return err
	}
	return os.Chmod(path, 0o600)
}

func execSQLite(ctx context.Context, path, mode string, statements ...string) error {
	db, err := openSQLite(path, mode)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("datastore %s: %s: %w", path, statement, err)
		}
	}
	return nil
}

// A database is rewritten when this much of it is free space, and more than all
// the rest.
const worthShrinking = 16 << 20

// shrink gives the space of what was deleted back to the file system, if there
// is a lot of it: SQLite itself keeps it for later. It reports how much. Nobody
// else uses the database meanwhile; a power cut leaves it as it was.
func (f SQLiteFile) shrink(ctx context.Context) (given int64, err error) {
	db, err := openSQLite(f.Path(), "mode=rw")
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	var pages, free, size int64
	row := db.QueryRowContext(ctx, "SELECT page_count, freelist_count, page_size FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()")
	if err := row.Scan(&pages, &free, &size); err != nil {
		return 0, fmt.Errorf("datastore %s: %w", f.Path(), err)
	}
	if free*size < worthShrinking || free < pages/2 {
		return 0, nil
	}
	for _, statement := range []string{"VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return 0, fmt.Errorf("datastore %s: %s: %w", f.Path(), statement, err)
		}
	}
	return free * size, nil
}
