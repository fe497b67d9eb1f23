package datastore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// Kind tells etcd's copies from those of other datastores.
func (EtcdFiles) Kind() string { return "etcd" }

// State tells whether any object but the volatile ones has changed, as far as
// this member knows.
func (f EtcdFiles) State(ctx context.Context) (state string, err error) {
	err = f.use(ctx, func(server *etcdserver.EtcdServer) error {
		state, err = etcdState(ctx, server)
		return err
	})
	return state, err
}

// statePage is how many keys are read at a time.
const statePage = 1000

func etcdState(ctx context.Context, server *etcdserver.EtcdServer) (string, error) {
	var count, last int64
	told := newNodes()
	// A member that has lost the others knows enough.
	page := &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Limit: statePage, KeysOnly: true, Serializable: true}
	for {
		r, err := server.Range(ctx, page)
		if err != nil {
			return "", err
		}
		page.Revision = r.Header.Revision // of the first page
		for _, kv := range r.Kvs {
			key := string(kv.Key)
			switch {
			case slices.ContainsFunc(volatile, func(prefix string) bool { return strings.HasPrefix(key, prefix) }):
			case strings.HasPrefix(key, nodesPrefix):
				node, err := server.Range(ctx, &etcdserverpb.RangeRequest{Key: kv.Key, Revision: page.Revision, Serializable: true})
				if err != nil {
					return "", err
				}
				for _, kv := range node.Kvs {
					told.add(key, kv.ModRevision, kv.Value)
				}
			default:
				count++
				last = max(last, kv.ModRevision)
			}
		}
		if !r.More || len(r.Kvs) == 0 {
			return told.state(count, last), nil
		}
		page.Key = append(slices.Clone(r.Kvs[len(r.Kvs)-1].Key), 0)
	}
}

// Backup writes a consistent copy to a new file, in the form that etcdctl snapshot
// save writes and etcdutl reads.
func (f EtcdFiles) Backup(ctx context.Context, file string) error {
	return f.use(ctx, func(server *etcdserver.EtcdServer) error {
		out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		database := server.Backend().Snapshot()
		hash := sha256.New()
		_, err = database.WriteTo(io.MultiWriter(&untilDone{ctx, out}, hash))
		if err == nil {
			_, err = out.Write(hash.Sum(nil))
		}
		return errors.Join(err, database.Close(), out.Close())
	})
}

// untilDone writes until its context ends.
type untilDone struct {
	ctx context.Context // of one copy
	w   io.Writer
}

func (u *untilDone) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

// CheckCopy checks all of a copy.
func (f EtcdFiles) CheckCopy(_ context.Context, file string) error {
	// The check below reads in a goroutine of its own, where nobody recovers.
	if err := checkBackend(file); err != nil {
		return err
	}
	logged := newEtcdLog(f.log)
	return logged.recovered(func() error {
		status, err := snapshot.NewV3(logged.zap()).Status(file)
		if err == nil && status.TotalKey == 0 {
			err = errNoRows(0)
		}
		return err
	})
}

// restoredPeer is where a restored member is reached until it starts and says it.
var restoredPeer = fmt.Sprintf("https://127.0.0.1:%d", EtcdPeerPort)

// clusterFile keeps the ID of a restored cluster until its data is in its place.
const clusterFile = "cluster"

// Revision is the last one in the database's file: what is only in the log is
// passed over.
func (f EtcdFiles) Revision(context.Context) int64 {
	last, err := lastRevision(filepath.Join(f.paths.Etcd(), "member", "snap", "db"))
	if err != nil {
		return 0
	}
	return last
}

// lastRevision reads a database that nobody uses.
func lastRevision(path string) (last int64, err error) {
	if _, err := os.Stat(path); err != nil {
		return 0, err
	}
	if err := checkBackend(path); err != nil {
		return 0, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	err = db.View(func(tx *bbolt.Tx) error {
		if keys := tx.Bucket(schema.Key.Name()); keys != nil {
			if key, _ := keys.Cursor().Last(); key != nil {
				last = mvcc.BytesToRev(key).Main
			}
		}
		return nil
	})
	return last, err
}

// Prepare makes the data of a copy that of the only member of a new cluster,
// beside the data in use: what is left of the old cluster has nothing to do with
// it.
func (f EtcdFiles) Prepare(_ context.Context, file string, past int64) error {
	staged := f.restoring()
	if err := os.RemoveAll(staged); err != nil {
		return err
	}
	if err := os.MkdirAll(staged, 0o700); err != nil {
		return err
	}
	own, err := lastRevision(file)
	if err != nil {
		return err
	}
	name, logged := newName(f.node), newEtcdLog(f.log)
	c := snapshot.RestoreConfig{
		SnapshotPath:        file,
		OutputDataDir:       staged,
		Name:                name,
		PeerURLs:            []string{restoredPeer},
		InitialCluster:      name + "=" + restoredPeer,
		InitialClusterToken: rand.Text(), // no two clusters have the same ID
		RevisionBump:        uint64(max(past-own, 0) + leap),
		MarkCompacted:       true,
	}
	err = logged.recovered(func() error { return snapshot.NewV3(logged.zap()).Restore(c) })
	if err != nil {
		return fmt.Errorf("make the data of etcd: %w", err)
	}
	members, err := types.NewURLsMap(c.InitialCluster)
	if err != nil {
		return err
	}
	cluster, err := membership.NewClusterFromURLsMap(logged.zap(), c.InitialClusterToken, members)
	if err != nil {
		return err
	}
	for file, content := range map[string]string{"name": name, clusterFile: cluster.ID().String()} {
		if err := os.WriteFile(filepath.Join(staged, file), []byte(content+"\n"), 0o600); err != nil {
			return err
		}
	}
	return syncTree(staged)
}

// SetAside moves the data into the directory aside.
func (f EtcdFiles) SetAside(_ context.Context, aside string) error {
	for _, path := range []string{f.paths.Etcd(), f.reset(), f.paths.EtcdCluster()} {
		if err := moveAside(path, aside); err != nil {
			return err
		}
	}
	return nil
}

// Install puts the data that Prepare has made in its place.
func (f EtcdFiles) Install(context.Context, string) error {
	cluster, err := os.ReadFile(filepath.Join(f.restoring(), clusterFile))
	if err != nil {
		return err
	}
	if err := os.Rename(f.restoring(), f.paths.Etcd()); err != nil {
		return err
	}
	if err := syncDir(f.paths.DB()); err != nil {
		return err
	}
	return atomicfile.Write(f.paths.EtcdCluster(), cluster, 0o600)
}
