package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/snapshot"
	"github.com/kedge-k8s/kedge/pkg/token"
)

// store is where the cluster's state is kept, as a component.
type store interface {
	component.Component
	// Endpoint is the etcd endpoint that the apiserver is given.
	Endpoint() string
	// TLS is what the apiserver connects with.
	TLS() datastore.TLS
}

// newStore makes the datastore; etcd is nil unless it is the embedded one.
func (s *Server) newStore() (kept store, etcd *datastore.Etcd, err error) {
	socket := filepath.Join(config.RuntimeDir, "datastore.sock")
	if d := s.config.Datastore; d.Endpoint != "" {
		tls := datastore.TLS{CA: d.CAFile, Client: pki.KeyPair{Cert: d.CertFile, Key: d.KeyFile}}
		return datastore.NewExternal(d.Endpoint.Reveal(), tls, socket, s.log), nil, nil
	}
	c := s.config
	if !s.usesEtcd() {
		if c.Etcd.ExposeMetrics || len(c.Etcd.Args) > 0 {
			return nil, nil, errors.New("--etcd-arg and --etcd-expose-metrics have no effect with SQLite, which this server keeps its state in: remove them, or change to etcd with --cluster-init")
		}
		return datastore.NewSQLite(c.Paths.DB(), socket, s.log), nil, nil
	}
	settings := datastore.EtcdConfig{
		Dir:           c.Paths.Etcd(),
		Cluster:       c.Paths.EtcdCluster(),
		SQLite:        c.Paths.DB(),
		Node:          s.node.Name(),
		Address:       s.node.Addresses()[0],
		Advertised:    s.advertiseAddress(),
		PKI:           s.layout,
		ExposeMetrics: c.Etcd.ExposeMetrics,
		Args:          c.Etcd.Args,
		Log:           s.log,
	}
	if !c.DisableAgent {
		// Both register the metrics of a gRPC server, under the same names. etcd does
		// without if it comes second, containerd panics.
		settings.After = []string{"containerd"}
	}
	if s.peers != nil {
		settings.Peers = s.peers
	}
	etcd, err = datastore.NewEtcd(settings)
	return etcd, etcd, err
}

// newKeeper looks after this server's snapshots before the datastore runs.
func (s *Server) newKeeper() *snapshot.Keeper {
	return NewKeeper(s.config, s.node.Name(), s.config.Snapshots.Dir, nil, s.log)
}

// checkDatastore refuses a datastore that can't be used, and changes nothing. A
// damaged one is to be repaired if the user wants it so.
func (s *Server) checkDatastore(ctx context.Context) error {
	if s.config.Datastore.Endpoint != "" {
		return nil // its component sees to it
	}
	err := snapshot.Interrupted(s.config.Paths.Server())
	var interrupted *snapshot.InterruptedError
	if errors.As(err, &interrupted) && s.config.Datastore.AutoRestore {
		s.damage, s.restoreFrom = interrupted, interrupted.Snapshot
		return nil
	}
	if err != nil {
		return err
	}
	if datastore.NewEtcdFiles(s.config.Paths, s.node.Name(), nil, s.log).InterruptedReset() {
		return errors.New("a reset of etcd was cut short: do it again with kedge server --cluster-reset")
	}
	if datastore.UsesEtcd(s.config.Paths) {
		return nil // its component sees to it
	}
	err = datastore.NewSQLiteFile(s.config.Paths.DB()).Check(ctx)
	var damaged *datastore.DamagedError
	if !errors.As(err, &damaged) {
		return err
	}
	dir := s.config.Snapshots.Dir
	last, listErr := s.newKeeper().LastGood(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case listErr != nil:
		return fmt.Errorf("%w (and the snapshots can't be read: %w): put a backup of it in its place, or move it (and its -wal and -shm files) away to start with an empty cluster", err, listErr)
	case last.Name == "":
		return fmt.Errorf("%w, and there is no good snapshot in %s: put a backup of it in its place, or move it (and its -wal and -shm files) away to start with an empty cluster", err, dir)
	case !s.config.Datastore.AutoRestore:
		return fmt.Errorf("%w; the last good backup is the snapshot of %s: go back to it with kedge snapshot restore %s, which keeps the damaged file aside (--datastore-auto-restore does it by itself)", err, last.Created.Format("2006-01-02 15:04:05 MST"), last.Name)
	}
	s.damage, s.restoreFrom = damaged, last.Name
	return nil
}

// repairDatastore goes back to a snapshot if the datastore was found damaged: the
// last good one, or that of a restore that was cut short.
func (s *Server) repairDatastore(ctx context.Context) error {
	if s.damage == nil {
		return nil
	}
	release, err := s.dir().Claim()
	if err != nil {
		return err
	}
	defer release()
	snapshot.ClearLeftovers(s.config.Paths.Server())
	own, err := s.ownToken()
	if err != nil {
		return fmt.Errorf("%w; going back to snapshot %s: %w", s.damage, s.restoreFrom, err)
	}
	keeper := s.newKeeper()
	path, err := keeper.Path(s.restoreFrom)
	if err != nil {
		return fmt.Errorf("%w; %w", s.damage, err)
	}
	restored, err := keeper.Restore(ctx, path, s.restoreFrom, own)
	if err != nil {
		return fmt.Errorf("%w; going back to snapshot %s: %w", s.damage, s.restoreFrom, err)
	}
	s.log.Error("the datastore could not be used: went back to a snapshot; what was written since is lost",
		"component", "datastore", "why", s.damage, "snapshot", restored.Name, "taken", restored.Created, "old files", restored.Aside)
	return nil
}

// ownToken is the server's token before the components run.
func (s *Server) ownToken() (token.Token, error) {
	own, _, err := token.ReadFile(s.config.Paths.Token())
	if errors.Is(err, os.ErrNotExist) && s.config.Join.Token != "" {
		return token.Parse(s.config.Join.Token.Reveal())
	}
	return own, err
}
