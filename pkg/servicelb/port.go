package servicelb

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Port is a port of a protocol. As text it is such as 80/TCP.
type Port struct {
	Number   uint16
	Protocol corev1.Protocol
}

func (p Port) String() string { return strconv.Itoa(int(p.Number)) + "/" + string(p.Protocol) }

// MarshalText implements encoding.TextMarshaler.
func (p Port) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Port) UnmarshalText(text []byte) error {
	number, protocol, found := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || !found || protocol == "" {
		return fmt.Errorf("%q is not a port such as 80/TCP", text)
	}
	*p = Port{uint16(n), corev1.Protocol(protocol)}
	return nil
}

func (p Port) compare(other Port) int {
	return cmp.Or(cmp.Compare(p.Number, other.Number), cmp.Compare(p.Protocol, other.Protocol))
}

// portsOf are the ports of a Service, sorted.
func portsOf(s *corev1.Service) []Port {
	ports := make([]Port, len(s.Spec.Ports))
	for i, p := range s.Spec.Ports {
		ports[i] = Port{uint16(p.Port), protocolOf(p)}
	}
	slices.SortFunc(ports, Port.compare)
	return ports
}

func protocolOf(p corev1.ServicePort) corev1.Protocol { return cmp.Or(p.Protocol, corev1.ProtocolTCP) }
