package servicelb

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

const (
	// pause is between two rounds at least: changes that come thick and fast are
	// looked at together.
	pause = 30 * time.Millisecond

	firstRetry, lastRetry = time.Second, 30 * time.Second

	// silenceLimit is how long a node may take to say which ports are free, before
	// the Service's owner is told.
	silenceLimit = 20 * time.Second
)

// Options are what a Controller works with.
type Options struct {
	Client kubernetes.Interface
	// Reserved are the ports that Kedge needs itself on all nodes, and what for.
	Reserved map[Port]string
	Log      *slog.Logger
}

// Controller keeps the statuses of Services as Decide wants them.
type Controller struct {
	options  Options
	changed  chan struct{} // something is to be looked at
	informer informers.SharedInformerFactory
	recorder record.EventRecorder

	// Of the goroutine in Run only:
	slices  informers.SharedInformerFactory // nil as long as no Service needs them
	waiting map[types.NamespacedName]time.Time
}

// New makes a controller.
func New(o Options) *Controller {
	return &Controller{
		options:  o,
		changed:  make(chan struct{}, 1),
		informer: informers.NewSharedInformerFactoryWithOptions(o.Client, 0, informers.WithTransform(strip)),
		waiting:  map[types.NamespacedName]time.Time{},
	}
}

func (c *Controller) signal() {
	select {
	case c.changed <- struct{}{}:
	default: // one is waiting already
	}
}

// Run gives addresses until ctx ends. Statuses stay: Services are served while
// Kedge restarts.
func (c *Controller) Run(ctx context.Context) error {
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.options.Client.CoreV1().Events("")})
	c.recorder = events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kedge-servicelb"})

	core := c.informer.Core().V1()
	if err := follow(core.Services().Informer(), c.signal, func(any, any) bool { return true }); err != nil {
		return err
	}
	if err := follow(core.Nodes().Informer(), c.signal, nodeChanged); err != nil {
		return err
	}
	c.informer.Start(ctx.Done())
	defer c.informer.Shutdown()
	defer func() {
		if c.slices != nil {
			c.slices.Shutdown()
		}
	}()
	if !synced(ctx, c.informer) {
		return nil
	}
	retry := firstRetry
	for {
		wait := pause
		if err := c.reconcile(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			c.options.Log.Warn("Services of type LoadBalancer may have wrong addresses; it is tried again.", "component", "servicelb", "err", err, "in", retry)
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
		case <-ctx.Done():
			return nil
		}
	}
}

// follow makes each change that matters a reason to look.
func follow(informer cache.SharedIndexInformer, signal func(), matters func(old, now any) bool) error {
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { signal() },
		UpdateFunc: func(old, now any) {
			if matters(old, now) {
				signal()
			}
		},
		DeleteFunc: func(any) { signal() },
	})
	return err
}

func synced(ctx context.Context, factory informers.SharedInformerFactory) bool {
	for _, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return false
		}
	}
	return true
}

// reconcile writes the statuses that are not as they should be: first those that
// lose addresses, so that no two Services have the same at any moment.
func (c *Controller) reconcile(ctx context.Context) error {
	cluster := Cluster{
		Services: objects[*corev1.Service](c.informer.Core().V1().Services().Informer()),
		Nodes:    objects[*corev1.Node](c.informer.Core().V1().Nodes().Informer()),
		Reserved: c.options.Reserved,
	}
	if slices.ContainsFunc(cluster.Services, func(s *corev1.Service) bool { return ours(s) && local(s) }) {
		if err := c.followSlices(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		cluster.Slices = objects[*discoveryv1.EndpointSlice](c.slices.Discovery().V1().EndpointSlices().Informer())
	}
	verdicts := Decide(cluster)
	c.complain(verdicts)
	var losing, others []change
	for _, s := range cluster.Services {
		v, found := verdicts[nameOf(s)]
		if !found {
			continue
		}
		w := change{service: s, verdict: v}
		switch {
		case !w.needed():
		case w.loses():
			losing = append(losing, w)
		default:
			others = append(others, w)
		}
	}
	for _, w := range slices.Concat(losing, others) {
		err := w.write(ctx, c.options.Client)
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil // the news of what it is now is on its way
		}
		if err != nil {
			return err
		}
		c.tell(w)
	}
	return nil
}

func objects[T any](informer cache.SharedIndexInformer) []T {
	list := informer.GetStore().List()
	found := make([]T, 0, len(list))
	for _, o := range list {
		if object, ok := o.(T); ok {
			found = append(found, object)
		}
	}
	return found
}

