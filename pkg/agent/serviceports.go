package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/servicelb"
)

// servicePorts tells the service load balancer which ports this machine uses
// itself, as a component.
type servicePorts struct {
	node       string
	external   []netip.Addr
	kubeconfig string
	log        *slog.Logger
	run        component.Runner
}

func (*servicePorts) Name() string                     { return "service-ports" }
func (*servicePorts) Needs() []string                  { return []string{"apiserver", "kubelet"} }
func (p *servicePorts) Stop(ctx context.Context) error { return p.run.Stop(ctx) }
func (p *servicePorts) Failed() <-chan error           { return p.run.Failed() }

func (p *servicePorts) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", p.kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	reporter := &servicelb.Reporter{Client: client, Node: p.node, Machine: machine{}, External: p.external, Log: p.log}
	p.run.Run(reporter.Run)
	return nil
}

// machine implements servicelb.Machine for the one that this process runs on.
type machine struct{ host hostcheck.Host }

func (m machine) Used(wanted []servicelb.Port, at []netip.Addr) map[servicelb.Port]string {
	used := map[servicelb.Port]string{}
	for _, l := range m.host.Listeners(at) {
		port := servicelb.Port{Number: l.Port, Protocol: corev1.Protocol(strings.ToUpper(l.Protocol))}
		if _, known := used[port]; !known && slices.Contains(wanted, port) {
			used[port] = m.host.Program(l)
		}
	}
	return used
}

func (machine) Addresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the machine's addresses: %w", err)
	}
	var found []netip.Addr
	for _, a := range list {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			found = append(found, prefix.Addr())
		}
	}
	return found, nil
}
