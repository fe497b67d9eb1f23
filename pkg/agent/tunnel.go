package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/localpath"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/tunnel"
)

// Tunnel keeps, as a component, a tunnel to each server open, through which
// apiservers reach this node, unless the mode forbids it, and servers ask for
// volumes.
type Tunnel struct {
	client *tunnel.Client
	run    component.Runner
}

// NewTunnel makes the tunnels of a node that has its components, to no servers at
// first. tls says how Kedge's own parts on the node connect to servers; opened, if
// any, is called when a tunnel is open.
func NewTunnel(n *Node, mode string, tls func() (*tls.Config, error), opened func()) *Tunnel {
	access := tunnel.Access{
		Mode:              tunnel.Mode(mode),
		KubeletPort:       kubeletPort,
		KubeletOnLoopback: true,
		Addresses:         func() []netip.Addr { return n.Addresses() },
		PodCIDRs:          n.podCIDRs,
	}
	return &Tunnel{client: tunnel.NewClient(tunnel.ClientOptions{
		TLS:     tls,
		Allow:   access.Allow,
		Handler: localpath.Handler(n.volumes),
		Opened:  opened,
		Log:     n.log,
	})}
}

// SetServers says which servers there are, as host:port.
func (t *Tunnel) SetServers(addresses []string) { t.client.SetServers(addresses) }

func (*Tunnel) Name() string                     { return "tunnel" }
func (*Tunnel) Needs() []string                  { return nil }
func (t *Tunnel) Stop(ctx context.Context) error { return t.run.Stop(ctx) }
func (t *Tunnel) Failed() <-chan error           { return t.run.Failed() }

// Start begins to connect.
func (t *Tunnel) Start(context.Context) error {
	t.run.Run(func(ctx context.Context) error {
		t.client.Run(ctx)
		return nil
	})
	return nil
}

// tls is how Kedge's own parts on this node connect to servers.
func (m *member) tls() (*tls.Config, error) { return ClientTLS(m.pair(join.Agent), m.serverCA()) }

// ClientTLS is how a client with the certificate connects to servers that are
// recognized by the bundle.
func ClientTLS(client pki.KeyPair, bundle string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(client.Cert, client.Key)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(bundle)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}
