package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// pendingPrefix begins the names of files that stand for snapshots which are yet
// to be copied elsewhere.
const pendingPrefix = ".pending-"

func (k *Keeper) pendingFile(name string) string {
	return filepath.Join(k.options.Dir, pendingPrefix+name)
}

// SetPending remembers that a snapshot is yet to be copied, through restarts.
func (k *Keeper) SetPending(name string) error {
	return atomicfile.Write(k.pendingFile(name), nil, 0o600)
}

// Copied forgets that a snapshot was yet to be copied.
func (k *Keeper) Copied(name string) error {
	if err := os.Remove(k.pendingFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Pending returns the snapshots that are yet to be copied, and forgets those
// that are gone.
func (k *Keeper) Pending(ctx context.Context) ([]File, error) {
	marks, err := filepath.Glob(filepath.Join(k.options.Dir, pendingPrefix+"*"))
	if err != nil || len(marks) == 0 {
		return nil, err
	}
	files, err := k.List(ctx)
	if err != nil {
		return nil, err
	}
	wanted := make(map[string]bool, len(marks))
	for _, mark := range marks {
		wanted[filepath.Base(mark)] = true
	}
	var pending []File
	for _, f := range files {
		if mark := pendingPrefix + f.Name; wanted[mark] {
			pending = append(pending, f)
			delete(wanted, mark)
		}
	}
	for mark := range wanted {
		if err := os.Remove(filepath.Join(k.options.Dir, mark)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return pending, err
		}
	}
	return pending, nil
}

// Has says whether there is a snapshot of a name.
func (k *Keeper) Has(name string) bool { return k.find(name) != "" }
