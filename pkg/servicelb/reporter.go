package servicelb

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// lookAgain is how often a node looks which of the wanted ports are used by now:
// the kernel doesn't say when a program begins to listen. As long as no Service
// wants a port it doesn't look.
const lookAgain = time.Minute

// Machine is what a Reporter asks.
type Machine interface {
	// Used are the ports among those wanted that programs of the machine listen on
	// at one of the addresses, with their names, as far as they are known.
	Used(wanted []Port, at []netip.Addr) map[Port]string
	// Addresses are all of the machine.
	Addresses() ([]netip.Addr, error)
}

// Reporter says of one node which ports that Services want are free on it.
type Reporter struct {
	Client  kubernetes.Interface
	Node    string
	Machine Machine
	// External are the node's configured external addresses: its object may not
	// have them yet.
	External []netip.Addr
	Log      *slog.Logger
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(r.Client, 0,
		informers.WithTransform(strip),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = "spec.type=" + string(corev1.ServiceTypeLoadBalancer)
		}))
	services := factory.Core().V1().Services().Informer()
	changed := make(chan struct{}, 1)
	signal := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { signal() },
		UpdateFunc: func(any, any) { signal() },
		DeleteFunc: func(any) { signal() },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !synced(ctx, factory) {
		return nil
	}
	retry := firstRetry
	for {
		wanted := wantedPorts(objects[*corev1.Service](services))
		var again <-chan time.Time
		if err := r.report(ctx, wanted); ctx.Err() != nil {
			return nil
		} else if err != nil {
			r.Log.Debug("the node can't say yet which ports are free", "component", "service-ports", "err", err)
			again, retry = time.After(retry), min(2*retry, lastRetry)
		} else {
			retry = firstRetry
			if len(wanted) > 0 {
				again = time.After(lookAgain)
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// wantedPorts are the ports of all Services that ask for addresses, sorted.
func wantedPorts(services []*corev1.Service) []Port {
	var ports []Port
	for _, s := range services {
		if asks(s) {
			ports = append(ports, portsOf(s)...)
		}
	}
	slices.SortFunc(ports, Port.compare)
	return slices.Compact(ports)
}

// report annotates the node, unless it says the same already.
func (r *Reporter) report(ctx context.Context, wanted []Port) error {
	node, err := r.Client.CoreV1().Nodes().Get(ctx, r.Node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	text := ""
	if len(wanted) > 0 {
		if text, err = r.look(node, wanted); err != nil {
			return err
		}
	}
	if text == node.Annotations[ReportAnnotation] {
		return nil
	}
	value := &text
	if text == "" {
		value = nil // which removes the annotation
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{ReportAnnotation: value}}})
	if err != nil {
		return err
	}
	if _, err := r.Client.CoreV1().Nodes().Patch(ctx, r.Node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("annotate node %s: %w", r.Node, err)
	}
	return nil
}

// look is the report as text.
func (r *Reporter) look(node *corev1.Node, wanted []Port) (string, error) {
	machine, err := r.Machine.Addresses()
	if err != nil {
		return "", err
	}
	at := slices.Clone(r.External)
	for _, a := range node.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue
		}
		switch a.Type {
		case corev1.NodeInternalIP, corev1.NodeExternalIP:
			at = append(at, ip)
		}
	}
	report := Report{Used: r.Machine.Used(wanted, at)}
	for _, p := range wanted {
		if _, used := report.Used[p]; !used {
			report.Free = append(report.Free, p)
		}
	}
	slices.SortFunc(at, netip.Addr.Compare)
	for _, a := range slices.Compact(at) {
		if !slices.Contains(machine, a) {
			report.Elsewhere = append(report.Elsewhere, a)
		}
	}
	text, err := json.Marshal(report)
	return string(text), err
}
