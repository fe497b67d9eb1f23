package servicelb

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// strip keeps of objects what there is to decide from.
func strip(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Service:
		s := *o
		s.ObjectMeta = stripMeta(o.ObjectMeta)
		s.Finalizers = o.Finalizers
		return &s, nil
	case *corev1.Node:
		return stripNode(o), nil
	case *corev1.Pod:
		return stripPod(o), nil
	case *discoveryv1.EndpointSlice:
		slice := &discoveryv1.EndpointSlice{ObjectMeta: stripMeta(o.ObjectMeta)}
		for _, e := range o.Endpoints {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				NodeName:   e.NodeName,
				Conditions: discoveryv1.EndpointConditions{Ready: e.Conditions.Ready},
			})
		}
		return slice, nil
	}
	return o, nil
}

func stripNode(n *corev1.Node) *corev1.Node {
	left := &corev1.Node{ObjectMeta: stripMeta(n.ObjectMeta)}
	if report, found := n.Annotations[ReportAnnotation]; found {
		left.Annotations = map[string]string{ReportAnnotation: report}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			left.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	left.Status.Addresses = n.Status.Addresses
	left.Status.DaemonEndpoints = n.Status.DaemonEndpoints
	return left
}

// stripPod keeps the ports that a pod has of its node.
func stripPod(p *corev1.Pod) *corev1.Pod {
	left := &corev1.Pod{ObjectMeta: stripMeta(p.ObjectMeta)}
	left.Labels = nil
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		ports := slices.DeleteFunc(slices.Clone(c.Ports), func(p corev1.ContainerPort) bool { return p.HostPort == 0 })
		if len(ports) > 0 {
			left.Spec.Containers = append(left.Spec.Containers, corev1.Container{Ports: ports})
		}
	}
	return left
}

func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:         m.Namespace,
		Name:              m.Name,
		UID:               m.UID,
		ResourceVersion:   m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp,
		DeletionTimestamp: m.DeletionTimestamp,
		Labels:            m.Labels,
	}
}

// nodeChanged leaves out the signs of life that kubelets give.
func nodeChanged(old, now any) bool {
	a, okA := old.(*corev1.Node)
	b, okB := now.(*corev1.Node)
	if !okA || !okB {
		return true
	}
	before, after := *a, *b
	before.ResourceVersion, after.ResourceVersion = "", ""
	return !equality.Semantic.DeepEqual(before, after)
}

// nodesChanged says whether other nodes have ready endpoints than before.
func nodesChanged(old, now any) bool {
	a, okA := old.(*discoveryv1.EndpointSlice)
	b, okB := now.(*discoveryv1.EndpointSlice)
	if !okA || !okB {
		return true
	}
	before := readyNodes([]*discoveryv1.EndpointSlice{a})[serviceOf(a)]
	after := readyNodes([]*discoveryv1.EndpointSlice{b})[serviceOf(b)]
	return serviceOf(a) != serviceOf(b) || !maps.Equal(before, after)
}
