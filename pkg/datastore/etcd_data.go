package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/join"
)

// HasEtcd says whether dir holds a member's data. What can't be looked at is not
// taken for nothing: etcd would begin a new cluster in its place.
func HasEtcd(dir string) bool {
	entries, err := os.ReadDir(filepath.Join(dir, "member", "wal"))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return filepath.Ext(e.Name()) == ".wal" })
}

// UsesEtcd says whether a server's state is in embedded etcd, even if its data is
// lost.
func UsesEtcd(p config.Paths) bool { return HasEtcd(p.Etcd()) || exists(p.EtcdCluster()) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkLoss refuses to begin a cluster in the place of data that is lost: other
// servers, which have it, would leave their cluster for the empty one.
func (e *Etcd) checkLoss() error {
	c := e.config
	if c.Peers != nil || HasEtcd(c.Dir) || !exists(c.Cluster) {
		return nil
	}
	return fmt.Errorf("this server is a member of etcd, and its data is gone from %s: put it back (is a volume not mounted?), or name another server with --server to join again; to begin a new cluster, move %s and %s away", c.Dir, c.Dir, c.Cluster)
}

// cluster is the ID of the cluster that this server is a member of, or was when
// its data was lost; empty: it has never been one.
func (e *Etcd) cluster() (string, error) {
	content, err := os.ReadFile(e.config.Cluster)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(content)), err
}

// keepCluster remembers the cluster, beyond the loss of the member's data.
func (e *Etcd) keepCluster() error {
	_, err := atomicfile.Update(e.config.Cluster, []byte(e.etcd.Server.Cluster().ID().String()+"\n"), 0o600)
	return err
}

// makeRoom makes room for a new member's data. What is left of lost data is kept
// aside; what an interrupted start has left is of no use.
func (e *Etcd) makeRoom() error {
	dir, aside := e.config.Dir, e.config.Dir+"-lost"
	if exists(e.config.Cluster) && exists(filepath.Join(dir, "member")) && !exists(aside) {
		e.log.Warn("the data of this server's member of etcd is lost; it joins anew, and what is left is kept aside", "data", aside)
		if err := os.Rename(dir, aside); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

// checkBackend opens a member's database as etcd does, and returns what etcd would
// end the process for: it opens it where nobody recovers.
func checkBackend(path string) (err error) {
	if !exists(path) {
		return nil
	}
	// What is missing from a file that was cut short faults where it is mapped.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("%s is damaged: %v", path, reason)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = db.Close() }()
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return db.View(func(tx *bbolt.Tx) error {
		if info.Size() < tx.Size() {
			return fmt.Errorf("%s is damaged: it has %d bytes of %d", path, info.Size(), tx.Size())
		}
		return nil
	})
}

// leaveIfRemoved moves the data of a member aside that the others have removed,
// so that it joins anew. Servers that don't answer settle nothing.
func (e *Etcd) leaveIfRemoved(ctx context.Context) error {
	c := e.config
	if c.Peers == nil {
		return nil
	}
	known, err := os.ReadFile(e.nameFile())
	if err != nil {
		return nil //nolint:nilerr // prepare says it
	}
	own, err := e.cluster()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	theirs, err := c.Peers.Members(ctx)
	if err != nil || len(theirs.List) == 0 {
		return nil //nolint:nilerr // it goes on with what it has
	}
	if own != "" && own != theirs.Cluster {
		return fmt.Errorf("the server that --server names is of another cluster of etcd, %s, than this server's data, %s: name one of its own cluster, or move %s away to join the other", theirs.Cluster, own, c.Dir)
	}
	name := strings.TrimSpace(string(known))
	if slices.ContainsFunc(theirs.List, func(m join.Member) bool {
		return m.Name == name || slices.Contains(m.Peers, e.peer())
	}) {
		return nil
	}
	aside := c.Dir + "-removed-" + time.Now().UTC().Format("20060102T150405Z")
	e.log.Warn("this server was removed from the cluster's members; it joins anew, and its old data is kept aside", "member", name, "data", aside)
	return os.Rename(c.Dir, aside)
}
