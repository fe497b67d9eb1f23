package ingress

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	gateway "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"
	gatewayinformers "sigs.k8s.io/gateway-api/pkg/client/informers/externalversions"
)

// settle is how long further changes are waited for before routes are made anew.
const settle = 10 * time.Millisecond

// clients are those of the Kubernetes API.
type clients struct {
	kubernetes kubernetes.Interface
	gateway    gateway.Interface
	metadata   metadata.Interface
}

// identity says which pod of which Service we are.
type identity struct {
	namespace, service, podIP string
}

// controller keeps what is live as the cluster's objects say.
type controller struct {
	clients clients
	self    identity
	live    *live
	acme    *acmeClient
	storage *secretStorage
	pools   *pools
	parsed  parsed
	report  *reporter

	kick chan struct{} // something has changed

	core       informers.SharedInformerFactory
	tlsSecrets informers.SharedInformerFactory
	own        cache.SharedIndexInformer // the ConfigMap with settings
	stored     cache.SharedIndexInformer // the Secret with ACME's files
	endpoints  cache.SharedIndexInformer
	crds       cache.SharedIndexInformer

	gatewayOnce sync.Once
	gatewayAPI  atomic.Pointer[gatewayinformers.SharedInformerFactory] // set when it is there

	watched map[objectName]*watchedSecret // those with passwords

	known map[owner]bool // of the routes before, for the metrics
	ready atomic.Bool
}

// watchedSecret is a Secret that is watched by itself.
type watchedSecret struct {
	informer cache.SharedIndexInformer
	first    *corev1.Secret // until the informer knows better
	cancel   context.CancelFunc
	used     bool
}

const byService = "service"

func newController(c clients, self identity, l *live, httpPort int) *controller {
	k := &controller{
		clients: c, self: self, live: l, kick: make(chan struct{}, 1),
		storage: &secretStorage{secrets: c.kubernetes.CoreV1().Secrets(self.namespace)},
		watched: make(map[objectName]*watchedSecret),
		known:   make(map[owner]bool),
	}
	k.storage.copied = k.storedSecret
	k.report = newReporter(c, self, k.changed)
	k.acme = &acmeClient{storage: k.storage, httpPort: httpPort, failed: k.report.acmeFailed}
	answer := k.acme.answer
	l.challenge.Store(&answer)
	k.pools = &pools{slices: k.slicesOf}

	k.core = informers.NewSharedInformerFactoryWithOptions(c.kubernetes, 0, informers.WithTransform(trim))
	k.tlsSecrets = informers.NewSharedInformerFactoryWithOptions(c.kubernetes, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(only("type", string(corev1.SecretTypeTLS))))
	k.endpoints = k.core.Discovery().V1().EndpointSlices().Informer()
	// Indexers can be added until the informer runs.
	_ = k.endpoints.AddIndexers(cache.Indexers{byService: func(object any) ([]string, error) {
		slice := object.(*discoveryv1.EndpointSlice)
		return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
	}})
	namespaced := func(name string) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(c.kubernetes, 0, informers.WithNamespace(self.namespace),
			informers.WithTweakListOptions(only(metav1.ObjectNameField, name)))
	}
	k.own = namespaced(settingsName).Core().V1().ConfigMaps().Informer()
	k.stored = namespaced(acmeSecret).Core().V1().Secrets().Informer()
	k.crds = metadatainformer.NewFilteredMetadataInformer(c.metadata,
		schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
		"", 0, cache.Indexers{}, only(metav1.ObjectNameField, "httproutes.gateway.networking.k8s.io")).Informer()
	return k
}

func only(field, value string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) { o.FieldSelector = fields.OneTermEqualSelector(field, value).String() }
}

// trim leaves out what is never read, before it is kept in memory.
func trim(object any) (any, error) {
	if o, ok := object.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	switch o := object.(type) {
	case *discoveryv1.EndpointSlice:
		o.Labels = map[string]string{discoveryv1.LabelServiceName: o.Labels[discoveryv1.LabelServiceName]}
		o.Annotations = nil
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			*e = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions}
		}
	case *corev1.Secret:
		o.Annotations, o.Labels = nil, nil
		o.Data = map[string][]byte{
			corev1.TLSCertKey:       o.Data[corev1.TLSCertKey],
			corev1.TLSPrivateKeyKey: o.Data[corev1.TLSPrivateKeyKey],
		}
	case *corev1.Service:
		kept := make(map[string]string)
		for key, value := range o.Annotations {
			if strings.HasPrefix(key, traefikPrefix) {
				kept[key] = value
			}
		}
		o.Annotations, o.Labels, o.Spec.Selector = kept, nil, nil
	}
	return object, nil
}

