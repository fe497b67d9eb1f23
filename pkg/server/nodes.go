package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/tunnel"
)

// controlPlaneRole is the label that kubectl shows as the role control-plane. A
// kubelet may not give it to itself.
const controlPlaneRole = "node-role.kubernetes.io/control-plane"

// nodes follows the nodes of the cluster, as a component: the tunnel is told
// where each is reached, the server's own has its role, and the name of a
// deleted node is free again.
type nodes struct {
	kubeconfig string
	own        string // name of this server's own node; empty: it has none
	log        *slog.Logger
	tunnel     *tunnel.Server
	gone       func(ctx context.Context, node string) error // called for a deleted node; may be nil
	run        component.Runner
}

func newNodes(kubeconfig, own string, log *slog.Logger) *nodes {
	return &nodes{kubeconfig: kubeconfig, own: own, log: log}
}

func (*nodes) Name() string    { return "nodes" }
func (*nodes) Needs() []string { return []string{"apiserver"} }

func (n *nodes) Failed() <-chan error { return n.run.Failed() }

// Stop ends the tunnels too.
func (n *nodes) Stop(ctx context.Context) error {
	n.tunnel.Close()
	return n.run.Stop(ctx)
}

// connect makes a client with the rights that joining takes.
func (n *nodes) connect() (kubernetes.Interface, error) {
	c, err := clientcmd.BuildConfigFromFlags("", n.kubeconfig)
	if err != nil {
		return nil, err
	}
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.QPS = -1
	return kubernetes.NewForConfig(c)
}

func (n *nodes) Start(ctx context.Context) error {
	client, err := n.connect()
	if err != nil {
		return err
	}
	// Right after its start the apiserver may not have read the roles yet.
	err = wait.PollUntilContextTimeout(ctx, rolesInterval, rolesLimit, true, func(ctx context.Context) (bool, error) {
		err := n.claimOwn(ctx, client)
		return err == nil, ignoreForbidden(err)
	})
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(stripNode))
	informer := factory.Core().V1().Nodes().Informer()
	life := n.run.Context()
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { n.set(life, client, o) },
		UpdateFunc: func(_, o any) { n.set(life, client, o) },
		DeleteFunc: func(o any) { n.forget(life, client, o) },
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

const (
	rolesInterval = 100 * time.Millisecond
	rolesLimit    = time.Minute
)

func ignoreForbidden(err error) error {
	if apierrors.IsForbidden(err) {
		return nil
	}
	return err
}

// claimOwn keeps agents off the name of this server's node, whoever had it.
func (n *nodes) claimOwn(ctx context.Context, client kubernetes.Interface) error {
	if n.own == "" {
		return nil
	}
	secret, err := join.MachineSecret(config.NodePasswordFile)
	if err != nil {
		return err
	}
	m := machines{client: client}
	err = m.Claim(ctx, n.own, secret)
	if errors.Is(err, join.ErrNameTaken) {
		err = client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, machineSecretName(n.own), metav1.DeleteOptions{})
		if err == nil {
			err = m.Claim(ctx, n.own, secret)
		}
	}
	if err != nil {
		return fmt.Errorf("claim the name of node %s: %w", n.own, err)
	}
	return nil
}

// stripNode keeps of a node what its addresses and its role are.
func stripNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	var labels map[string]string
	if role, ok := node.Labels[controlPlaneRole]; ok {
		labels = map[string]string{controlPlaneRole: role}
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, Labels: labels},
		Spec:       corev1.NodeSpec{PodCIDRs: node.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Addresses: node.Status.Addresses, DaemonEndpoints: node.Status.DaemonEndpoints},
	}, nil
}

func (n *nodes) set(ctx context.Context, client kubernetes.Interface, o any) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return
	}
	if _, ok := node.Labels[controlPlaneRole]; !ok && node.Name == n.own {
		n.label(ctx, client)
	}
	var addresses []netip.Addr
	for _, a := range node.Status.Addresses {
		if address, err := netip.ParseAddr(a.Address); err == nil {
			addresses = append(addresses, address)
		}
	}
	var cidrs []netip.Prefix
	for _, c := range node.Spec.PodCIDRs {
		if cidr, err := netip.ParsePrefix(c); err == nil {
			cidrs = append(cidrs, cidr)
		}
	}
	n.tunnel.SetNode(node.Name, addresses, uint16(node.Status.DaemonEndpoints.KubeletEndpoint.Port), cidrs)
}

