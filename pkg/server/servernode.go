package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
)

// Label and annotation of the node of a member of etcd. A kubelet may not give
// itself a role, so the server does.
const (
	etcdRole = "node-role.kubernetes.io/etcd"
	// memberAnnotation is the name of the server's member of etcd.
	memberAnnotation = "etcd.kedge.io/node-name"
)

// serverNode keeps role and annotation on this server's node, as a component.
type serverNode struct {
	node       string
	member     func() string
	kubeconfig string
	log        *slog.Logger
	run        component.Runner
}

func (*serverNode) Name() string                     { return "node-role" }
func (*serverNode) Needs() []string                  { return []string{"apiserver"} }
func (n *serverNode) Stop(ctx context.Context) error { return n.run.Stop(ctx) }
func (n *serverNode) Failed() <-chan error           { return n.run.Failed() }

func (n *serverNode) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", n.kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, n.node).String()
	}))
	life := n.run.Context()
	_, err = factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { n.mark(life, client, o) },
		UpdateFunc: func(_, o any) { n.mark(life, client, o) },
	})
	if err != nil {
		return err
	}
	n.run.Run(func(ctx context.Context) error {
		factory.Start(ctx.Done())
		<-ctx.Done()
		factory.Shutdown()
		return nil
	})
	return nil
}

// mark gives the node what it lacks. What fails is tried again at the node's next
// change, which its kubelet makes every few minutes at least.
func (n *serverNode) mark(ctx context.Context, client kubernetes.Interface, o any) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return
	}
	member := n.member()
	if _, ok := node.Labels[etcdRole]; ok && node.Annotations[memberAnnotation] == member {
		return
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"labels":      map[string]string{etcdRole: "true"},
		"annotations": map[string]string{memberAnnotation: member},
	}})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := client.CoreV1().Nodes().Patch(ctx, n.node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && ctx.Err() == nil {
		n.log.Debug("the node's roles can't be written yet", "component", n.Name(), "err", err)
	}
}
