package server

import (
	"context"
	"os"

	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// describe says what runs here.
func (s *Server) describe(context.Context, control.None) (control.Description, error) {
	c := s.config
	d := control.Description{
		Role:         "server",
		Version:      version.Version,
		PID:          os.Getpid(),
		Started:      s.began,
		DataDir:      c.Paths.DataDir,
		Kubeconfig:   c.Kubeconfig.Path,
		Certificates: []string{c.Paths.TLS()},
		Datastore:    s.describeDatastore(),
		Network: control.Network{
			PodCIDRs:     c.Network.ClusterCIDRs,
			ServiceCIDRs: c.Network.ServiceCIDRs,
			DNS:          c.Network.ClusterDNS,
			Domain:       c.Network.ClusterDomain,
			Backend:      c.Network.FlannelBackend,
			Ports:        []uint16{c.ControlPlane.Port},
		},
	}
	if !c.DisableAgent {
		d.Node = s.node.Name()
	}
	return d, nil
}

func (s *Server) describeDatastore() control.Datastore {
	c := s.config
	switch {
	case c.Datastore.Endpoint != "":
		return control.Datastore{Kind: "external"}
	case s.usesEtcd():
		return control.Datastore{Kind: "etcd", Dir: c.Paths.Etcd()}
	}
	return control.Datastore{Kind: "SQLite", Dir: c.Paths.DB()}
}
