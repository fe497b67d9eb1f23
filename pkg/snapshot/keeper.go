package snapshot

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kedge-k8s/kedge/pkg/token"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// Options make a Keeper.
type Options struct {
	Dir       string // of the snapshots
	ServerDir string // of what a server keeps beside its datastore
	Node      string // name of this server's node, part of the names of its snapshots
	Datastore Datastore
	// Others are those that the server could have instead: a restore of a snapshot
	// of one makes it the server's.
	Others []Datastore
	Log    *slog.Logger
}

// Keeper takes snapshots of a server into a directory, and looks after them.
type Keeper struct {
	options Options
	rounds  int        // of the derivation of keys
	mu      sync.Mutex // one snapshot at a time
}

// NewKeeper makes a Keeper.
func NewKeeper(o Options) *Keeper { return &Keeper{options: o, rounds: iterations} }

// Dir is the directory of the snapshots.
func (k *Keeper) Dir() string { return k.options.Dir }

// Request asks for a snapshot.
type Request struct {
	Prefix   string // of its name
	Compress bool
	// SkipUnchanged wants no snapshot if nothing has changed since the last one,
	// neither in the datastore nor in the files beside it.
	SkipUnchanged bool
}

// ErrUnchanged says that there is a snapshot already that holds the same.
var ErrUnchanged = errors.New("nothing has changed since the last snapshot")

