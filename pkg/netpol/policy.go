package netpol

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"
)

// key names an object in a namespace.
type key struct{ namespace, name string }

func (k key) String() string { return k.namespace + "/" + k.name }

// direction is a direction as policies have it: seen from the pod.
type direction int

const (
	ingress direction = iota
	egress
)

var directions = [...]direction{ingress, egress}

func (d direction) String() string { return [...]string{"ingress", "egress"}[d] }

// policy is a NetworkPolicy, read once.
type policy struct {
	key
	pods     labels.Selector // which pods of its namespace it is for
	isolates [2]bool         // by direction
	rules    [2][]rule       // by direction

	chains map[lane]*policyChain // those that were asked for
}

// rule is what a policy allows: the peers it names, on the ports it names.
type rule struct {
	anyPeer bool
	peers   []peers
	blocks  [2][]addrRange // by family

	anyPort bool
	ports   []protocolPorts
	named   []namedPort
}

// peers is a choice of pods.
type peers struct {
	namespace  string          // of this namespace,
	namespaces labels.Selector // or of all with such labels if it is empty
	pods       labels.Selector
}

// everyPod is a choice of all pods.
var everyPod = peers{namespaces: labels.Everything(), pods: labels.Everything()}

func (p peers) String() string {
	namespace := p.namespace
	if namespace == "" {
		namespace = "[" + p.namespaces.String() + "]"
	}
	return fmt.Sprintf("%s/[%s]", namespace, p.pods)
}

func (p peers) includes(ns *namespace) bool {
	if p.namespace != "" {
		return p.namespace == ns.name
	}
	return ns.known && p.namespaces.Matches(ns.labels)
}

type protocolPorts struct {
	protocol string // as nft calls it
	ports    []portRange
}

// namedPort is a port by the name that containers give it.
type namedPort struct{ protocol, name string }

func (n namedPort) String() string { return n.protocol + "-" + n.name }

// newPolicy reads a NetworkPolicy. What can't be applied is left out of what
// the policy allows, and the error says what it is. Without a policy, not even
// the pods that it is for are known.
func newPolicy(np *networkingv1.NetworkPolicy) (*policy, error) {
	p := &policy{key: key{np.Namespace, np.Name}}
	var err error
	if p.pods, err = metav1.LabelSelectorAsSelector(&np.Spec.PodSelector); err != nil {
		return nil, fmt.Errorf("podSelector: %w", err)
	}
	types := np.Spec.PolicyTypes
	p.isolates[ingress] = len(types) == 0 || slices.Contains(types, networkingv1.PolicyTypeIngress)
	p.isolates[egress] = len(types) == 0 && len(np.Spec.Egress) > 0 || slices.Contains(types, networkingv1.PolicyTypeEgress)

	var errs []error
	add := func(d direction, i int, from []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		if !p.isolates[d] {
			return
		}
		r, err := newRule(np.Namespace, from, ports)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]: %w", d, i, err))
		}
		p.rules[d] = append(p.rules[d], r)
	}
	for i, r := range np.Spec.Ingress {
		add(ingress, i, r.From, r.Ports)
	}
	for i, r := range np.Spec.Egress {
		add(egress, i, r.To, r.Ports)
	}
	return p, errors.Join(errs...)
}

func newRule(namespace string, from []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (rule, error) {
	r := rule{anyPeer: len(from) == 0, anyPort: len(ports) == 0}
	var errs []error
	for _, peer := range from {
		if err := r.addPeer(namespace, peer); err != nil {
			errs = append(errs, err)
		}
	}
	for f := range r.blocks {
		r.blocks[f] = union(r.blocks[f])
	}
	numbers := map[string][]portRange{}
	for _, port := range ports {
		if err := r.addPort(numbers, port); err != nil {
			errs = append(errs, err)
		}
	}
	for protocol, ranges := range numbers {
		r.ports = append(r.ports, protocolPorts{protocol, unionPorts(ranges)})
	}
	slices.SortFunc(r.ports, func(a, b protocolPorts) int { return cmp.Compare(a.protocol, b.protocol) })
	return r, errors.Join(errs...)
}

func (r *rule) addPeer(namespace string, peer networkingv1.NetworkPolicyPeer) error {
	if peer.IPBlock != nil {
		return r.addBlock(peer.IPBlock)
	}
	if peer.PodSelector == nil && peer.NamespaceSelector == nil {
		return errors.New("a peer that selects nothing")
	}
	p := peers{pods: labels.Everything()}
	var err error
	if peer.PodSelector != nil {
		if p.pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return fmt.Errorf("podSelector: %w", err)
		}
	}
	if peer.NamespaceSelector == nil {
		p.namespace = namespace
	} else if p.namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
		return fmt.Errorf("namespaceSelector: %w", err)
	}
	r.peers = append(r.peers, p)
	return nil
}

func (r *rule) addBlock(block *networkingv1.IPBlock) error {
	cidr, err := parseCIDR(block.CIDR)
	if err != nil {
		return err
	}
	var excepts []addrRange
	for _, text := range block.Except {
		except, err := parseCIDR(text)
		if err != nil {
			return fmt.Errorf("except: %w", err)
		}
		if except.Addr().Is4() != cidr.Addr().Is4() {
			return fmt.Errorf("except: %s is not in %s", except, cidr)
		}
		excepts = append(excepts, rangeOf(except))
	}
	f := familyOf(cidr.Addr())
	r.blocks[f] = append(r.blocks[f], rangeOf(cidr).without(excepts)...)
	return nil
}

// parseCIDR takes what API servers took before they were strict: leading zeros.
func parseCIDR(text string) (netip.Prefix, error) {
	_, parsed, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("CIDR: %w", err)
	}
	return netip.ParsePrefix(parsed.String())
}

func (r *rule) addPort(numbers map[string][]portRange, port networkingv1.NetworkPolicyPort) error {
	protocol, err := protocolOf(port.Protocol)
	if err != nil {
		return err
	}
	switch {
	case port.Port == nil && port.EndPort == nil:
		numbers[protocol] = append(numbers[protocol], allPorts)
		return nil
	case port.Port == nil || port.Port.Type == intstr.String && port.EndPort != nil:
		return fmt.Errorf("endPort %d without a number as port", *port.EndPort)
	case port.Port.Type == intstr.String:
		name := namedPort{protocol, port.Port.StrVal}
		if !slices.Contains(r.named, name) {
			r.named = append(r.named, name)
		}
		return nil
	}
	first, last := port.Port.IntVal, port.Port.IntVal
	if port.EndPort != nil {
		last = *port.EndPort
	}
	if first < 1 || last < first || last > 65535 {
		return fmt.Errorf("ports %d to %d", first, last)
	}
	numbers[protocol] = append(numbers[protocol], portRange{uint16(first), uint16(last)})
	return nil
}

func protocolOf(p *corev1.Protocol) (string, error) {
	if p == nil {
		return "tcp", nil
	}
	switch *p {
	case "", corev1.ProtocolTCP:
		return "tcp", nil
	case corev1.ProtocolUDP:
		return "udp", nil
	case corev1.ProtocolSCTP:
		return "sctp", nil
	}
	return "", fmt.Errorf("protocol %q", *p)
}

// digest is a short name for a text, equal only for equal texts.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}
