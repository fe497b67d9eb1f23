package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/localpath"
	"github.com/kedge-k8s/kedge/pkg/tunnel"
)

// storage provisions local volumes, as a component.
type storage struct {
	kubeconfig string
	path       string // of volumes on all nodes
	own        string // name of this server's own node; empty: it has none
	ownVolumes localpath.Directories
	tunnel     *tunnel.Server
	log        *slog.Logger
	run        component.Runner
}

func (*storage) Name() string                     { return localpath.AddOn }
func (*storage) Needs() []string                  { return []string{"apiserver"} }
func (s *storage) Stop(ctx context.Context) error { return s.run.Stop(ctx) }
func (s *storage) Failed() <-chan error           { return s.run.Failed() }

func (s *storage) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	provisioner := localpath.New(localpath.Options{
		Client:      client,
		Path:        s.path,
		Directories: s.directories,
		Log:         s.log.With("component", s.Name()),
	})
	s.run.Run(provisioner.Run)
	return nil
}

// directories are those of a node: this server's own, or the one at the other
// end of a tunnel.
func (s *storage) directories(node string) localpath.Directories {
	if node == s.own {
		return s.ownVolumes
	}
	return localpath.Remote{RoundTrip: func(r *http.Request) (*http.Response, error) {
		response, err := s.tunnel.RoundTrip(node, r)
		if errors.Is(err, tunnel.ErrNotConnected) {
			err = localpath.ErrNotConnected
		}
		return response, err
	}}
}
