package servicelb

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
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

	changed chan struct{}
	pods    informers.SharedInformerFactory // of this node; nil as long as no Service wants a port
}

func (r *Reporter) signal() {
	select {
	case r.changed <- struct{}{}:
	default: // one is waiting already
	}
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(r.Client, 0,
		informers.WithTransform(strip),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = "spec.type=" + string(corev1.ServiceTypeLoadBalancer)
		}))
	services := factory.Core().V1().Services().Informer()
	r.changed = make(chan struct{}, 1)
	if err := follow(services, r.signal, portsChanged); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer func() {
		if r.pods != nil {
			r.pods.Shutdown()
		}
	}()
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
		case <-r.changed:
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

// portsChanged leaves out what doesn't change what a Service wants.
func portsChanged(old, now any) bool {
	a, okA := old.(*corev1.Service)
	b, okB := now.(*corev1.Service)
	return !okA || !okB || !slices.Equal(wantedPorts([]*corev1.Service{a}), wantedPorts([]*corev1.Service{b}))
}

// followPods watches the node's pods, from the first time that they are needed on.
func (r *Reporter) followPods(ctx context.Context) error {
	if r.pods == nil {
		r.pods = informers.NewSharedInformerFactoryWithOptions(r.Client, 0,
			informers.WithTransform(strip),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.FieldSelector = "spec.nodeName=" + r.Node + ",status.phase!=Succeeded,status.phase!=Failed"
			}))
		informer := r.pods.Core().V1().Pods().Informer()
		if err := follow(informer, r.signal, func(any, any) bool { return false }); err != nil {
			return err
		}
		r.pods.Start(ctx.Done())
	}
	synced(ctx, r.pods)
	return nil
}

// hostPorts are the ports that pods have of their node at one of the addresses.
// Nobody listens on them: the CNI plugin portmap directs them to the pods.
func hostPorts(pods []*corev1.Pod, at []netip.Addr) map[Port]string {
	ports := map[Port]string{}
	for _, pod := range pods {
		for _, c := range pod.Spec.Containers {
			for _, p := range c.Ports {
				ip, err := netip.ParseAddr(p.HostIP)
				everywhere := err != nil || ip.IsUnspecified()
				if p.HostPort != 0 && (everywhere || slices.Contains(at, ip)) {
					ports[Port{uint16(p.HostPort), cmp.Or(p.Protocol, corev1.ProtocolTCP)}] = "pod " + pod.Namespace + "/" + pod.Name
				}
			}
		}
	}
	return ports
}

// report annotates the node, unless it says the same already.
func (r *Reporter) report(ctx context.Context, wanted []Port) error {
	node, err := r.Client.CoreV1().Nodes().Get(ctx, r.Node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	text := ""
	if len(wanted) > 0 {
		if err := r.followPods(ctx); err != nil || ctx.Err() != nil {
			return err
		}
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
	report := Report{Used: hostPorts(objects[*corev1.Pod](r.pods.Core().V1().Pods().Informer()), at)}
	maps.DeleteFunc(report.Used, func(p Port, _ string) bool { return !slices.Contains(wanted, p) })
	maps.Copy(report.Used, r.Machine.Used(wanted, at))
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
