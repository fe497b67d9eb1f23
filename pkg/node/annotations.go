package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
)

const annotationRetry = 2 * time.Second

// Annotations keeps annotations on the node's own object, as a component. An
// empty value removes its annotation.
type Annotations struct {
	node       string
	kubeconfig string
	wanted     map[string]string
	log        *slog.Logger
	run        component.Runner
}

// NewAnnotations makes the component.
func NewAnnotations(node, kubeconfig string, wanted map[string]string, log *slog.Logger) *Annotations {
	return &Annotations{node: node, kubeconfig: kubeconfig, wanted: wanted, log: log}
}

func (*Annotations) Name() string                     { return "annotations" }
func (*Annotations) Needs() []string                  { return []string{"apiserver", "kubelet"} }
func (a *Annotations) Stop(ctx context.Context) error { return a.run.Stop(ctx) }
func (a *Annotations) Failed() <-chan error           { return a.run.Failed() }

// Start annotates the node in the background, as soon as its kubelet has
// registered it.
func (a *Annotations) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", a.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	a.run.Run(func(ctx context.Context) error {
		for {
			err := a.patch(ctx, client)
			if err != nil && ctx.Err() == nil {
				a.log.Debug("the node is not annotated yet", "component", a.Name(), "err", err)
				select {
				case <-time.After(annotationRetry):
					continue
				case <-ctx.Done():
				}
			}
			<-ctx.Done()
			return nil
		}
	})
	return nil
}

func (a *Annotations) patch(ctx context.Context, client kubernetes.Interface) error {
	node, err := client.CoreV1().Nodes().Get(ctx, a.node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	patch := changes(node, a.wanted)
	if len(patch) == 0 {
		return nil
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": patch}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, a.node, types.MergePatchType, data, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("annotate node %s: %w", a.node, err)
	}
	return nil
}

// changes are the annotations to set, and with nil those to remove.
func changes(node *v1.Node, wanted map[string]string) map[string]any {
	patch := map[string]any{}
	for key, value := range wanted {
		old, found := node.Annotations[key]
		switch {
		case value == "" && found:
			patch[key] = nil
		case value != "" && old != value:
			patch[key] = value
		}
	}
	return patch
}
