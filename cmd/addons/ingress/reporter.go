package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kubescheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	// patience is how long something may be missing before an event says so: the
	// objects of one file come one after the other.
	patience = 2 * time.Second
	// again is when a status that could not be written is tried again.
	again = 5 * time.Second
	// conflictPause is how long the informers are given to learn of a change.
	conflictPause = 300 * time.Millisecond
	// GatewayClassName is the class that the leader makes.
	GatewayClassName = "kedge"
)

// findings are what there is to report.
type findings struct {
	leads            bool
	ingresses        []report
	gateway          *gatewayStatus
	addresses        []corev1.LoadBalancerIngress
	acmeNames        map[string]objectName
	acmeServer       string
	settings         *corev1.ConfigMap
	settingsProblems []string
}

// reporter writes statuses and events, behind the routes.
type reporter struct {
	clients clients
	self    identity
	refresh func() // has the findings made anew
	kick    chan struct{}

	mu     sync.Mutex
	latest *findings

	events record.EventRecorder
	since  map[string]time.Time // when a problem was first seen, by object and text
	told   map[string]bool
}

func newReporter(c clients, self identity, refresh func()) *reporter {
	return &reporter{
		clients: c, self: self, refresh: refresh, kick: make(chan struct{}, 1),
		since: make(map[string]time.Time), told: make(map[string]bool),
	}
}

// set has the findings reported.
func (r *reporter) set(f *findings) {
	r.mu.Lock()
	r.latest = f
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *reporter) run(ctx context.Context) {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: r.clients.kubernetes.CoreV1().Events("")})
	r.mu.Lock()
	r.events = broadcaster.NewRecorder(kubescheme.Scheme, corev1.EventSource{Component: "kedge-ingress"})
	r.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.kick:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		f := r.latest
		r.mu.Unlock()
		if f == nil || !f.leads {
			continue
		}
		if next := r.write(ctx, f); next > 0 {
			timer.Reset(next)
		}
	}
}

// write reports, and says when to do so again; 0: when something changes.
func (r *reporter) write(ctx context.Context, f *findings) time.Duration {
	var next time.Duration
	sooner := func(d time.Duration) {
		if d > 0 && (next == 0 || d < next) {
			next = d
		}
	}
	seen := make(map[string]bool)
	for _, each := range f.ingresses {
		sooner(r.tell(seen, each.ingress, each.ingress.UID, each.problems))
		if err := r.ingressStatus(ctx, each.ingress, f.addresses); err != nil {
			sooner(r.failed(ctx, kindIngress, each.ingress, err))
		}
	}
	if f.settings != nil {
		sooner(r.tell(seen, f.settings, f.settings.UID, f.settingsProblems))
	}
	for key := range r.since {
		if !seen[key] {
			delete(r.since, key)
			delete(r.told, key)
		}
	}
	if f.gateway != nil {
		sooner(r.gatewayStatuses(ctx, f))
	}
	return next
}

// failed says that a status could not be written, unless the object has gone, and
// when to try again.
func (r *reporter) failed(ctx context.Context, kind string, object metav1.Object, err error) time.Duration {
	if ctx.Err() != nil || apierrors.IsNotFound(err) {
		return 0
	}
	if apierrors.IsConflict(err) { // somebody else wrote; what we know of it comes soon
		time.AfterFunc(conflictPause, r.refresh)
		return 0
	}
	slog.Warn("a status is not written and tried again", "kind", kind, "namespace", object.GetNamespace(), "name", object.GetName(), "err", err)
	return again
}

// tell makes an event of each new problem that stays, and says when to look again.
func (r *reporter) tell(seen map[string]bool, object runtime.Object, uid types.UID, problems []string) time.Duration {
	var next time.Duration
	for _, text := range problems {
		key := string(uid) + " " + text
		seen[key] = true
		first, ok := r.since[key]
		if !ok {
			first = time.Now()
			r.since[key] = first
		}
		if r.told[key] {
			continue
		}
		if left := patience - time.Since(first); left > 0 {
			if next == 0 || left < next {
				next = left
			}
			continue
		}
		r.told[key] = true
		r.events.Event(object, corev1.EventTypeWarning, "Misconfigured", text)
	}
	return next
}

