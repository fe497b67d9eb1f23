package localpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Directories makes and removes the directories of volumes on a node.
type Directories interface {
	// Make returns the path of the volume's directory, made if it is not there
	// yet, in root; if that is empty, the node chooses one of its own.
	Make(ctx context.Context, v Volume, root string) (path string, err error)
	// Remove takes the directory out of its root. What is in it may take longer
	// to go. A directory that is not there is removed.
	Remove(ctx context.Context, root, dir string) error
}

// NodeOptions make a Node.
type NodeOptions struct {
	Name string // of the node
	// Config is asked at each request: what it says may change.
	Config func(context.Context) (Config, error)
	Log    *slog.Logger
}

// Node is the Directories of this machine.
//
// In each of its roots it keeps a directory of its own, [attic]. A directory
// that is removed is moved there, which takes no time and is whole or not at
// all, and then emptied, one after the other, in the background; a removal that
// is cut off goes on when Run is called again. The attic also tells a directory
// that has been a root from any other.
type Node struct {
	options NodeOptions

	mu      sync.Mutex // held while a root changes
	full    map[string]bool
	changed chan struct{} // holds a token after full was added to
}

// attic is where a root keeps what is being removed.
const attic = ".kedge-removed"

// NewNode makes a Node. Run does its part of removals.
func NewNode(o NodeOptions) *Node {
	return &Node{options: o, full: map[string]bool{}, changed: make(chan struct{}, 1)}
}

func (n *Node) roots(ctx context.Context) (Config, []string, error) {
	config, err := n.options.Config(ctx)
	if err != nil {
		return config, nil, fmt.Errorf("node %s reads where its volumes are: %w", n.options.Name, err)
	}
	return config, config.Roots(n.options.Name), nil
}

// Make implements Directories.
func (n *Node) Make(ctx context.Context, v Volume, root string) (string, error) {
	dir := v.Dir()
	if err := checkDir(dir); err != nil {
		return "", err
	}
	config, roots, err := n.roots(ctx)
	if err != nil {
		return "", err
	}
	switch {
	case len(roots) == 0:
		return "", fmt.Errorf("ConfigMap kube-system/%s has no path for volumes on node %s: %w", ConfigMapName, n.options.Name, ErrNotHere)
	case root != "" && !slices.Contains(roots, root):
		return "", fmt.Errorf("%s is not among the paths of node %s in ConfigMap kube-system/%s (%s): %w",
			root, n.options.Name, ConfigMapName, strings.Join(roots, ", "), ErrNotHere)
	case root != "":
		roots = []string{root}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	root = choose(roots, dir)
	if err := makeIn(root, dir, config.mode); err != nil {
		err = fmt.Errorf("make a directory on node %s: %w", n.options.Name, err)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS) {
			err = fmt.Errorf("%w: %w", err, ErrNotHere)
		}
		return "", err
	}
	return filepath.Join(root, dir), nil
}

// choose returns the root in which a directory is already, or else the one with
// the most free space.
func choose(roots []string, dir string) string {
	best, most := roots[0], uint64(0)
	for _, root := range roots {
		if _, err := os.Lstat(filepath.Join(root, dir)); err == nil { //nolint:gosec // checkDir has seen the name
			return root
		}
		var stat unix.Statfs_t
		if err := unix.Statfs(root, &stat); err != nil {
			continue // not there yet
		}
		if free := stat.Bavail * uint64(stat.Bsize); free > most { //nolint:gosec // no file system has negative blocks
			best, most = root, free
		}
	}
	return best
}

// makeIn makes a directory, in a root that is made too if need be.
func makeIn(path, dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as /var/lib
		return err
	}
	// The directories in it are anybody's; it keeps the host's users out.
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // a root of the configuration
		return err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := mkdir(root, attic, 0o700); err != nil {
		return err
	}
	if err := mkdir(root, dir, mode); err != nil {
		return err
	}
	return syncDir(root, ".")
}

