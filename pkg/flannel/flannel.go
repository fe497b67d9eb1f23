// Package flannel is the pod network of a node: a bridge with the node's pod
// ranges, and flannel, as a library, for the way to the pods of other nodes.
//
// Three sources say what the network must look like: the Node objects of the
// cluster, the node's own addresses, and the kernel, which tells when something
// of ours goes away. After a change in any of them one loop brings the kernel
// in line again. It has no timer while all is well.
//
// flannel's backends make the devices and keys and define what nodes tell each
// other. Its subnet manager for Kubernetes and its loops for vxlan and host-gw
// are not used: the first looks once a second whether it is ready, and the
// others panic when their device or their netlink socket is lost, never remove
// what they missed while Kedge was down, and host-gw's polls. In a process that
// is also the API server that won't do.
package flannel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flannel-io/flannel/pkg/subnet"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"
)

// The backends.
const (
	VXLAN     = "vxlan"
	HostGW    = "host-gw"
	WireGuard = "wireguard-native"
	None      = "none"
)

const (
	stopLimit      = time.Second
	dialLimit      = 30 * time.Second
	reconcileLimit = 30 * time.Second
	firstRetry     = time.Second
	lastRetry      = time.Minute
)

// Config is what the pod network is told.
type Config struct {
	NodeName     string
	NodeIPs      []netip.Addr   // the node's own addresses, at most one for each IP family
	ClusterCIDRs []netip.Prefix // at most one for each IP family
	Kubeconfig   string         // may list and watch nodes
	Kubelet      string         // kubeconfig of the node's kubelet, which may patch nodes/status of its own
	CNIConfig    string         // directory of the file for containerd

	Backend    string // one of the above; empty: vxlan
	Iface      string // towards the other nodes; empty: the one with the node's addresses
	Conf       string // the user's network configuration in flannel's form; empty: Kedge's own
	CNIConf    string // the user's CNI configuration; empty: Kedge's own
	Gate       string // socket at which pods wait for the node, in Kedge's own CNI configuration; empty: they don't
	ExternalIP bool   // other nodes reach this one at its external addresses
	IPv6Masq   bool   // pods reach the outside with the node's IPv6 address

	Log *slog.Logger
}

// Network is the pod network of one node as a component.
type Network struct {
	config Config
	conf   *subnet.Config
	nodes  *nodes
	client corev1.NodeInterface // the kubelet's
	// connections of all clients
	connections *connrotation.Dialer
	session     *session // what runs, nil before the first registration; only the loop uses it

	mu        sync.Mutex
	addresses []netip.Addr

	wake      chan struct{}         // something happened to the kernel's state or the addresses
	links     atomic.Pointer[[]int] // interfaces whose changes matter
	tableGone atomic.Bool           // somebody deleted a table of ours

	cancel context.CancelFunc
	work   sync.WaitGroup
}

// New makes the component.
func New(c Config) *Network {
	if c.Backend == "" {
		c.Backend = VXLAN
	}
	return &Network{
		config:    c,
		nodes:     newNodes(c.NodeName, familiesOf(c.ClusterCIDRs)),
		addresses: c.NodeIPs,
		wake:      make(chan struct{}, 1),
	}
}

// PodCIDRs are the ranges of the pods on this node; none before they are known,
// and with backend none.
func (n *Network) PodCIDRs() []netip.Prefix {
	view, _ := n.nodes.view()
	return view.self.list()
}

func (*Network) Name() string    { return "network" }
func (*Network) Needs() []string { return []string{"apiserver", "kubelet"} }

// Start waits for the node's pod ranges, which the controller manager assigns,
// registers the node with the backend and then writes the CNI configuration,
// which makes the node Ready.
func (n *Network) Start(ctx context.Context) error {
	if err := setForwarding(n.config.ClusterCIDRs); err != nil {
		return err
	}
	if n.config.Backend == None {
		return n.leaveToUser(ctx)
	}
	var err error
	if n.conf, err = n.config.netConf(); err != nil {
		return err
	}
	n.connections = connrotation.NewDialer((&net.Dialer{Timeout: dialLimit, KeepAlive: dialLimit}).DialContext)
	client, err := n.connect(n.config.Kubeconfig)
	if err != nil {
		return err
	}
	kubelet, err := n.connect(n.config.Kubelet)
	if err != nil {
		return err
	}
	n.client = kubelet.Nodes()

	var run context.Context
	run, n.cancel = context.WithCancel(context.Background())
	n.work.Go(func() {
		list := cache.NewListWatchFromClient(client.RESTClient(), "nodes", "", fields.Everything())
		cache.NewReflectorWithOptions(list, &v1.Node{}, n.nodes, cache.ReflectorOptions{Name: "pod network"}).RunWithContext(run)
	})
	if err := n.start(ctx, run); err != nil {
		return errors.Join(err, n.Stop(context.WithoutCancel(ctx)))
	}
	n.work.Go(func() { n.loop(run) })
	return nil
}

