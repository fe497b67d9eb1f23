package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/kedge-k8s/kedge/pkg/agent"
	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/snapshot"
)

// reset makes this server the only one of its cluster, with its own state or that
// of a snapshot, and says what to do next.
func (s *Server) reset(ctx context.Context) error {
	if err := agent.NeedRoot("server"); err != nil {
		return err
	}
	if err := s.dir().Check(); err != nil {
		return err
	}
	paths, from := s.config.Paths, s.config.Etcd.ResetRestorePath
	if info, err := os.Stat(paths.ResetFlag()); err == nil {
		return fmt.Errorf("--cluster-reset: this server was reset at %s already: remove the option, wherever it is given, and start the server; to reset it once more without a start, delete %s first", info.ModTime().UTC().Format(time.RFC3339), paths.ResetFlag())
	}
	if from == "" {
		if err := s.checkReset(); err != nil {
			return err
		}
	}
	release, err := s.dir().Claim()
	if err != nil {
		return err
	}
	defer release()
	snapshot.ClearLeftovers(paths.Server())
	var aside string
	if from == "" {
		s.log.Info("making this server the only member of etcd", "component", "datastore")
		aside, err = datastore.NewEtcdFiles(paths, s.node.Name(), nil, s.log).Reset(ctx)
	} else {
		var restored snapshot.Restored
		restored, err = Restore(ctx, s.config, NewKeeper(s.config, s.node.Name(), s.config.Snapshots.Dir, nil, s.log), from)
		aside = restored.Aside
		if err == nil {
			fmt.Fprintf(s.out, "this machine is back at snapshot %s of %s\n", restored.Name, restored.Created.UTC().Format(time.RFC3339))
		}
	}
	if err != nil {
		return fmt.Errorf("--cluster-reset: %w", err)
	}
	if err := atomicfile.Write(paths.ResetFlag(), nil, 0o600); err != nil {
		return err
	}
	if aside != "" {
		fmt.Fprintf(s.out, "what was here before is in %s\n", aside)
	}
	fmt.Fprintln(s.out, "start the server now, without --cluster-reset")
	if datastore.UsesEtcd(paths) {
		SayAlone(s.out, paths)
	}
	return nil
}

// SayAlone tells a person what a server's being the only member of etcd means for
// the others.
func SayAlone(out io.Writer, paths config.Paths) {
	fmt.Fprintf(out, "it is the only member of etcd: if the cluster had other servers, move %s away on each, and start it with --server https://HOST:6443 of this one\n", paths.Etcd())
}

// checkReset refuses where there are no members to forget.
func (s *Server) checkReset() error {
	paths := s.config.Paths
	if err := snapshot.Interrupted(paths.Server()); err != nil {
		return err
	}
	switch {
	case datastore.HasEtcd(paths.Etcd()), datastore.NewEtcdFiles(paths, s.node.Name(), nil, s.log).InterruptedReset():
		return nil
	case datastore.UsesEtcd(paths):
		return fmt.Errorf("--cluster-reset: this server's data of etcd is gone from %s: put it back, or go back to a snapshot with --cluster-reset-restore-path", paths.Etcd())
	}
	return fmt.Errorf("--cluster-reset: there is no etcd in %s whose members could be forgotten: with SQLite a server is the only one of its cluster; remove the option, or go back to a snapshot with kedge snapshot restore NAME", paths.DB())
}

// clearResetFlag lets the server be reset again, now that it starts.
func (s *Server) clearResetFlag() error {
	if err := os.Remove(s.config.Paths.ResetFlag()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