// followSlices watches endpoints, from the first time that they are needed on.
func (c *Controller) followSlices(ctx context.Context) error {
	if c.slices == nil {
		c.slices = informers.NewSharedInformerFactoryWithOptions(c.options.Client, 0, informers.WithTransform(strip))
		informer := c.slices.Discovery().V1().EndpointSlices().Informer()
		if err := follow(informer, c.signal, nodesChanged); err != nil {
			return err
		}
		c.slices.Start(ctx.Done())
	}
	synced(ctx, c.slices)
	return nil
}

// complain makes the silence of a node a problem when it has lasted.
func (c *Controller) complain(verdicts map[types.NamespacedName]Verdict) {
	now := time.Now()
	maps.DeleteFunc(c.waiting, func(name types.NamespacedName, _ time.Time) bool { return len(verdicts[name].Waiting) == 0 })
	for name, v := range verdicts {
		if len(v.Waiting) == 0 {
			continue
		}
		since, known := c.waiting[name]
		if !known {
			c.waiting[name] = now
			time.AfterFunc(silenceLimit+time.Millisecond, c.signal)
			continue
		}
		if now.Sub(since) >= silenceLimit && v.Problem == nil {
			v.Problem = &Problem{ReasonSilentNode, fmt.Sprintf("not known which ports are used on node %s, whose addresses are not given: look at the log of Kedge there", strings.Join(v.Waiting, ", "))}
			verdicts[name] = v
		}
	}
}

// tell tells the Service's owner what changed.
func (c *Controller) tell(w change) {
	given, wanted := w.addresses()
	log := c.options.Log.With("component", "servicelb", "service", nameOf(w.service))
	if !slices.Equal(given, wanted) {
		log.Info("the Service's addresses changed", "were", given, "are", wanted)
		if len(wanted) > 0 {
			c.recorder.Eventf(w.service, corev1.EventTypeNormal, "AddressesGiven", "The Service has the addresses %s", strings.Join(wanted, ", "))
		} else if !w.verdict.Left {
			c.recorder.Event(w.service, corev1.EventTypeNormal, "AddressesTaken", "The Service has no addresses now")
		}
	}
	if p := w.verdict.Problem; p != nil {
		old := meta.FindStatusCondition(w.service.Status.Conditions, ConditionType)
		if old == nil || old.Message != p.Message {
			log.Warn("a Service doesn't get all the addresses it wants", "why", p.Message)
			c.recorder.Event(w.service, corev1.EventTypeWarning, p.Reason, p.Message)
		}
	}
}

// change is what a Service's status is to become.
type change struct {
	service *corev1.Service
	verdict Verdict
}

// addresses are those of the status as it is and as it should be.
func (w change) addresses() (given, wanted []string) {
	for _, i := range w.service.Status.LoadBalancer.Ingress {
		given = append(given, i.IP)
	}
	for _, a := range w.verdict.Addresses {
		wanted = append(wanted, a.String())
	}
	return given, wanted
}

func (w change) loses() bool {
	given, wanted := w.addresses()
	return slices.ContainsFunc(given, func(a string) bool { return !slices.Contains(wanted, a) })
}

func (w change) needed() bool {
	given, wanted := w.addresses()
	old := meta.FindStatusCondition(w.service.Status.Conditions, ConditionType)
	condition := w.condition()
	if !slices.Equal(given, wanted) || (old == nil) != (condition == nil) {
		return true
	}
	return old != nil && (old.Status != condition.Status || old.Reason != condition.Reason || old.Message != condition.Message)
}

// condition is the one that marks the status; nil: none does.
func (w change) condition() *metav1.Condition {
	switch p := w.verdict.Problem; {
	case w.verdict.Left:
		return nil
	case p != nil:
		return &metav1.Condition{Type: ConditionType, Status: metav1.ConditionFalse, Reason: p.Reason, Message: p.Message}
	default:
		return &metav1.Condition{Type: ConditionType, Status: metav1.ConditionTrue, Reason: "Served"}
	}
}

// write patches the status of the Service as it was seen, and fails with a
// conflict if it is another by now.
func (w change) write(ctx context.Context, client kubernetes.Interface) error {
	s := w.service
	conditions := slices.Clone(s.Status.Conditions)
	if condition := w.condition(); condition != nil {
		meta.SetStatusCondition(&conditions, *condition)
	} else {
		meta.RemoveStatusCondition(&conditions, ConditionType)
	}
	status := map[string]any{"conditions": conditions}
	if given, wanted := w.addresses(); !slices.Equal(given, wanted) {
		vip := corev1.LoadBalancerIPModeVIP
		ingress := []corev1.LoadBalancerIngress{}
		for _, a := range wanted {
			ingress = append(ingress, corev1.LoadBalancerIngress{IP: a, IPMode: &vip})
		}
		status["loadBalancer"] = map[string]any{"ingress": ingress}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": s.UID, "resourceVersion": s.ResourceVersion},
		"status":   status,
	})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Services(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("write the addresses of Service %s: %w", nameOf(s), err)
	}
	return nil
}