func (n *Network) connect(kubeconfig string) (*corev1.CoreV1Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.Dial = n.connections.DialContext
	return corev1.NewForConfig(config)
}

func (n *Network) start(ctx, run context.Context) error {
	if err := n.listen(run); err != nil {
		return err
	}
	rules := make(chan error, 1)
	go func() { rules <- n.config.masquerade(ctx) }()

	view, changed := n.nodes.view()
	for !view.self.ready() {
		select {
		case <-changed:
			view, changed = n.nodes.view()
		case <-ctx.Done():
			return fmt.Errorf("wait for the pod range of node %s: %w", n.config.NodeName, ctx.Err())
		}
	}
	if err := <-rules; err != nil {
		return err
	}
	return n.register(ctx, view)
}

// SetAddresses tells the network the node's new addresses: the node is
// registered anew with them, in the background. It is called after Start.
func (n *Network) SetAddresses(addresses []netip.Addr) {
	n.mu.Lock()
	n.addresses = slices.Clone(addresses)
	n.mu.Unlock()
	if n.connections != nil {
		// Those from an old address are dead, which would not show for a while.
		n.connections.CloseAll()
	}
	n.signal()
}

// Stop leaves the network in place: pods go on while Kedge restarts.
func (n *Network) Stop(context.Context) error {
	if n.cancel == nil {
		return nil // backend none
	}
	n.cancel()
	n.work.Wait()
	if n.session != nil {
		n.session.stop()
	}
	return nil
}

func (n *Network) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// loop keeps the network as it should be.
func (n *Network) loop(ctx context.Context) {
	var retry *time.Timer
	delay := firstRetry
	said := ""
	for {
		view, changed := n.nodes.view()
		err := n.reconcile(ctx, view)
		var again <-chan time.Time
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if message := err.Error(); message != said {
				n.config.Log.Error("the pod network is not as it should be; trying again", "error", err)
				said = message
			}
			retry = time.NewTimer(delay)
			again = retry.C
			delay = min(2*delay, lastRetry)
		default:
			if said != "" {
				n.config.Log.Info("the pod network is as it should be again")
			}
			said, delay = "", firstRetry
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-n.wake:
		case <-again:
		}
		if retry != nil {
			retry.Stop()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (n *Network) reconcile(ctx context.Context, view view) error {
	ctx, cancel := context.WithTimeout(ctx, reconcileLimit)
	defer cancel()
	var errs []error
	if n.tableGone.Swap(false) {
		if err := n.config.masquerade(ctx); err != nil {
			n.tableGone.Store(true)
			errs = append(errs, err)
		} else {
			n.config.Log.Info("masquerading is back: somebody had deleted its rules, as `nft flush ruleset` does")
		}
	}
	// A node that was deleted keeps its network until it is registered again.
	if view.self.ready() && !n.session.current(view.self, n.nodeIPs()) {
		if err := n.register(ctx, view); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	if n.session != nil {
		if view.self.ready() {
			errs = append(errs, n.session.manager.publish(ctx))
		}
		errs = append(errs, n.session.apply(view.peers))
	}
	return errors.Join(errs...)
}

func (n *Network) nodeIPs() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addresses
}

// leaveToUser removes what another backend left: its CNI configuration would
// win over that of the user. Where there is none, nothing is Kedge's.
func (n *Network) leaveToUser(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(n.config.CNIConfig, cniFile)); err == nil {
		if err := removeTraces(ctx, n.config); err != nil {
			return err
		}
	}
	n.config.Log.Info("no pod network, as flannel-backend=none says: the node becomes Ready once you have installed a CNI plugin",
		"directory", n.config.CNIConfig)
	return nil
}
