package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/kedge-k8s/kedge/pkg/component"
)

const (
	// workers is how many releases are worked on at once. Most of their time goes
	// into waiting for hooks.
	workers = 5

	firstRetry, lastRetry = 5 * time.Second, 5 * time.Minute

	// hookAttempts is how often a chart's hooks may keep it from being uninstalled.
	hookAttempts = 3
)

// Config says what a Controller works with.
type Config struct {
	Kubeconfig string
	// StaticDir is the directory of files that k3s serves below /static/, and that
	// charts may be taken from by that URL.
	StaticDir string
	Log       *slog.Logger
}

// Controller installs, upgrades and uninstalls charts, as a component.
type Controller struct {
	config Config
	run    component.Runner

	rest     *rest.Config
	dynamic  dynamic.Interface
	metadata metadata.Interface
	client   kubernetes.Interface
	resolver resolver
	recorder record.EventRecorder
	queue    workqueue.TypedRateLimitingInterface[types.NamespacedName]
	known    cache.Store // HelmCharts, as far as owner needs them
	watches  *watches
}

// New makes the component.
func New(c Config) *Controller { return &Controller{config: c} }

func (*Controller) Name() string    { return "helm" }
func (*Controller) Needs() []string { return []string{"apiserver"} }

func (c *Controller) Failed() <-chan error           { return c.run.Failed() }
func (c *Controller) Stop(ctx context.Context) error { return c.run.Stop(ctx) }

// Start begins to watch in the background.
func (c *Controller) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.config.Kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1 // the apiserver's own priority and fairness is the limit
	c.rest = config
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return err
	}
	if c.metadata, err = metadata.NewForConfig(config); err != nil {
		return err
	}
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	if c.client, err = kubernetes.NewForConfig(protobuf); err != nil {
		return err
	}
	c.resolver = resolver{client: c.client, staticDir: c.config.StaticDir}
	c.run.Run(func(ctx context.Context) error {
		c.work(ctx)
		return nil
	})
	return nil
}

// work looks after HelmCharts until ctx ends.
func (c *Controller) work(ctx context.Context) {
	if !c.defineKinds(ctx) {
		return
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.client.CoreV1().Events("")})
	c.recorder = events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kedge-helm"})

	c.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](firstRetry, lastRetry))
	var running sync.WaitGroup
	defer running.Wait()
	defer c.queue.ShutDown()
	c.watches = newWatches(ctx, c.metadata, c.queue.Add, &running)

	var synced []cache.InformerSynced
	for _, resource := range []schema.GroupVersionResource{chartsResource, configsResource} {
		informer := dynamicinformer.NewFilteredDynamicInformer(c.dynamic, resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
		if resource == chartsResource {
			c.known = informer.GetStore()
		}
		// Neither fails before the informer has started.
		_ = informer.SetTransform(strip)
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: c.enqueue,
			UpdateFunc: func(before, after any) {
				if changed(before, after) {
					c.enqueue(after)
				}
			},
			DeleteFunc: func(object any) {
				c.enqueue(object)
				c.enqueueNamesakes(object)
			},
		})
		running.Go(func() { informer.RunWithContext(ctx) })
		synced = append(synced, informer.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return
	}
	for range workers {
		running.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	<-ctx.Done()
}

func (c *Controller) enqueue(object any) {
	if key, err := cache.DeletionHandlingObjectToName(object); err == nil {
		c.queue.Add(types.NamespacedName{Namespace: key.Namespace, Name: key.Name})
	}
}

// enqueueNamesakes looks at those who may have wanted the same release.
func (c *Controller) enqueueNamesakes(object any) {
	key, err := cache.DeletionHandlingObjectToName(object)
	if err != nil {
		return
	}
	for _, other := range c.known.List() {
		if u, ok := other.(*unstructured.Unstructured); ok && u.GetName() == key.Name {
			c.enqueue(u)
		}
	}
}

