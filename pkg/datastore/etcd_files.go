package datastore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// EtcdFiles is the data of this server's member of etcd in its directory, whether
// the member runs or not.
type EtcdFiles struct {
	paths   config.Paths
	node    string
	running *Etcd // nil: nobody uses the data
	log     *slog.Logger
}

// NewEtcdFiles is the data of a server's member, which runs in this process or, if
// running is nil, nowhere.
func NewEtcdFiles(paths config.Paths, node string, running *Etcd, log *slog.Logger) EtcdFiles {
	return EtcdFiles{paths, node, running, log.With("component", "datastore")}
}

var errNotRunning = errors.New("etcd does not run yet: try again when the server is ready")

// use hands over the running member's server, or that of a copy of the data: a
// member that was killed has writes in its log which are not in its database.
func (f EtcdFiles) use(ctx context.Context, do func(*etcdserver.EtcdServer) error) error {
	if f.running != nil {
		etcd := f.running.current.Load()
		if etcd == nil {
			return errNotRunning
		}
		return do(etcd.Server)
	}
	if !HasEtcd(f.paths.Etcd()) {
		return fmt.Errorf("there is no data of etcd in %s", f.paths.Etcd())
	}
	work, err := os.MkdirTemp(f.paths.DB(), ".etcd-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := f.copyData(work); err != nil {
		return err
	}
	return f.alone(ctx, work, do)
}

// copyData copies the data, which nobody uses, into an empty directory.
func (f EtcdFiles) copyData(to string) error {
	from := f.paths.Etcd()
	if err := checkBackend(filepath.Join(from, "member", "snap", "db")); err != nil {
		return unusable(from, err)
	}
	// A copy of a link would lead to what is to stay as it is.
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && path != from && !entry.IsDir() && !entry.Type().IsRegular() {
			err = fmt.Errorf("%s is neither a file nor a directory", path)
		}
		return err
	})
	if err == nil {
		err = os.CopyFS(to, os.DirFS(from))
	}
	if err != nil {
		return fmt.Errorf("copy the data of etcd: %w", err)
	}
	return nil
}

// alone runs a member with the data in dir for as long as do takes, as the only
// one of its cluster, which listens nowhere.
func (f EtcdFiles) alone(ctx context.Context, dir string, do func(*etcdserver.EtcdServer) error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	name, err := os.ReadFile(filepath.Join(dir, "name"))
	if err != nil {
		return fmt.Errorf("the name of this server's member of etcd: %w", err)
	}
	member := &Etcd{log: f.log, logged: newEtcdLog(f.log)}
	if err := member.logged.recovered(func() error { return commitLog(member.logged.zap(), dir) }); err != nil {
		return unusable(f.paths.Etcd(), err)
	}
	settings := embed.NewConfig()
	settings.Name, settings.Dir = strings.TrimSpace(string(name)), dir
	settings.ZapLoggerBuilder = embed.NewZapLoggerBuilder(member.logged.zap())
	settings.ForceNewCluster = true
	settings.ListenPeerUrls, settings.ListenClientUrls, settings.AdvertiseClientUrls = nil, nil, nil
	settings.QuotaBackendBytes = -1 // as much as there is
	// What the cluster has accepted is accepted when its log is replayed: else of the
	// members that joined at the same time only one would be known.
	settings.MaxLearners = math.MaxInt
	if member.etcd, err = member.startEtcd(ctx, settings); err != nil {
		return err
	}
	defer member.close()
	select {
	case <-member.etcd.Server.ReadyNotify():
		return do(member.etcd.Server)
	case err := <-member.logged.fatal:
		return unusable(f.paths.Etcd(), err)
	case err := <-member.etcd.Err():
		return err
	case <-ctx.Done():
		return fmt.Errorf("start etcd with a copy of %s: %w", f.paths.Etcd(), ctx.Err())
	}
}

