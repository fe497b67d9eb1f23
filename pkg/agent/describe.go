package agent

import (
	"context"
	"os"

	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/loadbalancer"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// describe returns what says what runs here.
func (a *Agent) describe(m *member, balancer *loadbalancer.Balancer) func(context.Context, control.None) (control.Description, error) {
	return func(context.Context, control.None) (control.Description, error) {
		d := control.Description{
			Role:         "agent",
			Version:      version.Version,
			PID:          os.Getpid(),
			Started:      a.began,
			Node:         a.node.Name(),
			DataDir:      a.config.Paths.DataDir,
			Kubeconfig:   m.credentials().Agent,
			Certificates: []string{a.config.Paths.AgentPKI()},
			Network: control.Network{
				PodCIDRs:     m.cluster.ClusterCIDRs,
				ServiceCIDRs: m.cluster.ServiceCIDRs,
				DNS:          m.cluster.ClusterDNS,
				Domain:       m.cluster.ClusterDomain,
				Backend:      m.cluster.FlannelBackend,
			},
		}
		for _, s := range balancer.Servers() {
			d.Servers = append(d.Servers, control.ServerState{
				Address: s.Address, State: string(s.State), Connections: s.Connections, Error: s.Error,
			})
		}
		return d, nil
	}
}