// strip keeps of a HelmChart what changed and owner look at. Charts and values
// may be megabytes.
func strip(object any) (any, error) {
	full, ok := object.(*unstructured.Unstructured)
	if !ok {
		return object, nil
	}
	slim := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": full.GetAPIVersion(),
		"kind":       full.GetKind(),
		"metadata":   full.Object["metadata"],
	}}
	slim.SetManagedFields(nil)
	annotations := slim.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	slim.SetAnnotations(annotations)
	if namespace, ok, _ := unstructured.NestedString(full.Object, "spec", "targetNamespace"); ok {
		slim.Object["spec"] = map[string]any{"targetNamespace": namespace}
	}
	return slim, nil
}

func changed(before, after any) bool {
	a, ok := before.(*unstructured.Unstructured)
	b, ok2 := after.(*unstructured.Unstructured)
	return !ok || !ok2 ||
		a.GetUID() != b.GetUID() ||
		a.GetGeneration() != b.GetGeneration() ||
		a.GetDeletionTimestamp().IsZero() != b.GetDeletionTimestamp().IsZero() ||
		a.GetAnnotations()[unmanagedAnnotation] != b.GetAnnotations()[unmanagedAnnotation] ||
		managed(a.GetAnnotations()) != managed(b.GetAnnotations())
}

// next takes one HelmChart from the queue. It returns false at the end.
func (c *Controller) next(ctx context.Context) bool {
	key, shutdown := c.queue.Get()
	if shutdown || ctx.Err() != nil {
		return false
	}
	defer c.queue.Done(key)
	err := c.reconcile(ctx, key)
	var later *laterError
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil:
		c.queue.Forget(key)
	case apierrors.IsConflict(err):
		c.queue.AddAfter(key, time.Second)
	case errors.As(err, &later):
		c.queue.AddAfter(key, later.after)
	default:
		c.config.Log.Warn("this fails and is tried again", "component", c.Name(), "helmchart", key.String(), "err", err)
		c.queue.AddRateLimited(key)
	}
	return true
}

// laterError asks for another look when the time has come.
type laterError struct{ after time.Duration }

func (e *laterError) Error() string { return fmt.Sprintf("look again in %s", e.after) }

// failure is an error for the person whose HelmChart it is.
type failure struct {
	reason string // CamelCase
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &failure{reason, err}
}

// reconcile makes the release of one HelmChart what it is to be.
func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	h := &Chart{}
	err := c.get(ctx, chartsResource, key, h)
	if apierrors.IsNotFound(err) {
		c.watches.set(key, nil)
		return nil
	}
	if err != nil {
		return err
	}
	status, err := json.Marshal(h.Status)
	if err != nil {
		return err
	}
	t := &task{Controller: c, chart: h, key: key, written: string(status)}
	if !managed(h.Annotations) {
		c.watches.set(key, nil)
		return t.release(ctx)
	}
	err = t.run(ctx)
	var f *failure
	if errors.As(err, &f) && ctx.Err() == nil {
		t.reportFailure(ctx, f)
	}
	return err
}

// get reads an object.
func (c *Controller) get(ctx context.Context, resource schema.GroupVersionResource, key types.NamespacedName, into any) error {
	object, err := c.dynamic.Resource(resource).Namespace(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	data, err := object.MarshalJSON()
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// owner returns the HelmChart that a release belongs to when several ask for it:
// the oldest.
func (c *Controller) owner(r types.NamespacedName) types.NamespacedName {
	var candidates []*unstructured.Unstructured
	for _, object := range c.known.List() {
		u, ok := object.(*unstructured.Unstructured)
		if !ok || u.GetName() != r.Name || !managed(u.GetAnnotations()) {
			continue
		}
		namespace, ok, _ := unstructured.NestedString(u.Object, "spec", "targetNamespace")
		if !ok || namespace == "" {
			namespace = u.GetNamespace()
		}
		if namespace == r.Namespace {
			candidates = append(candidates, u)
		}
	}
	if len(candidates) == 0 {
		return types.NamespacedName{}
	}
	oldest := slices.MinFunc(candidates, func(a, b *unstructured.Unstructured) int {
		first, second := a.GetCreationTimestamp(), b.GetCreationTimestamp()
		if n := first.Compare(second.Time); n != 0 {
			return n
		}
		return strings.Compare(a.GetNamespace(), b.GetNamespace())
	})
	return types.NamespacedName{Namespace: oldest.GetNamespace(), Name: oldest.GetName()}
}