// label gives the server's own node its role. What fails is tried again with
// the node's next update.
func (n *nodes) label(ctx context.Context, client kubernetes.Interface) {
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:"true"}}}`, controlPlaneRole)
	_, err := client.CoreV1().Nodes().Patch(ctx, n.own, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		n.log.Warn("the server's node has no role yet", "component", n.Name(), "node", n.own, "err", err)
	}
}

func (n *nodes) forget(ctx context.Context, client kubernetes.Interface, o any) {
	if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = unknown.Obj
	}
	node, ok := o.(*corev1.Node)
	if !ok {
		return
	}
	n.tunnel.DeleteNode(node.Name)
	if n.gone != nil {
		go func() { // it may take minutes
			if err := n.gone(ctx, node.Name); err != nil && ctx.Err() == nil {
				n.log.Warn("a deleted node's server stays a member of etcd: remove it with etcdctl member remove", "component", n.Name(), "node", node.Name, "err", err)
			}
		}()
	}
	err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, machineSecretName(node.Name), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		n.log.Warn("the name of a deleted node stays its machine's", "component", n.Name(), "node", node.Name, "err", err)
	}
}

// machines keeps the hash of each machine's secret as a Secret of the cluster, and
// which authorities the machine was last told.
type machines struct {
	client kubernetes.Interface
	ca     string // hash of the bundle that machines are told now; empty: they are told none
}

const (
	machineHashKey = "hash"
	caAnnotation   = "kedge.io/ca-hash"
)

// registrationLimit is how long after its first certificates a node may take to
// appear in the cluster.
const registrationLimit = 10 * time.Minute

func machineSecretName(node string) string { return node + ".node-password.kedge" }

// Claim implements join.Machines.
func (m machines) Claim(ctx context.Context, node, secret string) error {
	secrets := m.client.CoreV1().Secrets(metav1.NamespaceSystem)
	fresh := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: machineSecretName(node), Namespace: metav1.NamespaceSystem},
		Data:       map[string][]byte{machineHashKey: []byte(join.HashSecret(secret))},
	}
	if m.ca != "" {
		fresh.Annotations = map[string]string{caAnnotation: m.ca}
	}
	stored, err := secrets.Get(ctx, fresh.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = secrets.Create(ctx, fresh, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		// Another machine of the same name was faster.
		stored, err = secrets.Get(ctx, fresh.Name, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	if join.SecretMatches(string(stored.Data[machineHashKey]), secret) {
		return m.told(ctx, stored)
	}
	// The node may have been deleted while no server ran to notice. One that has
	// just been given its certificates is not there yet.
	if time.Since(stored.CreationTimestamp.Time) < registrationLimit {
		return join.ErrNameTaken
	}
	_, err = m.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	switch {
	case err == nil:
		return join.ErrNameTaken
	case !apierrors.IsNotFound(err):
		return err
	}
	fresh.ResourceVersion = stored.ResourceVersion
	if _, err := secrets.Update(ctx, fresh, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("take over the name of a deleted node: %w", err)
	}
	return nil
}

// Confirm implements join.Machines.
func (m machines) Confirm(ctx context.Context, node, secret string) error {
	stored, err := m.client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, machineSecretName(node), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return join.ErrUnclaimed
	case err != nil:
		return err
	case !join.SecretMatches(string(stored.Data[machineHashKey]), secret):
		return join.ErrNameTaken
	}
	return m.told(ctx, stored)
}

// told notes in a machine's Secret which authorities it is told now.
func (m machines) told(ctx context.Context, stored *corev1.Secret) error {
	if m.ca == "" || stored.Annotations[caAnnotation] == m.ca {
		return nil
	}
	metav1.SetMetaDataAnnotation(&stored.ObjectMeta, caAnnotation, m.ca)
	_, err := m.client.CoreV1().Secrets(metav1.NamespaceSystem).Update(ctx, stored, metav1.UpdateOptions{})
	return err
}

// behindNodes are the nodes, but for own, that were not told of the authorities
// with the hash.
func behindNodes(ctx context.Context, client kubernetes.Interface, ca, own string) ([]string, error) {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var behind []string
	for _, node := range nodes.Items {
		if node.Name == own {
			continue
		}
		secret, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, machineSecretName(node.Name), metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		if err != nil || secret.Annotations[caAnnotation] != ca {
			behind = append(behind, node.Name)
		}
	}
	return behind, nil
}
