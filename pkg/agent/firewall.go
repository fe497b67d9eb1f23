package agent

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strconv"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/mirror"
)

// firewallCheck says what has to be typed if a firewall of the machine is on and
// not open for the cluster, as a component. It asks once, beside the start.
type firewallCheck struct {
	traffic hostcheck.Traffic
	log     *slog.Logger
	run     component.Runner
}

func (*firewallCheck) Name() string                     { return "firewall" }
func (*firewallCheck) Needs() []string                  { return nil }
func (f *firewallCheck) Stop(ctx context.Context) error { return f.run.Stop(ctx) }
func (f *firewallCheck) Failed() <-chan error           { return f.run.Failed() }

func (f *firewallCheck) Start(context.Context) error {
	f.run.Run(func(ctx context.Context) error {
		f.look(ctx)
		<-ctx.Done()
		return nil
	})
	return nil
}

func (f *firewallCheck) look(ctx context.Context) {
	log := f.log.With("component", f.Name())
	found, err := hostcheck.Host{}.Firewalls(ctx, f.traffic)
	if problem, fix := hostcheck.Closed(found); problem != "" {
		log.Warn(problem + "; as root run: " + fix)
	}
	if err != nil {
		log.Debug("a firewall of the machine can't be asked", "err", err)
	}
	log.Debug("the machine's firewalls were asked", "on", len(found))
}

// traffic is what has to pass the machine's firewall.
func (n *Node) traffic(c join.Cluster, ports []hostcheck.FirewallPort) hostcheck.Traffic {
	t := hostcheck.Traffic{Pods: c.ClusterCIDRs, Node: n.addresses, Ports: slices.Clone(ports)}
	if n.config.LBPort == 0 { // a server: the cluster's servers, as it knows them, are itself
		for _, server := range c.Servers {
			_, port, err := net.SplitHostPort(server)
			if number, parseErr := strconv.ParseUint(port, 10, 16); err == nil && parseErr == nil {
				t.Ports = append(t.Ports, hostcheck.FirewallPort{Number: uint16(number), Protocol: "tcp"})
			}
		}
	}
	if n.sharesImages(c) {
		t.Ports = append(t.Ports, hostcheck.FirewallPort{Number: mirror.Port, Protocol: "tcp"})
	}
	if n.config.FlannelConf == "" { // which may name other ports
		t.Ports = append(t.Ports, hostcheck.PodNetworkPorts(c.FlannelBackend, c.ClusterCIDRs)...)
	}
	return t
}
