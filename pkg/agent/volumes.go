package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/localpath"
)

// volumes makes and removes the directories of local volumes on this node, as a
// component.
type volumes struct {
	*localpath.Node
	kubeconfig string
	run        component.Runner

	mu     sync.Mutex
	client kubernetes.Interface // nil until the apiserver can be reached
}

func newVolumes(node, kubeconfig string, log *slog.Logger) *volumes {
	v := &volumes{kubeconfig: kubeconfig}
	v.Node = localpath.NewNode(localpath.NodeOptions{Name: node, Config: v.config, Log: log.With("component", v.Name())})
	return v
}

func (*volumes) Name() string                     { return "volumes" }
func (*volumes) Needs() []string                  { return []string{"apiserver"} }
func (v *volumes) Stop(ctx context.Context) error { return v.run.Stop(ctx) }
func (v *volumes) Failed() <-chan error           { return v.run.Failed() }

func (v *volumes) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", v.kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.client = client
	v.mu.Unlock()
	v.run.Run(v.Run)
	return nil
}

// config reads where the cluster wants volumes to lie.
func (v *volumes) config(ctx context.Context) (localpath.Config, error) {
	v.mu.Lock()
	client := v.client
	v.mu.Unlock()
	if client == nil {
		return localpath.Config{}, errors.New("the node is starting")
	}
	return localpath.ReadConfig(ctx, client)
}