var validPrefix = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,61}[a-z0-9])?$`)

// CheckPrefix refuses what a snapshot's name can't begin with.
func CheckPrefix(prefix string) error {
	if !validPrefix.MatchString(prefix) {
		return fmt.Errorf("%q is no name for snapshots; give up to 63 lower-case letters, digits, - or dots, with a letter or digit at either end", prefix)
	}
	return nil
}

// Save takes a snapshot.
func (k *Keeper) Save(ctx context.Context, r Request) (File, error) {
	o := k.options
	if err := CheckPrefix(r.Prefix); err != nil {
		return File{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	created := time.Now().UTC().Truncate(time.Second) // what changes from now on may not be in it
	state, err := o.Datastore.State(ctx)
	if err != nil {
		return File{}, fmt.Errorf("read the datastore: %w", err)
	}
	if r.SkipUnchanged {
		last, err := k.latest(ctx)
		if err != nil {
			return File{}, err
		}
		written, err := keptSince(o.ServerDir, last.Created)
		if err != nil {
			return File{}, fmt.Errorf("look for changes: %w", err)
		}
		if last.State == state && last.Datastore == o.Datastore.Kind() && !written {
			return last, ErrUnchanged
		}
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return File{}, fmt.Errorf("make the directory of snapshots: %w", err)
	}
	k.clearLeftovers()
	work, err := os.MkdirTemp(o.Dir, ".work-")
	if err != nil {
		return File{}, fmt.Errorf("take a snapshot: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	copied := filepath.Join(work, "datastore")
	if err := o.Datastore.Backup(ctx, copied); err != nil {
		return File{}, fmt.Errorf("copy the datastore into %s: %w", o.Dir, err)
	}
	secrets, caHash, err := k.secrets(ctx, copied)
	if err != nil {
		return File{}, err
	}
	info := Info{
		Format: format, Prefix: r.Prefix, Node: o.Node, Version: version.Version, CAHash: caHash,
		Created: created, Datastore: o.Datastore.Kind(), State: state,
	}
	info.Name = k.freeName(&info.Created, r.Prefix)
	path := filepath.Join(o.Dir, info.Name+extension(r.Compress))
	if err := writeFile(ctx, filepath.Join(work, "snapshot"), path, r.Compress, info, copied, secrets); err != nil {
		return File{}, fmt.Errorf("write snapshot %s: %w", path, err)
	}
	return describe(info, path)
}

// secrets returns what a bare machine needs beside the datastore, encrypted.
func (k *Keeper) secrets(ctx context.Context, datastore string) (text []byte, caHash string, err error) {
	o := k.options
	ca, err := os.ReadFile(filepath.Join(o.ServerDir, "tls", "server-ca.crt"))
	if err != nil {
		return nil, "", fmt.Errorf("take a snapshot: the cluster's authority: %w", err)
	}
	own, _, err := token.ReadFile(filepath.Join(o.ServerDir, "token"))
	if err != nil {
		return nil, "", fmt.Errorf("take a snapshot: the server's token: %w", err)
	}
	files, tooMuch, err := collect(o.ServerDir)
	if err != nil {
		return nil, "", fmt.Errorf("take a snapshot: %w", err)
	}
	if len(tooMuch) > 0 {
		o.Log.Warn("a snapshot holds no more than 64 MB of manifests and static files: keep a copy of the others yourself", "left out", tooMuch)
	}
	plain, err := encode(files)
	if err != nil {
		return nil, "", err
	}
	sum, err := sumFile(ctx, datastore)
	if err != nil {
		return nil, "", err
	}
	text, err = seal(plain, own.Secret(), sum, k.rounds)
	return text, token.HashCA(ca), err
}

func sumFile(ctx context.Context, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	_, err = io.Copy(hash, &reader{ctx, file})
	return hex.EncodeToString(hash.Sum(nil)), err
}

// freeName names a snapshot by its time, which moves on while others have it.
func (k *Keeper) freeName(created *time.Time, prefix string) string {
	for {
		name := prefix + "-" + k.options.Node + "-" + strconv.FormatInt(created.Unix(), 10)
		if k.find(name) == "" {
			return name
		}
		*created = created.Add(time.Second)
	}
}

// find returns the file of a snapshot by its name; empty if there is none.
func (k *Keeper) find(name string) string {
	for _, compress := range []bool{true, false} {
		path := filepath.Join(k.options.Dir, name+extension(compress))
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// clearLeftovers removes what was begun when the power went.
func (k *Keeper) clearLeftovers() {
	left, _ := filepath.Glob(filepath.Join(k.options.Dir, ".work-*"))
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
}

// writeFile writes a snapshot under another name first: what has the name of a
// snapshot is whole, and on the disk.
func writeFile(ctx context.Context, temporary, path string, compress bool, info Info, datastore string, secrets []byte) error {
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = writeArchive(ctx, file, compress, info, datastore, secrets)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func describe(info Info, path string) (File, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	return File{Info: info, Location: "file://" + path, Size: stat.Size()}, nil
}

// List returns the snapshots, the newest first. A damaged file is among them,
// as far as it can be read.
func (k *Keeper) List(ctx context.Context) ([]File, error) {
	entries, err := os.ReadDir(k.options.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the snapshots: %w", err)
	}
	var files []File
	for _, entry := range entries {
		name := NameOf(entry.Name())
		if name == "" || !entry.Type().IsRegular() {
			continue
		}
		path := filepath.Join(k.options.Dir, entry.Name())
		info, err := readInfo(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		info.Name = name // as people find it
		file, statErr := describe(info, path)
		if statErr != nil {
			continue
		}
		if err != nil {
			file.Damage = err.Error()
		}
		files = append(files, file)
	}
	Sort(files)
	return files, ctx.Err()
}

// Sort puts the newest first.
func Sort(files []File) {
	slices.SortStableFunc(files, func(a, b File) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.Name, b.Name))
	})
}

// latest is the last snapshot of this server's; the zero File if there is none.
func (k *Keeper) latest(ctx context.Context) (File, error) {
	files, err := k.List(ctx)
	i := slices.IndexFunc(files, func(f File) bool { return f.Node == k.options.Node && f.Damage == "" })
	if err != nil || i < 0 {
		return File{}, err
	}
	return files[i], nil
}

// Path returns the file of a snapshot, given by its name or as a path.
func (k *Keeper) Path(name string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return filepath.Abs(name)
	}
	if path := k.find(cmp.Or(NameOf(name), name)); path != "" {
		return path, nil
	}
	if _, err := os.Stat(name); err == nil && NameOf(name) != "" {
		return filepath.Abs(name)
	}
	return "", fmt.Errorf("there is no snapshot %s in %s; kedge snapshot list shows those that there are", name, k.options.Dir)
}

// Delete removes snapshots by their names, all or none if one does not exist.
func (k *Keeper) Delete(names ...string) error {
	paths := make([]string, len(names))
	for i, name := range names {
		if paths[i] = k.find(cmp.Or(NameOf(name), name)); paths[i] == "" || name != filepath.Base(name) {
			return fmt.Errorf("there is no snapshot %s in %s; kedge snapshot list shows those that there are", name, k.options.Dir)
		}
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("delete a snapshot: %w", err)
		}
	}
	return nil
}

// Prune removes the oldest of this server's snapshots of a prefix but for some,
// and returns the names of those that went.
func (k *Keeper) Prune(ctx context.Context, prefix string, keep int) ([]string, error) {
	files, err := k.List(ctx)
	if err != nil {
		return nil, err
	}
	gone := Surplus(files, prefix, k.options.Node, keep)
	return gone, k.Delete(gone...)
}

// Surplus names the oldest snapshots of a prefix and node but for some; 0 keeps
// all. The files are the newest first.
func Surplus(files []File, prefix, node string, keep int) []string {
	if keep < 1 {
		return nil
	}
	var names []string
	for _, f := range files {
		if f.Prefix != prefix || f.Node != node || f.Damage != "" {
			continue
		}
		if keep--; keep < 0 {
			names = append(names, f.Name)
		}
	}
	return names
}
