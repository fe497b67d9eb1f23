package preload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// settle is for how long a file has to stay as it is to count as complete.
const settle = 2 * time.Second

// store is where images go.
type store interface {
	importArchive(ctx context.Context, archive io.Reader) (names []string, err error)
	pull(ctx context.Context, name string) error
	// pinAll pins images, unless one of them is not there.
	pinAll(ctx context.Context, names []string) (all bool, err error)
	unpin(ctx context.Context, name string) error
}

// directory imports the archives that are in a directory, and pulls the images of
// its lists.
type directory struct {
	path      string
	stateFile string
	store     store
	settle    time.Duration
	retry     [2]time.Duration
	log       *slog.Logger

	imported map[string]record // by the file's name; kept in stateFile
	failed   map[string]version
	lists    map[string]list
	pulls    sync.WaitGroup
	stopPull context.CancelFunc
}

// version tells a file from what it was before.
type version struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

func versionOf(info fs.FileInfo) version { return version{info.Size(), info.ModTime().UTC()} }

// record is an archive that was imported, or a list that was read.
type record struct {
	version
	Digest string   `json:"digest,omitempty"` // of an archive
	Images []string `json:"images"`
}

// list is a list of references.
type list struct {
	version
	names []string
}

// run imports what is in the directory, and what comes, until ctx ends.
func (d *directory) run(ctx context.Context) error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer func() { _ = watcher.Close() }()
	if err := watcher.Add(d.path); err != nil {
		return err
	}
	if err := d.load(); err != nil {
		d.log.Warn("what was imported before is not known: all archives are imported again", "err", err)
	}
	defer d.pulls.Wait()
	defer func() {
		if d.stopPull != nil {
			d.stopPull()
		}
	}()

	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-watcher.Events:
			if !ok {
				return errors.New("it is no longer watched")
			}
			next.Reset(d.settle)
		case err := <-watcher.Errors: // events may be missing
			d.log.Debug("watching the directory of images", "err", err)
			next.Reset(d.settle)
		case <-next.C:
			unsettled, err := d.scan(ctx)
			if err != nil && ctx.Err() == nil {
				d.log.Warn("the directory of images can't be read", "path", d.path, "err", err)
			}
			if unsettled {
				next.Reset(d.settle)
			}
		}
	}
}

// scan brings containerd to what is in the directory. Unsettled says that there
// are files which somebody may still be writing.
func (d *directory) scan(ctx context.Context) (unsettled bool, err error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return false, err
	}
	seen := map[string]bool{}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || !isArchive(name) && !strings.HasSuffix(name, listSuffix) {
			continue
		}
		info, err := os.Stat(filepath.Join(d.path, name)) // a link's target
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		seen[name] = true
		if d.known(ctx, name, versionOf(info)) {
			continue
		}
		if age := time.Since(info.ModTime()); age >= 0 && age < d.settle {
			unsettled = true
			continue
		}
		if isArchive(name) {
			d.importFile(ctx, name, versionOf(info))
		} else {
			d.readList(ctx, name, versionOf(info))
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	d.forget(ctx, seen)
	d.pullLists(ctx)
	return unsettled, nil
}

// known says that there is nothing to do for a file.
func (d *directory) known(ctx context.Context, name string, v version) bool {
	if d.failed[name] == v {
		return true
	}
	if !isArchive(name) {
		l, ok := d.lists[name]
		return ok && l.version == v
	}
	r, ok := d.imported[name]
	if !ok || r.version != v {
		return false
	}
	all, err := d.store.pinAll(ctx, r.Images)
	return err == nil && all
}

