package netpol

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/knftables"
)

const (
	// pause is between two transactions at least: changes that come thick and
	// fast are written together, and one that comes alone at once.
	pause = 30 * time.Millisecond

	firstRetry, lastRetry = time.Second, 30 * time.Second
)

// Options are what a Controller works with.
type Options struct {
	Client kubernetes.Interface
	// NodeName is the node whose pods the policies are enforced for.
	NodeName string
	// NFT is for the table inet TableName, in the node's network namespace. Only
	// the goroutine that calls Run calls it.
	NFT knftables.Interface
	// Bridge is the bridge that the node's pods are on, if they are on one.
	Bridge string
	Log    *slog.Logger
}

// Controller keeps the node's table as the cluster's policies want it.
type Controller struct {
	options Options
	changed chan struct{} // something is to be looked at

	mu       sync.Mutex
	cluster  *cluster
	policies *feed[*networkingv1.NetworkPolicy]
	peers    *peerWatch // nil while there are no policies
	waiting  map[*admission]struct{}

	// Of the goroutine in Run only:
	written *ruleset // what the table holds; nil if that is not known
	cleared bool     // there is no table
	monitor *monitor
}

// admission is a pod that waits until the policies hold for it.
type admission struct {
	pod   types.UID
	known bool          // to the last transaction
	done  chan struct{} // closed when the policies hold
}

// peerWatch is the watch of what policies choose from.
type peerWatch struct {
	namespaces *feed[*corev1.Namespace]
	pods       *feed[*corev1.Pod]
	stop       func() // and wait for the end
}

func (w *peerWatch) synced() bool { return w.namespaces.synced && w.pods.synced }

// New makes a controller.
func New(o Options) *Controller {
	c := &Controller{
		options: o,
		changed: make(chan struct{}, 1),
		cluster: newCluster(o.Bridge),
		waiting: map[*admission]struct{}{},
	}
	c.policies = &feed[*networkingv1.NetworkPolicy]{
		lock:   &c.mu,
		set:    c.setPolicy,
		remove: c.cluster.deletePolicy,
		keys:   func() []key { return slices.Collect(maps.Keys(c.cluster.policies)) },
		strip:  stripPolicy,
		done:   c.signal,
	}
	return c
}

func (c *Controller) signal() {
	select {
	case c.changed <- struct{}{}:
	default: // one is waiting already
	}
}

func (c *Controller) setPolicy(np *networkingv1.NetworkPolicy) {
	p, err := newPolicy(np)
	if err != nil {
		message := "A part of a NetworkPolicy cannot be applied: nothing is allowed by it."
		if p == nil {
			message = "A NetworkPolicy cannot be applied."
		}
		c.options.Log.Warn(message, "policy", keyOf(np), "err", err)
	}
	if p == nil {
		c.cluster.deletePolicy(keyOf(np))
		return
	}
	c.cluster.setPolicy(p)
}