// mkdir makes a directory of exactly this mode. One that is there is left as it
// is: its owner may have changed it.
func mkdir(root *os.Root, name string, mode fs.FileMode) error {
	err := root.Mkdir(name, mode)
	if errors.Is(err, fs.ErrExist) {
		info, err := root.Lstat(name)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is in the way: it is not a directory", filepath.Join(root.Name(), name))
		}
		return err
	}
	if err != nil {
		return err
	}
	return root.Chmod(name, mode) // whatever the umask is
}

// syncDir puts the entries of a directory on the disk.
func syncDir(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Sync()
}

// Remove implements Directories.
func (n *Node) Remove(ctx context.Context, root, dir string) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	if err := checkRoot(root); err != nil {
		return fmt.Errorf("path %q: %w", root, err)
	}
	_, roots, err := n.roots(ctx)
	if err != nil {
		return err
	}
	root = filepath.Clean(root)
	if !slices.Contains(roots, root) && !hasAttic(root) {
		return fmt.Errorf("%s on node %s is not a path for volumes in ConfigMap kube-system/%s and never was: %s is not removed",
			root, n.options.Name, ConfigMapName, dir)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	err = moveAside(root, dir)
	if errors.Is(err, fs.ErrNotExist) {
		// Asked again, after a lost answer, or because the volume is not gone yet.
		n.options.Log.Debug("the directory of a volume was removed before", "path", filepath.Join(root, dir))
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove a directory on node %s: %w", n.options.Name, err)
	}
	n.options.Log.Info("removed the directory of a volume", "path", filepath.Join(root, dir))
	n.empty(root)
	return nil
}

// hasAttic tells whether a directory is or was a root.
func hasAttic(root string) bool {
	info, err := os.Lstat(filepath.Join(root, attic)) //nolint:gosec // only looks
	return err == nil && info.IsDir()
}

// moveAside moves a directory to its root's attic, for good.
func moveAside(path, dir string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	info, err := root.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", filepath.Join(path, dir))
	}
	if err := mkdir(root, attic, 0o700); err != nil {
		return err
	}
	if err := root.Rename(dir, filepath.Join(attic, atticName(dir))); err != nil {
		return err
	}
	return errors.Join(syncDir(root, attic), syncDir(root, "."))
}

// empty has Run empty the attic of a root. The caller holds mu.
func (n *Node) empty(root string) {
	n.full[root] = true
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// next returns a root whose attic is to be emptied.
func (n *Node) next() (root string, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for root := range n.full {
		delete(n.full, root)
		return root, true
	}
	return "", false
}

// The configuration is read at the start to find what an earlier run left; until
// the cluster answers, at this pace.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Run empties the directories that were removed, also by an earlier run, until
// ctx ends.
func (n *Node) Run(ctx context.Context) error {
	var found sync.WaitGroup
	defer found.Wait()
	found.Go(func() { n.find(ctx) })
	for {
		for root, ok := n.next(); ok && ctx.Err() == nil; root, ok = n.next() {
			began := time.Now()
			removed, err := emptyAttic(ctx, root)
			switch {
			case ctx.Err() != nil:
			case err != nil:
				n.options.Log.Warn("a removed volume's directory can't be emptied; it is tried again with the next removal, or after a restart",
					"path", filepath.Join(root, attic), "err", err)
			case removed > 0:
				n.options.Log.Info("removed volumes are off the disk", "path", root, "files", removed, "took", time.Since(began).Round(time.Millisecond))
			}
		}
		select {
		case <-n.changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// find looks for attics that are not empty. Without a configuration there are none.
func (n *Node) find(ctx context.Context) {
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		_, roots, err := n.roots(ctx)
		if err == nil || apierrors.IsNotFound(err) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, root := range roots {
				n.empty(root)
			}
			return
		}
		n.options.Log.Debug("the paths of volumes can't be read; it is tried again", "in", delay, "err", err)
		wait := time.NewTimer(delay)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}
