package helm

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
)

// watches follows the Secrets and ConfigMaps that HelmCharts refer to, each by a
// watch of its own: few charts refer to any, and the others in the cluster are
// none of Kedge's business.
type watches struct {
	ctx     context.Context
	client  metadata.Interface
	changed func(chart types.NamespacedName)
	running *sync.WaitGroup

	mu     sync.Mutex
	wanted map[types.NamespacedName]references // by HelmChart
	stop   map[reference]context.CancelFunc
}

func newWatches(ctx context.Context, client metadata.Interface, changed func(types.NamespacedName), running *sync.WaitGroup) *watches {
	return &watches{
		ctx: ctx, client: client, changed: changed, running: running,
		wanted: map[types.NamespacedName]references{},
		stop:   map[reference]context.CancelFunc{},
	}
}

// set says what a HelmChart refers to.
func (w *watches) set(chart types.NamespacedName, to references) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(to) == 0 {
		delete(w.wanted, chart)
	} else {
		w.wanted[chart] = to
	}
	for r, stop := range w.stop {
		if !w.isWanted(r) {
			stop()
			delete(w.stop, r)
		}
	}
	for r := range to {
		if w.stop[r] == nil && w.ctx.Err() == nil {
			ctx, cancel := context.WithCancel(w.ctx)
			w.stop[r] = cancel
			w.running.Go(func() { w.watch(ctx, r) })
		}
	}
}

func (w *watches) isWanted(r reference) bool {
	for _, all := range w.wanted {
		if _, ok := all[r]; ok {
			return true
		}
	}
	return false
}

func (w *watches) watch(ctx context.Context, r reference) {
	resource := "configmaps"
	if r.secret {
		resource = "secrets"
	}
	informer := metadatainformer.NewFilteredMetadataInformer(w.client, corev1.SchemeGroupVersion.WithResource(resource), r.Namespace, 0, cache.Indexers{},
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, r.Name).String()
		}).Informer()
	// Does not fail before the informer has started.
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { w.notify(r) },
		UpdateFunc: func(any, any) { w.notify(r) },
		DeleteFunc: func(any) { w.notify(r) },
	})
	informer.RunWithContext(ctx)
}

func (w *watches) notify(r reference) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for chart, all := range w.wanted {
		if _, ok := all[r]; ok {
			w.changed(chart)
		}
	}
}