// run follows the cluster until ctx ends.
func (k *controller) run(ctx context.Context) error {
	changed := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { k.changed() },
		DeleteFunc: func(any) { k.changed() },
		UpdateFunc: func(before, after any) {
			if differs(before, after) {
				k.changed()
			}
		},
	}
	watched := []cache.SharedIndexInformer{
		k.core.Networking().V1().Ingresses().Informer(),
		k.core.Networking().V1().IngressClasses().Informer(),
		k.core.Core().V1().Services().Informer(),
		k.tlsSecrets.Core().V1().Secrets().Informer(),
		k.own, k.stored,
	}
	var synced []cache.InformerSynced
	for _, informer := range watched {
		registration, err := informer.AddEventHandler(changed)
		if err != nil {
			return fmt.Errorf("watch the cluster: %w", err)
		}
		synced = append(synced, registration.HasSynced)
	}
	registration, err := k.endpoints.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.endpointsChanged(o) },
		UpdateFunc: func(_, o any) { k.endpointsChanged(o) },
		DeleteFunc: func(o any) { k.endpointsChanged(o) },
	})
	if err != nil {
		return fmt.Errorf("watch the cluster: %w", err)
	}
	synced = append(synced, registration.HasSynced)
	if _, err := k.crds.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { k.startGatewayAPI(ctx, changed) },
	}); err != nil {
		return fmt.Errorf("watch the cluster: %w", err)
	}

	var wait sync.WaitGroup
	defer wait.Wait()
	k.core.Start(ctx.Done())
	k.tlsSecrets.Start(ctx.Done())
	for _, informer := range []cache.SharedIndexInformer{k.own, k.stored, k.crds} {
		wait.Go(func() { informer.RunWithContext(ctx) })
	}
	defer k.core.Shutdown()
	defer k.tlsSecrets.Shutdown()
	wait.Go(func() { k.report.run(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	for {
		k.rebuild(ctx)
		k.ready.Store(true)
		select {
		case <-k.kick:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return nil
		}
		select { // what came while waiting is in
		case <-k.kick:
		default:
		}
	}
}

func (k *controller) changed() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// differs says whether more has changed than an object's status.
func differs(before, after any) bool {
	a, okA := before.(metav1.Object)
	b, okB := after.(metav1.Object)
	return !okA || !okB || a.GetGeneration() == 0 || a.GetGeneration() != b.GetGeneration() ||
		!maps.Equal(a.GetAnnotations(), b.GetAnnotations()) || !maps.Equal(a.GetLabels(), b.GetLabels())
}

// endpointsChanged brings the pools of a Service up to date; routes stay.
func (k *controller) endpointsChanged(object any) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	slice, ok := object.(*discoveryv1.EndpointSlice)
	if !ok {
		return
	}
	service := slice.Labels[discoveryv1.LabelServiceName]
	k.pools.refresh(slice.Namespace, service)
	if slice.Namespace == k.self.namespace && service == k.self.service {
		k.changed() // another pod may be the one that reports
	}
}

func (k *controller) slicesOf(namespace, service string) []*discoveryv1.EndpointSlice {
	objects, _ := k.endpoints.GetIndexer().ByIndex(byService, namespace+"/"+service)
	found := make([]*discoveryv1.EndpointSlice, 0, len(objects))
	for _, object := range objects {
		found = append(found, object.(*discoveryv1.EndpointSlice))
	}
	return found
}

// leads says whether we are the pod that writes statuses and events and asks for
// certificates: of those that are ready the one with the first address. For a moment
// there may be two; they write the same.
func (k *controller) leads() bool {
	if k.self.podIP == "" {
		return true
	}
	v6 := strings.Contains(k.self.podIP, ":")
	var all []string
	for _, slice := range k.slicesOf(k.self.namespace, k.self.service) {
		if (slice.AddressType == discoveryv1.AddressTypeIPv6) != v6 {
			continue // a pod has one of each
		}
		for _, endpoint := range slice.Endpoints {
			if len(endpoint.Addresses) > 0 && (endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready) {
				all = append(all, endpoint.Addresses[0])
			}
		}
	}
	return len(all) > 0 && slices.Min(all) == k.self.podIP
}

// startGatewayAPI follows the objects of Gateway API from when its definitions are
// in the cluster.
func (k *controller) startGatewayAPI(ctx context.Context, changed cache.ResourceEventHandler) {
	k.gatewayOnce.Do(func() {
		factory := gatewayinformers.NewSharedInformerFactoryWithOptions(k.clients.gateway, 0, gatewayinformers.WithTransform(trim))
		informers := []cache.SharedIndexInformer{
			factory.Gateway().V1().GatewayClasses().Informer(),
			factory.Gateway().V1().Gateways().Informer(),
			factory.Gateway().V1().HTTPRoutes().Informer(),
			factory.Gateway().V1beta1().ReferenceGrants().Informer(),
			k.core.Core().V1().Namespaces().Informer(),
		}
		var synced []cache.InformerSynced
		for _, informer := range informers {
			registration, err := informer.AddEventHandler(changed)
			if err != nil {
				slog.Error("Gateway API is not served", "err", err)
				return
			}
			synced = append(synced, registration.HasSynced)
		}
		factory.Start(ctx.Done())
		k.core.Start(ctx.Done())
		go func() { // ends with ctx
			if cache.WaitForCacheSync(ctx.Done(), synced...) {
				k.gatewayAPI.Store(&factory)
				k.changed()
			}
		}()
	})
}

// rebuild makes everything anew and puts it in place.
func (k *controller) rebuild(ctx context.Context) {
	start := time.Now()
	settings, problems := readSettings(k.settingsMap())
	if err := k.acme.configure(settings.acme); err != nil {
		settings.acme.server = ""
		problems = append(problems, err.Error())
	}
	stored := storedFiles(k.storedSecret())
	for _, w := range k.watched {
		w.used = false
	}
	view := &view{controller: k, ctx: ctx}
	b := newBuild(view, k.pools, &k.parsed, func(name string) *tls.Certificate {
		pair, err := k.acme.certificate(stored, name)
		if err != nil {
			slog.Warn("a certificate can't be used", "err", err)
		}
		return pair
	}, settings)
	fallback := k.live.certificates.Load().fallback
	if settings.certificate.name != "" {
		switch pair, err := b.parsed.pair(view.tlsSecret(settings.certificate)); {
		case err != nil:
			problems = append(problems, fmt.Sprintf("default-certificate: the Secret %s has no usable certificate: %v", settings.certificate, err))
		case pair == nil:
			problems = append(problems, fmt.Sprintf("default-certificate: the Secret %s of type kubernetes.io/tls is not there", settings.certificate))
		default:
			if b.certificates[""] == nil {
				b.certificates[""] = pair
			}
		}
	}
	for name, w := range k.watched {
		if !w.used {
			w.cancel()
			delete(k.watched, name)
		}
	}

	k.live.settings.Store(settings)
	k.live.certificates.Store(&certificates{byName: b.certificates, fallback: fallback})
	k.live.table.Store(newTable(b.routes))
	k.live.metrics.rebuild.Observe(time.Since(start).Seconds())
	k.live.metrics.routes.Set(float64(len(b.routes)))
	k.forget(b.routes)

	leads := k.leads()
	k.acme.manage(ctx, sortedKeys(b.acmeNames), leads)
	if leads {
		k.acme.clean(ctx, stored)
	}
	k.report.set(&findings{
		leads: leads, ingresses: b.reports, gateway: b.gateway, acmeNames: b.acmeNames, acmeServer: settings.acme.server,
		settings: k.settingsMap(), settingsProblems: problems, addresses: k.addresses(),
	})
}

// forget drops the metrics of objects that have no routes any more.
func (k *controller) forget(routes []*route) {
	now := make(map[owner]bool, len(k.known))
	for _, r := range routes {
		now[r.owner] = true
	}
	for from := range k.known {
		if !now[from] {
			k.live.metrics.forget(from)
		}
	}
	k.known = now
}

func (k *controller) settingsMap() *corev1.ConfigMap {
	object, _, _ := k.own.GetStore().GetByKey(k.self.namespace + "/" + settingsName)
	found, _ := object.(*corev1.ConfigMap)
	return found
}

func (k *controller) storedSecret() *corev1.Secret {
	object, _, _ := k.stored.GetStore().GetByKey(k.self.namespace + "/" + acmeSecret)
	found, _ := object.(*corev1.Secret)
	return found
}

// addresses are those at which our Service is reached from outside.
func (k *controller) addresses() []corev1.LoadBalancerIngress {
	service, err := k.core.Core().V1().Services().Lister().Services(k.self.namespace).Get(k.self.service)
	if err != nil {
		return nil
	}
	return service.Status.LoadBalancer.Ingress
}

// view is the cluster as the informers know it.
type view struct {
	*controller
	ctx context.Context // of one rebuild
}

func (v *view) ingresses() []*networkingv1.Ingress {
	list, _ := v.core.Networking().V1().Ingresses().Lister().List(labels.Everything())
	return list
}

func (v *view) ingressClass(name string) *networkingv1.IngressClass {
	class, err := v.core.Networking().V1().IngressClasses().Lister().Get(name)
	if err != nil {
		return nil
	}
	return class
}

func (v *view) defaultClass() bool {
	classes, _ := v.core.Networking().V1().IngressClasses().Lister().List(labels.Everything())
	return slices.ContainsFunc(classes, func(c *networkingv1.IngressClass) bool {
		return c.Spec.Controller == ControllerName && c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	})
}

func (v *view) service(namespace, name string) *corev1.Service {
	service, err := v.core.Core().V1().Services().Lister().Services(namespace).Get(name)
	if err != nil {
		return nil
	}
	return service
}

func (v *view) tlsSecret(name objectName) *corev1.Secret {
	secret, err := v.tlsSecrets.Core().V1().Secrets().Lister().Secrets(name.namespace).Get(name.name)
	if err != nil {
		return nil
	}
	return secret
}

// secret gives a Secret with passwords. From the first time it is asked for, it is
// watched.
func (v *view) secret(name objectName) *corev1.Secret {
	found := v.watched[name]
	if found == nil {
		ctx, cancel := context.WithCancel(v.ctx)
		factory := informers.NewSharedInformerFactoryWithOptions(v.clients.kubernetes, 0, informers.WithNamespace(name.namespace),
			informers.WithTweakListOptions(only(metav1.ObjectNameField, name.name)))
		found = &watchedSecret{informer: factory.Core().V1().Secrets().Informer(), first: v.listSecret(name), cancel: cancel}
		v.watched[name] = found
		_, _ = found.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { v.changed() },
			UpdateFunc: func(any, any) { v.changed() },
			DeleteFunc: func(any) { v.changed() },
		})
		go found.informer.RunWithContext(ctx) // until no Ingress names it
	}
	found.used = true
	if !found.informer.HasSynced() {
		return found.first
	}
	object, _, _ := found.informer.GetStore().GetByKey(name.String())
	secret, _ := object.(*corev1.Secret)
	return secret
}