// importFile imports an archive, unless it only looks new.
func (d *directory) importFile(ctx context.Context, name string, v version) {
	path := filepath.Join(d.path, name)
	began := time.Now()
	digest, err := digestOf(ctx, path)
	if err == nil && d.imported[name].Digest == digest {
		if all, err := d.store.pinAll(ctx, d.imported[name].Images); err == nil && all {
			d.keep(name, record{v, digest, d.imported[name].Images})
			return
		}
	}
	var images []string
	if err == nil {
		images, err = d.importArchive(ctx, path)
	}
	if ctx.Err() != nil {
		return
	}
	if info, statErr := os.Stat(path); statErr != nil || versionOf(info) != v {
		return // it has changed meanwhile, and is looked at again
	}
	if err != nil {
		d.failed[name] = v
		d.log.Warn("an archive is skipped until it changes", "path", path, "images", len(images), "err", err)
		return
	}
	d.log.Info("imported", "path", path, "images", strings.Join(images, " "), "took", time.Since(began).Round(time.Millisecond))
	previous := d.imported[name].Images
	d.keep(name, record{v, digest, images})
	d.unpin(ctx, previous)
}

func (d *directory) importArchive(ctx context.Context, path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := decompress(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = content.Close() }()
	return d.store.importArchive(ctx, content)
}

func (d *directory) readList(ctx context.Context, name string, v version) {
	path := filepath.Join(d.path, name)
	file, err := os.Open(path)
	if err != nil {
		return // removed just now
	}
	defer func() { _ = file.Close() }()
	names, err := readList(file)
	if err != nil {
		d.failed[name] = v
		d.log.Warn("a list of images is skipped until it changes", "path", path, "err", err)
		return
	}
	d.lists[name] = list{v, names}
	d.restartPulls()
	previous := d.imported[name].Images
	d.keep(name, record{version: v, Images: names})
	d.unpin(ctx, previous)
}

// forget lets go of the images of files that are no longer there.
func (d *directory) forget(ctx context.Context, seen map[string]bool) {
	maps.DeleteFunc(d.failed, func(name string, _ version) bool { return !seen[name] })
	var images []string
	for name, r := range d.imported {
		if !seen[name] {
			images = append(images, r.Images...)
			delete(d.imported, name)
		}
	}
	lists := len(d.lists)
	maps.DeleteFunc(d.lists, func(name string, _ list) bool { return !seen[name] })
	if len(d.lists) != lists {
		d.restartPulls()
	}
	if len(images) > 0 {
		d.save()
		d.unpin(ctx, images)
	}
}

// unpin leaves images to garbage collection that no file names any more.
func (d *directory) unpin(ctx context.Context, images []string) {
	var wanted []string
	for _, r := range d.imported {
		wanted = append(wanted, r.Images...)
	}
	for _, image := range images {
		if slices.Contains(wanted, image) {
			continue
		}
		if err := d.store.unpin(ctx, image); err != nil {
			d.log.Warn("an image is kept although its file is gone", "image", image, "err", err)
		}
	}
}

// restartPulls ends the pulling of the lists' images; pullLists begins anew.
func (d *directory) restartPulls() {
	if d.stopPull != nil {
		d.stopPull()
		d.pulls.Wait()
		d.stopPull = nil
	}
}

// pullLists pulls the images of all lists in the background, so that a registry
// that doesn't answer keeps no archive waiting.
func (d *directory) pullLists(ctx context.Context) {
	if d.stopPull != nil || len(d.lists) == 0 {
		return
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(d.lists)) {
		names = append(names, d.lists[name].names...)
	}
	ctx, d.stopPull = context.WithCancel(ctx)
	d.pulls.Go(func() { d.pullAll(ctx, names) })
}

func (d *directory) load() error {
	d.imported, d.failed, d.lists = map[string]record{}, map[string]version{}, map[string]list{}
	content, err := os.ReadFile(d.stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, &d.imported); err != nil {
		d.imported = map[string]record{}
		return err
	}
	return nil
}

func (d *directory) keep(name string, r record) {
	delete(d.failed, name)
	d.imported[name] = r
	d.save()
}

func (d *directory) save() {
	content, err := json.Marshal(d.imported)
	if err == nil {
		_, err = atomicfile.Update(d.stateFile, content, 0o600)
	}
	if err != nil {
		d.log.Warn("what was imported can't be kept: archives are imported again at the next start", "err", err)
	}
}

func digestOf(ctx context.Context, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, reader{ctx, file}); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
