package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/snapshot"
	"github.com/kedge-k8s/kedge/pkg/token"
)

// NewKeeper looks after the snapshots of a server in a directory. etcd is the
// server's member of etcd, if that runs in this process.
func NewKeeper(c *config.Server, node, dir string, etcd *datastore.Etcd, log *slog.Logger) *snapshot.Keeper {
	var inUse, other snapshot.Datastore = datastore.NewSQLiteFile(c.Paths.DB()), datastore.NewEtcdFiles(c.Paths, node, etcd, log)
	if etcd != nil || datastore.UsesEtcd(c.Paths) {
		inUse, other = other, inUse
	}
	return snapshot.NewKeeper(snapshot.Options{
		Dir:       dir,
		ServerDir: c.Paths.Server(),
		Node:      node,
		Datastore: inUse,
		Others:    []snapshot.Datastore{other},
		Log:       log,
	})
}

// Token is the server's, as it is given or as the server left it; the zero Token
// if there is none.
func Token(c *config.Server) (token.Token, error) {
	if given := c.Join.Token; given != "" {
		return token.Parse(given.Reveal())
	}
	own, _, err := token.ReadFile(c.Paths.Token())
	if errors.Is(err, os.ErrNotExist) {
		return token.Token{}, nil
	}
	return own, err
}

// Restore goes back to a snapshot, given by its name or file. No server runs
// meanwhile.
func Restore(ctx context.Context, c *config.Server, keeper *snapshot.Keeper, name string) (snapshot.Restored, error) {
	own, err := Token(c)
	if err != nil {
		return snapshot.Restored{}, err
	}
	if own.Secret() == "" {
		return snapshot.Restored{}, errors.New("there is no token on this machine: give the one that the server had when the snapshot was taken, with --token-file FILE or in KEDGE_TOKEN")
	}
	path, again, remove, err := fetch(ctx, c.Snapshots, keeper, name)
	if err != nil {
		return snapshot.Restored{}, err
	}
	defer remove()
	return keeper.Restore(ctx, path, again, own)
}

// fetch finds a snapshot here, or else in the bucket of the options, for as long
// as it is not removed, and how it is named to be found again.
func fetch(ctx context.Context, c config.Snapshots, keeper *snapshot.Keeper, name string) (path, again string, remove func(), err error) {
	path, err = keeper.Path(name)
	if err == nil || !c.S3.Enabled {
		return path, path, func() {}, err
	}
	if c.S3.Bucket == "" {
		return "", "", nil, errors.New("the Secret that says how to reach S3 is in the cluster, which does not run: give the etcd-s3 options")
	}
	bucket, err := OpenBucket(c.S3)
	if err != nil {
		return "", "", nil, err
	}
	files, err := bucket.List(ctx)
	if err != nil {
		return "", "", nil, err
	}
	i := slices.IndexFunc(files, func(f snapshot.File) bool { return f.Name == cmp.Or(snapshot.NameOf(name), name) })
	if i < 0 {
		return "", "", nil, fmt.Errorf("there is no snapshot %s in %s, nor in %s", name, c.Dir, bucket)
	}
	dir, remove, err := keeper.WorkDir()
	if err != nil {
		return "", "", nil, err
	}
	if path, err = bucket.Get(ctx, files[i], dir); err != nil {
		remove()
	}
	return path, name, remove, err
}
