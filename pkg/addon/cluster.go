package addon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// fieldManager owns the fields that Kedge applies (server-side apply).
	fieldManager = "kedge"
	// ownerAnnotation names the Addon that has put an object into the cluster.
	ownerAnnotation = "kedge.io/addon"
	// pruneAnnotation with the value false, also as a label, keeps an object.
	pruneAnnotation = "kedge.io/prune"

	// requestLimit is longer than webhooks may take.
	requestLimit = 40 * time.Second
)

var (
	errUnknownKind = errors.New("it is applied as soon as the kind is there")
	errNoNamespace = errors.New("it is applied as soon as the namespace is there")
	errTerminating = errors.New("it is being deleted; it is applied again when it is gone")
)

// client puts objects into the cluster and keeps the Addons there.
type client struct {
	objects dynamic.Interface
	meta    metadata.Interface
	events  typedcorev1.EventsGetter
	kinds   kinds
}

func connect(kubeconfig string) (*client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // the apiserver's own priority and fairness is the limit
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	discover, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	metas, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	core, err := typedcorev1.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discover))
	return &client{objects: objects, meta: metas, events: core, kinds: kinds{mapper: mapper}}, nil
}

// kinds knows which kinds the cluster has. What it has learned is kept while there
// is something to do.
type kinds struct {
	mapper *restmapper.DeferredDiscoveryRESTMapper
	mu     sync.Mutex
	asked  time.Time // when the mapper was reset the last time
}

// again is how old what is known must be to be asked for again.
const again = 200 * time.Millisecond

func (k *kinds) find(ref Ref) (*meta.RESTMapping, error) {
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	mapping, err := k.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) && k.reset(again) {
		mapping, err = k.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if meta.IsNoMatchError(err) {
		err = fmt.Errorf("%w; %w", err, errUnknownKind)
	}
	return mapping, err
}

// reset forgets what is known if it is older than that.
func (k *kinds) reset(age time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.asked) < age {
		return false
	}
	k.mapper.Reset()
	k.asked = time.Now()
	return true
}

// rest frees the memory that only work needs.
func (c *client) rest() { c.kinds.reset(0) }

// apply puts an object into the cluster. It returns the reference with the
// namespace that it is in.
func (c *client) apply(ctx context.Context, addon string, object *unstructured.Unstructured) (Ref, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	mapping, err := c.kinds.find(refOf(object))
	if err != nil {
		return Ref{}, err
	}
	object = object.DeepCopy()
	annotations := object.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[ownerAnnotation] = addon
	object.SetAnnotations(annotations)
	resource := c.objects.Resource(mapping.Resource)
	options := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	var applied *unstructured.Unstructured
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		if object.GetNamespace() == "" {
			object.SetNamespace(metav1.NamespaceDefault)
		}
		applied, err = resource.Namespace(object.GetNamespace()).Apply(ctx, object.GetName(), object, options)
	} else {
		unstructured.RemoveNestedField(object.Object, "metadata", "namespace")
		applied, err = resource.Apply(ctx, object.GetName(), object, options)
	}
	switch {
	case err == nil && applied.GetDeletionTimestamp() != nil:
		err = errTerminating
	case isNamespaceMissing(err):
		err = fmt.Errorf("%w; %w", err, errNoNamespace)
	case apierrors.IsNotFound(err): // the kind is gone since it was looked up
		c.kinds.reset(again)
		err = fmt.Errorf("%w; %w", err, errUnknownKind)
	case isRefused(err):
		err = refusedError{err}
	}
	return refOf(object), err
}

// refusedError is the API's about an object that it will refuse again.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

func isRefused(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		// The API calls a field that it does not know an error of its own.
		err != nil && strings.Contains(err.Error(), "failed to create typed patch object")
}

func isNamespaceMissing(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	return ok && apierrors.IsNotFound(err) && status.ErrStatus.Details != nil && status.ErrStatus.Details.Kind == "namespaces"
}

// keepNamespaces can't be deleted.
var keepNamespaces = map[string]bool{
	metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true, corev1.NamespaceNodeLease: true,
}

