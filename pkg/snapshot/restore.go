package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/token"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// Verify reads a snapshot from end to end and says whether a restore would
// find all it needs. Without a token it can't look into the secrets.
func (k *Keeper) Verify(ctx context.Context, path string, own token.Token) (File, error) {
	work, remove, err := k.WorkDir()
	if err != nil {
		return File{}, err
	}
	defer remove()
	c, err := k.unpack(ctx, path, filepath.Join(work, "datastore"))
	if err != nil {
		return File{}, err
	}
	if own.Secret() != "" {
		if _, err := c.open(own); err != nil {
			return File{}, fmt.Errorf("%s: %w", path, err)
		}
	}
	return describe(c.info, path)
}

// LastGood is the newest snapshot in the directory that is whole; the zero
// File if there is none.
func (k *Keeper) LastGood(ctx context.Context) (File, error) {
	files, err := k.List(ctx)
	if err != nil {
		return File{}, err
	}
	for _, f := range files {
		if f.Damage != "" || f.Datastore != k.options.Datastore.Kind() {
			continue
		}
		path, err := k.Path(f.Name)
		if err != nil {
			continue
		}
		if _, err := k.Verify(ctx, path, token.Token{}); err == nil {
			return f, nil
		}
		if ctx.Err() != nil {
			return File{}, ctx.Err()
		}
	}
	return File{}, nil
}

// Restored says what a restore has done.
type Restored struct {
	Info

	Aside string `json:"aside"` // directory of what was there before; empty: there was nothing
}

// Restore makes the server that a snapshot was taken of: nobody uses its
// directory meanwhile. What was there is moved aside, never deleted. Cut short,
// it can be done again, with the name or file again.
func (k *Keeper) Restore(ctx context.Context, path, again string, own token.Token) (Restored, error) {
	o := k.options
	if err := os.MkdirAll(o.ServerDir, 0o700); err != nil {
		return Restored{}, err
	}
	work, remove, err := k.WorkDir()
	if err != nil {
		return Restored{}, err
	}
	defer remove()
	datastore := filepath.Join(work, "datastore")
	c, err := k.unpack(ctx, path, datastore)
	if err != nil {
		return Restored{}, err
	}
	if version.Newer(c.info.Version, version.Version) {
		return Restored{}, fmt.Errorf("%s was taken by Kedge %s, and this is %s, which is older: install %s or newer", path, c.info.Version, version.Version, c.info.Version)
	}
	files, err := c.open(own)
	if err != nil {
		return Restored{}, fmt.Errorf("%s: %w", path, err)
	}
	restored := k.datastore(c.info.Datastore)
	var past int64
	for _, d := range k.datastores() {
		past = max(past, d.Revision(ctx))
	}
	if err := restored.Prepare(ctx, datastore, past); err != nil {
		return Restored{}, fmt.Errorf("restore %s: %w", path, err)
	}
	aside := filepath.Join(o.ServerDir, "before-restore-"+time.Now().UTC().Format("20060102-150405"))
	for n := 2; exists(aside); n++ {
		aside = fmt.Sprintf("%s-%d", aside, n)
	}
	// Half a restore may look like a new machine, or mix two clusters.
	if err := atomicfile.Write(markerOf(o.ServerDir), []byte(again+"\n"), 0o600); err != nil {
		return Restored{}, err
	}
	if err := put(files, o.ServerDir, aside); err != nil {
		return Restored{}, fmt.Errorf("restore %s: %w", path, err)
	}
	for _, d := range k.datastores() {
		if err := d.SetAside(ctx, filepath.Join(aside, "db")); err != nil {
			return Restored{}, fmt.Errorf("restore %s: %w", path, err)
		}
	}
	if err := restored.Install(ctx, datastore); err != nil {
		return Restored{}, fmt.Errorf("restore %s: %w", path, err)
	}
	if err := os.Remove(markerOf(o.ServerDir)); err != nil {
		return Restored{}, err
	}
	if err := syncDir(o.ServerDir); err != nil {
		return Restored{}, err
	}
	done := Restored{Info: c.info}
	if exists(aside) {
		done.Aside = aside
	}
	return done, nil
}

// datastores are those that a snapshot can be restored to.
func (k *Keeper) datastores() []Datastore {
	return append([]Datastore{k.options.Datastore}, k.options.Others...)
}

// datastore is the one of a kind; nil if there is none.
func (k *Keeper) datastore(kind string) Datastore {
	for _, d := range k.datastores() {
		if d.Kind() == kind {
			return d
		}
	}
	return nil
}

func markerOf(serverDir string) string { return filepath.Join(serverDir, "restoring") }

// InterruptedError says that a restore was cut short.
type InterruptedError struct{ Snapshot string } // its name or file

func (e *InterruptedError) Error() string {
	return "a restore was cut short: do it again with kedge snapshot restore " + e.Snapshot
}

// Interrupted returns an InterruptedError if a restore into the server's directory
// was cut short.
func Interrupted(serverDir string) error {
	text, err := os.ReadFile(markerOf(serverDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return &InterruptedError{strings.TrimSpace(string(text))}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// open decrypts the secrets.
func (c content) open(own token.Token) ([]kept, error) {
	if own.CAHash != "" && own.CAHash != c.info.CAHash {
		return nil, errors.New("the token is another cluster's")
	}
	plain, err := unseal(c.secrets, own.Secret(), c.sum)
	if err != nil {
		return nil, err
	}
	return decode(plain)
}

// unpack checks a whole snapshot and writes its datastore to a file.
func (k *Keeper) unpack(ctx context.Context, path, to string) (content, error) {
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return content{}, err
	}
	c, err := readArchive(ctx, path, file)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return content{}, fmt.Errorf("%s: %w", path, err)
	}
	of := k.datastore(c.info.Datastore)
	if of == nil {
		return content{}, fmt.Errorf("%s: the snapshot is of a datastore of kind %q, which this Kedge does not know: install a newer one", path, c.info.Datastore)
	}
	if err := of.CheckCopy(ctx, to); err != nil {
		return content{}, fmt.Errorf("%s: %w: %w", path, errDamaged, err)
	}
	return c, nil
}

const workPrefix = ".snapshot-"

// WorkDir makes a directory for the time of one job, on the file system of the
// datastore.
func (k *Keeper) WorkDir() (dir string, remove func(), err error) {
	parent := k.options.ServerDir
	if !exists(parent) {
		parent = os.TempDir()
	}
	dir, err = os.MkdirTemp(parent, workPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("make room to unpack the snapshot: %w", err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// ClearLeftovers removes the directories of jobs in the server's that were cut
// short. Nobody else uses it meanwhile.
func ClearLeftovers(serverDir string) {
	left, _ := filepath.Glob(filepath.Join(serverDir, workPrefix+"*"))
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
}