// acmeFailed makes an event on the Ingress that asked for a certificate.
func (r *reporter) acmeFailed(name string, err error) {
	r.mu.Lock()
	f, events := r.latest, r.events
	r.mu.Unlock()
	if f == nil || events == nil {
		return
	}
	text := acmeProblem(name, f.acmeServer, err)
	slog.Warn(text)
	for _, each := range f.ingresses {
		if (objectName{each.ingress.Namespace, each.ingress.Name}) == f.acmeNames[name] {
			events.Event(each.ingress, corev1.EventTypeWarning, "CertificateFailed", text)
		}
	}
}

func (r *reporter) ingressStatus(ctx context.Context, ingress *networkingv1.Ingress, addresses []corev1.LoadBalancerIngress) error {
	wanted := make([]networkingv1.IngressLoadBalancerIngress, 0, len(addresses))
	for _, address := range addresses {
		wanted = append(wanted, networkingv1.IngressLoadBalancerIngress{IP: address.IP, Hostname: address.Hostname})
	}
	if equality.Semantic.DeepEqual(ingress.Status.LoadBalancer.Ingress, wanted) {
		return nil
	}
	changed := ingress.DeepCopy()
	changed.Status.LoadBalancer.Ingress = wanted
	written, err := r.clients.kubernetes.NetworkingV1().Ingresses(ingress.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err == nil {
		// The informer's copy is not ours to change, but these findings are seen again.
		r.replace(ingress, written)
	}
	return err
}

// replace puts what was written in place of what was found.
func (r *reporter) replace(before, after *networkingv1.Ingress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.latest.ingresses {
		if r.latest.ingresses[i].ingress == before {
			r.latest.ingresses[i].ingress = after
		}
	}
}

func (r *reporter) gatewayStatuses(ctx context.Context, f *findings) time.Duration {
	var next time.Duration
	done := func(kind string, object metav1.Object, err error) {
		if err != nil {
			next = max(next, r.failed(ctx, kind, object, err))
		}
	}
	api := r.clients.gateway.GatewayV1()
	if !slices.ContainsFunc(f.gateway.classes, func(c *gatewayv1.GatewayClass) bool { return c.Name == GatewayClassName }) {
		class := &gatewayv1.GatewayClass{
			// Not the user's: it keeps nobody from removing its kind.
			ObjectMeta: metav1.ObjectMeta{Name: GatewayClassName, Annotations: map[string]string{"kedge.io/addon": "ingress"}},
			Spec:       gatewayv1.GatewayClassSpec{ControllerName: ControllerName},
		}
		_, err := api.GatewayClasses().Create(ctx, class, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			done("GatewayClass", class, err)
		}
	}
	for _, class := range f.gateway.classes {
		changed := class.DeepCopy()
		setConditions(&changed.Status.Conditions, class.Generation,
			condition(gatewayv1.GatewayClassConditionStatusAccepted, true, gatewayv1.GatewayClassReasonAccepted, ""))
		if !equality.Semantic.DeepEqual(class.Status, changed.Status) {
			_, err := api.GatewayClasses().UpdateStatus(ctx, changed, metav1.UpdateOptions{})
			done("GatewayClass", class, err)
		}
	}
	for _, each := range f.gateway.gateways {
		changed := each.object.DeepCopy()
		changed.Status = each.status(f.addresses)
		if !equality.Semantic.DeepEqual(each.object.Status, changed.Status) {
			_, err := api.Gateways(changed.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
			done("Gateway", changed, err)
		}
	}
	for _, each := range f.gateway.routes {
		changed := each.object.DeepCopy()
		changed.Status.Parents = each.status()
		if !equality.Semantic.DeepEqual(each.object.Status, changed.Status) {
			_, err := api.HTTPRoutes(changed.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
			done(kindHTTPRoute, changed, err)
		}
	}
	return next
}

// status is what a Gateway's is to be.
func (g *gatewayState) status(addresses []corev1.LoadBalancerIngress) gatewayv1.GatewayStatus {
	s := gatewayv1.GatewayStatus{Conditions: slices.Clone(g.object.Status.Conditions)}
	for _, address := range addresses {
		kind, value := gatewayv1.IPAddressType, address.IP
		if value == "" {
			kind, value = gatewayv1.HostnameAddressType, address.Hostname
		}
		s.Addresses = append(s.Addresses, gatewayv1.GatewayStatusAddress{Type: &kind, Value: value})
	}
	generation := g.object.Generation
	var invalid []string
	for _, l := range g.listeners {
		one := gatewayv1.ListenerStatus{Name: l.spec.Name, SupportedKinds: l.kinds, AttachedRoutes: l.attached}
		for _, before := range g.object.Status.Listeners {
			if before.Name == l.spec.Name {
				one.Conditions = slices.Clone(before.Conditions)
			}
		}
		programmed := condition(gatewayv1.ListenerConditionProgrammed, true, gatewayv1.ListenerReasonProgrammed, "")
		if !l.usable {
			programmed = condition(gatewayv1.ListenerConditionProgrammed, false, gatewayv1.ListenerReasonInvalid, "see the other conditions")
			invalid = append(invalid, string(l.spec.Name))
		}
		setConditions(&one.Conditions, generation, l.accepted, l.resolved, programmed,
			condition(gatewayv1.ListenerConditionConflicted, false, gatewayv1.ListenerReasonNoConflicts, ""))
		s.Listeners = append(s.Listeners, one)
	}
	accepted := condition(gatewayv1.GatewayConditionAccepted, true, gatewayv1.GatewayReasonAccepted, "")
	programmed := condition(gatewayv1.GatewayConditionProgrammed, true, gatewayv1.GatewayReasonProgrammed, "")
	switch {
	case len(g.object.Spec.Addresses) > 0:
		accepted = condition(gatewayv1.GatewayConditionAccepted, false, gatewayv1.GatewayReasonUnsupportedAddress,
			"all Gateways have the addresses of the ingress: leave spec.addresses out")
		programmed = condition(gatewayv1.GatewayConditionProgrammed, false, gatewayv1.GatewayReasonInvalid, accepted.Message)
	case len(invalid) > 0:
		accepted = condition(gatewayv1.GatewayConditionAccepted, len(invalid) < len(g.listeners), gatewayv1.GatewayReasonListenersNotValid,
			fmt.Sprintf("not served: %s", strings.Join(invalid, ", ")))
		if len(invalid) == len(g.listeners) {
			programmed = condition(gatewayv1.GatewayConditionProgrammed, false, gatewayv1.GatewayReasonInvalid, "no listener is served")
		}
	case len(addresses) == 0:
		programmed = condition(gatewayv1.GatewayConditionProgrammed, false, gatewayv1.GatewayReasonAddressNotAssigned,
			"the Service of the ingress has no address from outside")
	}
	setConditions(&s.Conditions, generation, accepted, programmed)
	return s
}

// status is what an HTTPRoute's parents are to be: ours, and those of others as
// they are.
func (s *routeState) status() []gatewayv1.RouteParentStatus {
	parents := []gatewayv1.RouteParentStatus{}
	for _, before := range s.object.Status.Parents {
		if !ownParent(before) {
			parents = append(parents, before)
		}
	}
	for _, parent := range s.parents {
		one := gatewayv1.RouteParentStatus{ParentRef: parent.ref, ControllerName: ControllerName}
		for _, before := range s.object.Status.Parents {
			if ownParent(before) && equality.Semantic.DeepEqual(before.ParentRef, parent.ref) {
				one.Conditions = slices.DeleteFunc(slices.Clone(before.Conditions), func(c metav1.Condition) bool {
					return !slices.ContainsFunc(parent.conditions, func(own metav1.Condition) bool { return own.Type == c.Type })
				})
			}
		}
		setConditions(&one.Conditions, s.object.Generation, parent.conditions...)
		parents = append(parents, one)
	}
	return parents
}