// commitLog makes all of a stopped member's log committed, as it is with a member
// that is elected. etcd takes it for the only one next, and would drop what it does
// not know to be committed: that is the last writes before a kill, which clients may
// have been told of.
func commitLog(log *zap.Logger, dir string) error {
	logDir := filepath.Join(dir, "member", "wal")
	known, err := wal.ValidSnapshotEntries(log, logDir)
	if err != nil {
		return err
	}
	last, err := snap.New(log, filepath.Join(dir, "member", "snap")).LoadNewestAvailable(known)
	if err != nil && !errors.Is(err, snap.ErrNoSnapshot) {
		return err
	}
	var from walpb.Snapshot
	if last != nil {
		from.Index, from.Term = last.Metadata.Index, last.Metadata.Term
	}
	err = commitFrom(log, logDir, from)
	if errors.Is(err, io.ErrUnexpectedEOF) && wal.Repair(log, logDir) { // the last write was cut short
		err = commitFrom(log, logDir, from)
	}
	return err
}

func commitFrom(log *zap.Logger, dir string, from walpb.Snapshot) error {
	w, err := wal.Open(log, dir, from)
	if err != nil {
		return err
	}
	_, state, entries, err := w.ReadAll()
	if n := len(entries); err == nil && n > 0 && entries[n-1].Index > state.Commit {
		state.Commit = entries[n-1].Index
		err = w.Save(state, nil)
	}
	return errors.Join(err, w.Close())
}

// Names of what is beside the data while it is replaced.
func (f EtcdFiles) resetting() string { return f.paths.Etcd() + ".resetting" }
func (f EtcdFiles) reset() string     { return f.paths.Etcd() + ".reset" }
func (f EtcdFiles) restoring() string { return f.paths.Etcd() + ".restoring" }

// InterruptedReset says whether a reset was cut short when the new data was to
// take the place of the old.
func (f EtcdFiles) InterruptedReset() bool { return exists(f.reset()) }

// Reset makes the member, which nobody runs, the only one of its cluster, with all
// that it knows. The data from before is kept in the directory aside. Cut short,
// it can be done again.
func (f EtcdFiles) Reset(ctx context.Context) (aside string, err error) {
	dir := f.paths.Etcd()
	if !f.InterruptedReset() {
		if err := f.stageReset(ctx); err != nil {
			return "", errors.Join(err, os.RemoveAll(f.resetting()))
		}
	}
	if exists(dir) {
		aside = dir + "-before-reset-" + time.Now().UTC().Format("20060102T150405Z")
		if err := os.Rename(dir, aside); err != nil {
			return "", err
		}
	}
	if err := os.Rename(f.reset(), dir); err != nil {
		return "", err
	}
	return aside, syncDir(f.paths.DB())
}

// stageReset makes the data that is to be the member's.
func (f EtcdFiles) stageReset(ctx context.Context) error {
	staged := f.resetting()
	if err := os.RemoveAll(staged); err != nil {
		return err
	}
	if err := os.Mkdir(staged, 0o700); err != nil {
		return err
	}
	if err := f.copyData(staged); err != nil {
		return err
	}
	var revision int64
	err := f.alone(ctx, staged, func(server *etcdserver.EtcdServer) error {
		// As after a migration, servers that join get the database, and not the log.
		server.ForceSnapshot()
		r, err := server.Put(ctx, &etcdserverpb.PutRequest{Key: []byte(raisedKey), Value: []byte("reset")})
		if err == nil {
			revision = r.Header.Revision
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("make this server the only member of etcd: %w", err)
	}
	// The members that are gone may have told clients of later writes.
	if err := raiseRevision(staged, revision+leap); err != nil {
		return err
	}
	if err := syncTree(staged); err != nil {
		return err
	}
	if err := os.Rename(staged, f.reset()); err != nil {
		return err
	}
	return syncDir(f.paths.DB())
}

// syncTree has all files below a directory on the disk.
func syncTree(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file, err := root.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(file.Sync(), file.Close())
	})
}

// recovered runs f, and returns what etcd or its database would end the process
// for.
func (l *etcdLog) recovered(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// What is missing from a file that was cut short faults where it is mapped.
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if reason := recover(); reason != nil {
				done <- fmt.Errorf("%v", reason)
			}
		}()
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case err := <-l.fatal:
		return err
	}
}
