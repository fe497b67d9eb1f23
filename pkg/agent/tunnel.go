package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/localpath"
	"github.com/kedge-k8s/kedge/pkg/tunnel"
)

// tunnelComponent keeps a tunnel to each server open, through which apiservers
// reach this node, unless the mode forbids it, and servers ask for volumes.
type tunnelComponent struct {
	client *tunnel.Client
	run    component.Runner
}

func newTunnel(m *member, opened func()) *tunnelComponent {
	access := tunnel.Access{
		Mode:              tunnel.Mode(m.cluster.EgressMode),
		KubeletPort:       kubeletPort,
		KubeletOnLoopback: true,
		Addresses:         func() []netip.Addr { return m.node.Addresses() },
		PodCIDRs:          m.node.podCIDRs,
	}
	t := &tunnelComponent{client: tunnel.NewClient(tunnel.ClientOptions{
		TLS:     m.tls,
		Allow:   access.Allow,
		Handler: localpath.Handler(m.node.volumes),
		Opened:  opened,
		Log:     m.log,
	})}
	t.client.SetServers(m.cluster.Servers)
	return t
}

func (*tunnelComponent) Name() string                     { return "tunnel" }
func (*tunnelComponent) Needs() []string                  { return nil }
func (t *tunnelComponent) Stop(ctx context.Context) error { return t.run.Stop(ctx) }
func (t *tunnelComponent) Failed() <-chan error           { return t.run.Failed() }

func (t *tunnelComponent) Start(context.Context) error {
	t.run.Run(func(ctx context.Context) error {
		t.client.Run(ctx)
		return nil
	})
	return nil
}

// tls is how Kedge's own parts on this node connect to servers.
func (m *member) tls() (*tls.Config, error) {
	cert, err := m.certificate()
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(m.serverCA())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{*cert}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}
