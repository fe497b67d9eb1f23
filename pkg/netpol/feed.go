package netpol

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// feed takes what a reflector reports to where it is needed, instead of
// keeping the objects as an informer does.
type feed[T metav1.Object] struct {
	lock   sync.Locker // held while the functions below are called
	set    func(T)
	remove func(key)
	keys   func() []key // all that were set and not removed
	strip  func(T)      // takes out what is not needed
	order  func(a, b T) int
	done   func() // called without the lock after each change

	synced bool
}

var _ cache.TransformingStore = &feed[*corev1.Pod]{}

func (f *feed[T]) Add(obj any) error    { return f.change(obj, f.set) }
func (f *feed[T]) Update(obj any) error { return f.change(obj, f.set) }
func (f *feed[T]) Delete(obj any) error {
	return f.change(obj, func(o T) { f.remove(keyOf(o)) })
}

func (f *feed[T]) change(obj any, apply func(T)) error {
	o, ok := obj.(T)
	if !ok {
		return fmt.Errorf("watch of %T: %T", o, obj)
	}
	f.lock.Lock()
	apply(o)
	f.lock.Unlock()
	f.done()
	return nil
}

// Replace makes the state that of a list. What is not in it goes last: an
// address that went from a pod to another is never nobody's.
func (f *feed[T]) Replace(list []any, _ string) error {
	objects := make([]T, 0, len(list))
	for _, obj := range list {
		if o, ok := obj.(T); ok {
			objects = append(objects, o)
		}
	}
	if f.order != nil {
		slices.SortStableFunc(objects, f.order)
	}
	f.lock.Lock()
	listed := make(map[key]bool, len(objects))
	for _, o := range objects {
		listed[keyOf(o)] = true
		f.set(o)
	}
	for _, k := range f.keys() {
		if !listed[k] {
			f.remove(k)
		}
	}
	f.synced = true
	f.lock.Unlock()
	f.done()
	return nil
}

func (f *feed[T]) Resync() error { return nil }

// Transformer makes the reflector strip objects while it collects a list.
func (f *feed[T]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if o, ok := obj.(T); ok {
			f.strip(o)
		}
		return obj, nil
	}
}

func keyOf(o metav1.Object) key { return key{o.GetNamespace(), o.GetName()} }

// run lists and watches until ctx ends.
func (f *feed[T]) run(ctx context.Context, name string, client kubernetes.Interface, lw *cache.ListWatch) {
	var example T
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), example, f,
		cache.ReflectorOptions{Name: "netpol", TypeDescription: name}).RunWithContext(ctx)
}

// lister is what clients for all kinds of objects have in common.
type lister[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

func listWatch[L runtime.Object](objects lister[L], fieldSelector string) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			opts.FieldSelector = fieldSelector
			return objects.List(ctx, opts)
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.FieldSelector = fieldSelector
			return objects.Watch(ctx, opts)
		},
	}
}

func stripPolicy(np *networkingv1.NetworkPolicy) { np.ManagedFields, np.Annotations = nil, nil }

func stripNamespace(ns *corev1.Namespace) {
	*ns = corev1.Namespace{ObjectMeta: stripMeta(ns.ObjectMeta)}
}

// podFields leaves out pods that policies don't know: those that have ended and
// those that use their node's network.
const podFields = "spec.hostNetwork=false,status.phase!=Succeeded,status.phase!=Failed"

func hasNetwork(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func stripPod(p *corev1.Pod) {
	*p = corev1.Pod{
		ObjectMeta: stripMeta(p.ObjectMeta),
		Spec: corev1.PodSpec{
			NodeName:       p.Spec.NodeName,
			HostNetwork:    p.Spec.HostNetwork,
			Containers:     stripContainers(p.Spec.Containers),
			InitContainers: stripContainers(p.Spec.InitContainers),
		},
		Status: corev1.PodStatus{
			Phase:     p.Status.Phase,
			PodIP:     p.Status.PodIP,
			PodIPs:    p.Status.PodIPs,
			StartTime: p.Status.StartTime,
		},
	}
}

func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:              m.Name,
		Namespace:         m.Namespace,
		UID:               m.UID,
		ResourceVersion:   m.ResourceVersion,
		Labels:            m.Labels,
		DeletionTimestamp: m.DeletionTimestamp,
	}
}

// stripContainers leaves the containers that have named ports.
func stripContainers(containers []corev1.Container) []corev1.Container {
	var left []corev1.Container
	for _, c := range containers {
		named := slices.DeleteFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == "" })
		if len(named) > 0 {
			left = append(left, corev1.Container{Ports: named, RestartPolicy: c.RestartPolicy})
		}
	}
	return left
}

// podOf takes from a pod what policies need.
func podOf(p *corev1.Pod, node string) podInfo {
	info := podInfo{
		key:    keyOf(p),
		uid:    p.UID,
		labels: p.Labels,
		local:  p.Spec.NodeName == node,
	}
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			info.addrs = append(info.addrs, addr.Unmap())
		}
	}
	for _, c := range p.Spec.Containers {
		info.addPorts(c.Ports)
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			info.addPorts(c.Ports)
		}
	}
	return info
}

func (info *podInfo) addPorts(ports []corev1.ContainerPort) {
	for _, port := range ports {
		protocol, err := protocolOf(&port.Protocol)
		if port.Name != "" && err == nil {
			info.ports = append(info.ports, containerPort{namedPort{protocol, port.Name}, port.ContainerPort})
		}
	}
}

// byStart puts pods in the order in which they got their addresses, as far as a
// list tells: of two with the same address the one that is ending had it first.
func byStart(a, b *corev1.Pod) int {
	if endingA, endingB := a.DeletionTimestamp != nil, b.DeletionTimestamp != nil; endingA != endingB {
		if endingA {
			return -1
		}
		return 1
	}
	return cmp.Compare(startOf(a), startOf(b))
}

func startOf(p *corev1.Pod) int64 {
	if p.Status.StartTime == nil {
		return 0
	}
	return p.Status.StartTime.Unix()
}
