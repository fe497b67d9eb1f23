package nodehosts

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
)

const (
	// ConfigMap is CoreDNS's, in kube-system.
	ConfigMap = "coredns"
	// Key is where the hosts are in it.
	Key = "NodeHosts"

	// fieldManager owns the key; the rest is the manifest's.
	fieldManager = "kedge-node-hosts"
)

const (
	// pause between two writes, so that many nodes that join at once are few of them.
	pause = 2 * time.Second
	// applyLimit is how long one write may take.
	applyLimit = 10 * time.Second
)

// Controller keeps the ConfigMap current as a component. With several servers
// each does: what is there already is not written again.
type Controller struct {
	kubeconfig string
	log        *slog.Logger
	run        component.Runner
}

// NewController makes the component.
func NewController(kubeconfig string, log *slog.Logger) *Controller {
	return &Controller{kubeconfig: kubeconfig, log: log}
}

func (*Controller) Name() string                     { return "node-hosts" }
func (*Controller) Needs() []string                  { return []string{"apiserver"} }
func (c *Controller) Stop(ctx context.Context) error { return c.run.Stop(ctx) }
func (c *Controller) Failed() <-chan error           { return c.run.Failed() }

func (c *Controller) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return c.follow(client, pause)
}

// follow writes the nodes' hosts whenever they have changed, at most once in pause.
func (c *Controller) follow(client kubernetes.Interface, pause time.Duration) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(strip))
	nodes := factory.Core().V1().Nodes()
	informer := nodes.Informer()
	changes := make(chan struct{}, 1)
	changed := func(any) { signal(changes) }
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: changed,
	})
	if err != nil {
		return err
	}
	c.run.Run(func(ctx context.Context) error {
		factory.Start(ctx.Done())
		defer factory.Shutdown()
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			signal(changes)
			c.write(ctx, client, nodes.Lister(), changes, pause)
		}
		return nil
	})
	return nil
}

// signal leaves word of a change, unless some is there.
func signal(changes chan<- struct{}) {
	select {
	case changes <- struct{}{}:
	default:
	}
}

// write writes the hosts at each change until ctx ends, unless they are what was
// written last: a node's heartbeats change nothing.
func (c *Controller) write(ctx context.Context, client kubernetes.Interface, lister listers.NodeLister, changes chan struct{}, pause time.Duration) {
	var written string
	known, complained := false, false
	for {
		select {
		case <-changes:
		case <-ctx.Done():
			return
		}
		nodes, err := lister.List(labels.Everything())
		hosts := Render(nodes)
		if err == nil && known && hosts == written {
			continue
		}
		if err == nil {
			err = apply(ctx, client, hosts)
		}
		written, known = hosts, err == nil
		if err != nil {
			signal(changes)
			if !complained && ctx.Err() == nil {
				c.log.Warn("telling the cluster's DNS of the nodes fails and is tried again", "component", c.Name(), "every", pause, "err", err)
			}
		}
		complained = err != nil
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

func apply(ctx context.Context, client kubernetes.Interface, hosts string) error {
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	config := applycorev1.ConfigMap(ConfigMap, metav1.NamespaceSystem).WithData(map[string]string{Key: hosts})
	_, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Apply(ctx, config, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// strip keeps of a node what its names and addresses are.
func strip(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion},
		Status:     corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}