// listSecret asks the API for a Secret, and not for long.
func (v *view) listSecret(name objectName) *corev1.Secret {
	ctx, cancel := context.WithTimeout(v.ctx, 2*time.Second)
	defer cancel()
	options := metav1.ListOptions{}
	only(metav1.ObjectNameField, name.name)(&options)
	list, err := v.clients.kubernetes.CoreV1().Secrets(name.namespace).List(ctx, options)
	if err != nil || len(list.Items) == 0 {
		return nil // the informer goes on
	}
	return &list.Items[0]
}

func (v *view) gateways() *gatewayObjects {
	pointer := v.gatewayAPI.Load()
	if pointer == nil {
		return nil
	}
	factory := *pointer
	o := &gatewayObjects{namespaces: func(name string) map[string]string {
		namespace, err := v.core.Core().V1().Namespaces().Lister().Get(name)
		if err != nil {
			return nil
		}
		return namespace.Labels
	}}
	o.classes, _ = factory.Gateway().V1().GatewayClasses().Lister().List(labels.Everything())
	o.gateways, _ = factory.Gateway().V1().Gateways().Lister().List(labels.Everything())
	o.routes, _ = factory.Gateway().V1().HTTPRoutes().Lister().List(labels.Everything())
	o.grants, _ = factory.Gateway().V1beta1().ReferenceGrants().Lister().List(labels.Everything())
	return o
}

var _ cluster = (*view)(nil)