// prune deletes an object, in the background, that an Addon has put into the
// cluster. It leaves alone what is another's by now, and what is to be kept.
func (c *client) prune(ctx context.Context, addon string, ref Ref) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	if ref.groupKind() == namespaceKind && keepNamespaces[ref.Name] {
		return nil
	}
	mapping, err := c.kinds.find(ref)
	if errors.Is(err, errUnknownKind) {
		return nil // with the kind, its objects went
	}
	if err != nil {
		return err
	}
	var resource metadata.ResourceInterface = c.meta.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace := ref.Namespace
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		resource = c.meta.Resource(mapping.Resource).Namespace(namespace)
	}
	object, err := resource.Get(ctx, ref.Name, metav1.GetOptions{})
	if err == nil && mayPrune(object, addon) {
		background := metav1.DeletePropagationBackground
		err = resource.Delete(ctx, ref.Name, metav1.DeleteOptions{
			PropagationPolicy: &background,
			Preconditions:     &metav1.Preconditions{UID: &object.UID, ResourceVersion: &object.ResourceVersion},
		})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// foreign counts the objects of a kind that no Addon has put into the cluster. The
// reference is that of the kind's definition.
func (c *client) foreign(ctx context.Context, crd Ref) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	definition, err := c.objects.Resource(crdResource).Get(ctx, crd.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	versions, _, err := unstructured.NestedSlice(definition.Object, "spec", "versions")
	if err != nil {
		return 0, err
	}
	var served string
	for _, v := range versions {
		if version, ok := v.(map[string]any); ok && version["served"] == true {
			served, _ = version["name"].(string)
		}
	}
	if served == "" {
		return 0, fmt.Errorf("no version of %s is served: its objects, which go with it, can't be looked for", crd.Name)
	}
	group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "plural")
	kind := schema.GroupVersionResource{Group: group, Version: served, Resource: plural}
	count := 0
	for options := (metav1.ListOptions{Limit: 500}); ; {
		list, err := c.meta.Resource(kind).List(ctx, options)
		if err != nil {
			return 0, fmt.Errorf("list %s, which go with their definition: %w", kind.GroupResource(), err)
		}
		for i := range list.Items {
			if list.Items[i].Annotations[ownerAnnotation] == "" {
				count++
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return count, nil
		}
	}
}

func mayPrune(object metav1.Object, addon string) bool {
	return object.GetDeletionTimestamp() == nil &&
		object.GetAnnotations()[ownerAnnotation] == addon &&
		object.GetAnnotations()[pruneAnnotation] != "false" && object.GetLabels()[pruneAnnotation] != "false"
}

// load makes the kind Addon known to the cluster, and returns the Addons there are.
func (c *client) load(ctx context.Context) ([]*Addon, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	definition, err := parse(crd)
	if err != nil {
		return nil, err
	}
	crds := c.objects.Resource(crdResource)
	for _, object := range definition {
		if _, err := crds.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return nil, fmt.Errorf("define the kind Addon: %w", err)
		}
	}
	list, err := c.objects.Resource(addonResource).Namespace(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the Addons: %w", err)
	}
	addons := make([]*Addon, 0, len(list.Items))
	for i := range list.Items {
		a, err := addonOf(&list.Items[i])
		if err != nil {
			return nil, fmt.Errorf("addon %s: %w", list.Items[i].GetName(), err)
		}
		addons = append(addons, a)
	}
	return addons, nil
}

func addonOf(object *unstructured.Unstructured) (*Addon, error) {
	a := &Addon{}
	err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, a)
	a.ManagedFields = nil
	return a, err
}

// save writes an Addon, and returns it as it is now.
func (c *client) save(ctx context.Context, a *Addon) (*Addon, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	bare := a.clone()
	bare.ObjectMeta = metav1.ObjectMeta{Name: a.Name, Namespace: a.Namespace}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(bare)
	if err != nil {
		return nil, err
	}
	saved, err := c.objects.Resource(addonResource).Namespace(a.Namespace).Apply(ctx, a.Name,
		&unstructured.Unstructured{Object: content}, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return nil, fmt.Errorf("write the Addon %s: %w", a.Name, err)
	}
	return addonOf(saved)
}

// forget removes an Addon.
func (c *client) forget(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	err := c.objects.Resource(addonResource).Namespace(metav1.NamespaceSystem).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the Addon %s: %w", name, err)
	}
	return nil
}

// warn makes an event of what is wrong with an Addon.
func (c *client) warn(ctx context.Context, a *Addon) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	now := metav1.Now()
	ready := a.ready()
	_, err := c.events.Events(a.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", a.Name, now.UnixNano()), Namespace: a.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: a.APIVersion, Kind: a.Kind, Namespace: a.Namespace, Name: a.Name, UID: a.UID,
		},
		Type: corev1.EventTypeWarning, Reason: ready.Reason, Message: a.Spec.Source + ": " + ready.Message,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source: corev1.EventSource{Component: "kedge"}, ReportingController: "kedge.io/manifests",
	}, metav1.CreateOptions{})
	return err
}

var crdResource = schema.GroupVersionResource{Group: crdKind.Group, Version: "v1", Resource: "customresourcedefinitions"}

// watchKinds calls changed after each change of a CustomResourceDefinition, until
// ctx ends.
func (c *client) watchKinds(ctx context.Context, changed func()) {
	for ctx.Err() == nil {
		if err := c.watchKindsOnce(ctx, changed); err != nil || ctx.Err() == nil {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
}

func (c *client) watchKindsOnce(ctx context.Context, changed func()) error {
	crds := c.meta.Resource(crdResource)
	list, err := crds.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	watch, err := crds.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer watch.Stop()
	changed() // between the two
	for range watch.ResultChan() {
		changed()
	}
	return nil
}