// Run enforces the policies until ctx ends. The table stays, so that policies
// hold while Kedge restarts.
func (c *Controller) Run(ctx context.Context) error {
	var feeds sync.WaitGroup
	defer feeds.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	feeds.Go(func() {
		policies := listWatch(c.options.Client.NetworkingV1().NetworkPolicies(""), "")
		c.policies.run(ctx, "NetworkPolicies", c.options.Client, policies)
	})
	defer c.stopPeers()

	retry := firstRetry
	for {
		wait := pause
		if err := c.reconcile(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			c.options.Log.Error("The NetworkPolicies cannot be applied; those that were before remain.", "err", err, "retry", retry)
			wait, retry = retry, min(2*retry, lastRetry)
			c.signal()
		} else {
			retry = firstRetry
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		select {
		case <-c.changed:
		case <-c.deleted():
			c.verify(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// deleted reports that the table may have been deleted.
func (c *Controller) deleted() <-chan struct{} {
	if c.monitor == nil {
		return nil
	}
	return c.monitor.deleted
}

// verify looks whether the table is there.
func (c *Controller) verify(ctx context.Context) {
	tx := c.options.NFT.NewTransaction()
	tx.Create(&knftables.Table{})
	if err := c.options.NFT.Check(ctx, tx); !knftables.IsAlreadyExists(err) && c.written != nil {
		c.options.Log.Warn("The nftables table with the NetworkPolicies was deleted by another program; it is made again.", "table", TableName)
		c.written = nil
	}
}

// reconcile makes the table what it has to be, as far as that is known.
func (c *Controller) reconcile(ctx context.Context) error {
	c.mu.Lock()
	synced, policies := c.policies.synced, len(c.cluster.policies)
	c.mu.Unlock()
	switch {
	case !synced:
		return nil
	case policies == 0:
		c.stopPeers()
		return c.clear(ctx)
	case c.peers == nil:
		return c.startPeers(ctx) // which reports when it has them
	default:
		return c.write(ctx)
	}
}

// startPeers begins to watch what policies choose from.
func (c *Controller) startPeers(ctx context.Context) error {
	var err error
	if c.monitor, err = newMonitor(); err != nil {
		return err
	}
	w := &peerWatch{
		namespaces: &feed[*corev1.Namespace]{
			lock:   &c.mu,
			set:    func(ns *corev1.Namespace) { c.cluster.setNamespace(ns.Name, ns.Labels) },
			remove: func(k key) { c.cluster.deleteNamespace(k.name) },
			keys:   c.cluster.knownNamespaces,
			strip:  stripNamespace,
			done:   c.signal,
		},
		pods: &feed[*corev1.Pod]{
			lock:   &c.mu,
			set:    c.setPod,
			remove: c.cluster.deletePod,
			keys:   func() []key { return slices.Collect(maps.Keys(c.cluster.pods)) },
			strip:  stripPod,
			order:  byStart,
			done:   c.signal,
		},
	}
	ctx, cancel := context.WithCancel(ctx)
	var feeds sync.WaitGroup
	w.stop = func() {
		cancel()
		feeds.Wait()
	}
	core := c.options.Client.CoreV1()
	feeds.Go(func() {
		w.namespaces.run(ctx, "Namespaces", c.options.Client, listWatch(core.Namespaces(), ""))
	})
	feeds.Go(func() {
		w.pods.run(ctx, "Pods", c.options.Client, listWatch(core.Pods(""), podFields))
	})
	c.mu.Lock()
	c.peers = w
	c.mu.Unlock()
	return nil
}

func (c *Controller) setPod(p *corev1.Pod) {
	if hasNetwork(p) {
		c.cluster.setPod(podOf(p, c.options.NodeName))
	} else {
		c.cluster.deletePod(keyOf(p))
	}
}

func (c *Controller) stopPeers() {
	if c.peers == nil {
		return
	}
	c.peers.stop()
	c.monitor.close()
	c.monitor = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers = nil
	c.cluster.forgetPods()
}

// write brings the table up to date, in one transaction if all is well.
func (c *Controller) write(ctx context.Context) error {
	c.mu.Lock()
	synced := c.peers.synced()
	c.mu.Unlock()
	if !synced {
		return nil // it is not known what policies choose from
	}
	if c.written != nil {
		err := c.attempt(ctx, func(tx *knftables.Transaction, to *ruleset, changes map[change]bool) {
			update(tx, c.written, to, changes)
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
		c.written = nil
		c.options.Log.Warn("The nftables table with the NetworkPolicies is not as it was left; it is written anew.", "table", TableName, "err", err)
	}
	existing, err := c.options.NFT.ListAll(ctx)
	if err == nil || knftables.IsNotFound(err) {
		err = c.attempt(ctx, func(tx *knftables.Transaction, to *ruleset, _ map[change]bool) {
			rebuild(tx, to, existing)
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	c.options.Log.Warn("The nftables table with the NetworkPolicies cannot be written as it is; another takes its place.", "table", TableName, "err", err)
	return c.attempt(ctx, func(tx *knftables.Transaction, to *ruleset, _ map[change]bool) {
		recreate(tx, to)
	})
}

// attempt runs one transaction.
func (c *Controller) attempt(ctx context.Context, fill func(*knftables.Transaction, *ruleset, map[change]bool)) error {
	tx := c.options.NFT.NewTransaction()
	c.mu.Lock()
	rules, changes := c.cluster.next()
	fill(tx, rules, changes)
	for a := range c.waiting {
		a.known = c.cluster.localPod(a.pod) != nil
	}
	c.mu.Unlock()
	if tx.NumOperations() > 0 {
		if err := c.options.NFT.Run(ctx, tx); err != nil {
			return fmt.Errorf("nftables table %s: %w", TableName, err)
		}
	}
	c.written, c.cleared = rules, false
	c.admit(func(a *admission) bool { return a.known })
	return nil
}

// clear removes the table: no policies, no cost.
func (c *Controller) clear(ctx context.Context) error {
	if !c.cleared {
		c.written = nil
		if err := Remove(ctx, c.options.NFT); err != nil {
			return err
		}
		c.cleared = true
	}
	c.admit(func(*admission) bool { return true })
	return nil
}

// Remove removes the table, and with it what the policies refuse.
func Remove(ctx context.Context, nft knftables.Interface) error {
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{}) // to delete one that isn't there is an error
	tx.Delete(&knftables.Table{})
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", TableName, err)
	}
	return nil
}

// Admit returns as soon as the policies hold for a pod of this node that has
// addresses, but no containers yet. The pod's status has the addresses only
// after its containers started, and would leave them without protection until
// then. It is not for pods that use the node's network.
func (c *Controller) Admit(ctx context.Context, pod types.UID, addrs []netip.Addr) error {
	a := c.wait(pod, addrs)
	if a == nil {
		return nil
	}
	c.signal()
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, a)
		if c.cluster.localPod(pod) == nil {
			delete(c.cluster.expected, pod)
		}
		return fmt.Errorf("wait for the NetworkPolicies of pod %s: %w", pod, ctx.Err())
	}
}

// wait makes a pod wait, unless there are no policies.
func (c *Controller) wait(pod types.UID, addrs []netip.Addr) *admission {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policies.synced && len(c.cluster.policies) == 0 {
		return nil
	}
	c.cluster.expect(pod, addrs)
	a := &admission{pod: pod, done: make(chan struct{})}
	c.waiting[a] = struct{}{}
	return a
}

// admit lets pods go on.
func (c *Controller) admit(which func(*admission) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range c.waiting {
		if which(a) {
			delete(c.waiting, a)
			close(a.done)
		}
	}
}
