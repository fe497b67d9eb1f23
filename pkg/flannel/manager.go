package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

const patchPause = time.Second

// manager is flannel's view of the cluster for one registration of a backend.
type manager struct {
	node   string
	client corev1.NodeInterface
	nodes  *nodes
	conf   *subnet.Config
	self   self
	// external says that the other nodes use this node's external addresses.
	external bool

	wanted map[string]string // annotations of this node
}

var _ subnet.Manager = (*manager)(nil)

var errNotKept = errors.New("not kept by Kubernetes")

func (m *manager) Name() string { return "Kubernetes, node " + m.node }

// GetNetworkConfig is asked by a running wireguard backend.
func (m *manager) GetNetworkConfig(context.Context) (*subnet.Config, error) { return m.conf, nil }

// AcquireLease tells the other nodes how to reach this one, and the backend the
// node's ranges.
func (m *manager) AcquireLease(ctx context.Context, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	all := networks(m.conf)
	l := &lease.Lease{Attrs: *attrs, EnableIPv4: m.conf.EnableIPv4, EnableIPv6: m.conf.EnableIPv6}
	m.wanted = map[string]string{managedAnnotation: "true", typeAnnotation: attrs.BackendType}
	if l.EnableIPv4 {
		if err := checkRange("IPv4", m.self.ranges.v4, all.v4); err != nil {
			return nil, err
		}
		l.Subnet = ip.FromIPNet(ipNet(m.self.ranges.v4))
		data, err := attrs.BackendData.MarshalJSON() // "null" for none
		if err != nil {
			return nil, err
		}
		m.wanted[dataAnnotation.v4] = string(data)
		m.wanted[publicAnnotation.v4] = m.public(m.self.overwrite.v4, m.self.external.v4, attrs.PublicIP.String())
	}
	if l.EnableIPv6 {
		if err := checkRange("IPv6", m.self.ranges.v6, all.v6); err != nil {
			return nil, err
		}
		l.IPv6Subnet = ip.FromIP6Net(ipNet(m.self.ranges.v6))
		data, err := attrs.BackendV6Data.MarshalJSON()
		if err != nil {
			return nil, err
		}
		m.wanted[dataAnnotation.v6] = string(data)
		m.wanted[publicAnnotation.v6] = m.public(m.self.overwrite.v6, m.self.external.v6, attrs.PublicIPv6.String())
	}
	return l, m.publish(ctx)
}

func checkRange(family string, r, all netip.Prefix) error {
	if !r.IsValid() {
		return fmt.Errorf("the cluster has %s pods, but the node has no %s pod range", family, family)
	}
	if !all.Contains(r.Addr()) || all.Bits() > r.Bits() {
		return fmt.Errorf("the node's pod range %s is not in the pod network %s", r, all)
	}
	return nil
}

// public chooses the address that other nodes send to.
func (m *manager) public(overwrite, external netip.Addr, own string) string {
	switch {
	case overwrite.IsValid():
		return overwrite.String()
	case m.external && external.IsValid():
		return external.String()
	}
	return own
}

// publish annotates the node with what the other nodes need, where it is not.
func (m *manager) publish(ctx context.Context) error {
	view, _ := m.nodes.view()
	patch := patchFor(view.annotations, m.wanted)
	if patch == nil {
		return nil
	}
	body, err := json.Marshal(object{"metadata": object{"annotations": patch}})
	if err != nil {
		return err
	}
	for {
		_, err = m.client.Patch(ctx, m.node, types.MergePatchType, body, metav1.PatchOptions{}, "status")
		if err == nil {
			return nil
		}
		err = fmt.Errorf("annotate node %s for the pod network: %w", m.node, err)
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
			return err
		}
		select {
		case <-time.After(patchPause):
		case <-ctx.Done():
			return err
		}
	}
}

// patchFor is the change that makes the wanted annotations of those there are,
// nil for none. Of an IP family that the network doesn't have it leaves nothing.
func patchFor(have, want map[string]string) map[string]any {
	var patch map[string]any
	set := func(name string, value any) {
		if patch == nil {
			patch = map[string]any{}
		}
		patch[name] = value
	}
	for name, value := range want {
		if got, ok := have[name]; !ok || got != value {
			set(name, value)
		}
	}
	for _, name := range []string{dataAnnotation.v4, dataAnnotation.v6, publicAnnotation.v4, publicAnnotation.v6} {
		if _, ok := want[name]; ok {
			continue
		}
		if _, ok := have[name]; ok {
			set(name, nil)
		}
	}
	return patch
}

// GetStoredMacAddresses lets a vxlan device have the address that the other
// nodes know it by, also after the machine was started anew.
func (m *manager) GetStoredMacAddresses(context.Context) (v4, v6 string) {
	view, _ := m.nodes.view()
	if view.annotations[typeAnnotation] != VXLAN {
		return "", ""
	}
	if mac, err := vxlanMAC(view.annotations[dataAnnotation.v4]); err == nil {
		v4 = mac.String()
	}
	if mac, err := vxlanMAC(view.annotations[dataAnnotation.v6]); err == nil {
		v6 = mac.String()
	}
	return v4, v6
}

// WatchLeases delivers the other nodes and their changes until ctx ends.
func (m *manager) WatchLeases(ctx context.Context, receiver chan []lease.LeaseWatchResult) error {
	defer close(receiver)
	var told map[string]peer
	for {
		view, changed := m.nodes.view()
		if events := changes(m.conf.BackendType, told, view.peers); len(events) > 0 {
			select {
			case receiver <- []lease.LeaseWatchResult{{Events: events}}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		told = view.peers
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// changes are the events that lead from one set of nodes to another. What goes
// comes first: its range may be another node's now.
func changes(backend string, before, after map[string]peer) (events []lease.Event) {
	for name, p := range before {
		if p.backend == backend && after[name] != p {
			events = append(events, lease.Event{Type: lease.EventRemoved, Lease: p.lease()})
		}
	}
	for name, p := range after {
		if p.backend == backend && before[name] != p {
			events = append(events, lease.Event{Type: lease.EventAdded, Lease: p.lease()})
		}
	}
	return events
}

func (p peer) lease() (l lease.Lease) {
	l.Attrs.BackendType = p.backend
	if p.ranges.v4.IsValid() {
		l.EnableIPv4 = true
		l.Subnet = ip.FromIPNet(ipNet(p.ranges.v4))
		l.Attrs.PublicIP = ip.FromIP(p.public.v4.AsSlice())
		l.Attrs.BackendData = json.RawMessage(p.data.v4)
	}
	if p.ranges.v6.IsValid() {
		l.EnableIPv6 = true
		l.IPv6Subnet = ip.FromIP6Net(ipNet(p.ranges.v6))
		l.Attrs.PublicIPv6 = ip.FromIP6(p.public.v6.AsSlice())
		l.Attrs.BackendV6Data = json.RawMessage(p.data.v6)
	}
	return l
}

// What follows is for other stores of leases than Kubernetes, or is decided
// elsewhere.

func (*manager) GetStoredPublicIP(context.Context) (v4, v6 string) { return "", "" }

func (*manager) CompleteLease(context.Context, *lease.Lease, *sync.WaitGroup) error { return nil }

func (*manager) RenewLease(context.Context, *lease.Lease) error { return errNotKept }

func (*manager) WatchLease(context.Context, ip.IP4Net, ip.IP6Net, chan []lease.LeaseWatchResult) error {
	return errNotKept
}

func (*manager) HandleSubnetFile(string, *subnet.Config, bool, ip.IP4Net, ip.IP6Net, int) error {
	return errNotKept
}
