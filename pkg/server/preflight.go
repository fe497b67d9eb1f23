package server

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/kedge-k8s/kedge/pkg/agent"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
)

// preflight refuses what can't work, with what to do about it, before anything
// on the machine is changed.
func (s *Server) preflight(ctx context.Context) error {
	if err := agent.NeedRoot("server"); err != nil {
		return err
	}
	if !s.config.DisableAgent {
		if err := s.node.Check(ctx); err != nil {
			return err
		}
	}
	if s.config.Node.Profile == config.ProfileCIS {
		security := s.config.Security
		if err := agent.CheckPrivate(s.config.ConfigFile, s.config.ConfigFile+".d", security.AuditPolicyFile, security.PodSecurityFile); err != nil {
			return err
		}
	}
	if err := s.node.FindAddresses(s.config.Network.ClusterCIDRs); err != nil {
		return err
	}
	var servers []string
	if u, err := url.Parse(s.config.Join.Server); err == nil {
		servers = append(servers, u.Host)
	}
	network := s.config.Network
	if err := s.node.AvoidProxy(network.ClusterCIDRs, network.ServiceCIDRs, network.ClusterDomain, servers...); err != nil {
		return err
	}
	if err := s.node.CheckRanges(s.config.Network.ClusterCIDRs, s.config.Network.ServiceCIDRs); err != nil {
		return err
	}
	if err := s.checkKubeconfigPath(); err != nil {
		return err
	}
	if err := s.dir().Check(); err != nil {
		return err
	}
	if err := s.checkDatastore(ctx); err != nil {
		return err
	}
	if !s.config.DisableAgent {
		s.node.ChooseSnapshotter()
	}
	return s.node.CheckPorts(ctx, append(Ports(s.config), s.etcdPorts()...))
}

// etcdPorts are what the embedded etcd listens on, if there is one.
func (s *Server) etcdPorts() []hostcheck.Port {
	if !s.usesEtcd() {
		return nil
	}
	const option = "" // they are the same on every server
	return []hostcheck.Port{
		{Host: "127.0.0.1", Number: datastore.EtcdClientPort, Use: "etcd", Option: option},
		{Host: s.node.Addresses()[0].String(), Number: datastore.EtcdPeerPort, Use: "etcd's members", Option: option},
		{Host: "127.0.0.1", Number: datastore.EtcdMetricsPort, Use: "etcd's metrics", Option: option},
	}
}

// Ports are what a server listens on.
func Ports(c *config.Server) []hostcheck.Port {
	ports := []hostcheck.Port{
		{Host: c.ControlPlane.BindAddress.String(), Number: int(c.ControlPlane.Port), Use: "API server", Option: "--https-listen-port"},
		{Host: "127.0.0.1", Number: 10257, Use: "controller manager", Option: "--kube-controller-manager-arg=secure-port=…"},
		{Host: "127.0.0.1", Number: 10259, Use: "scheduler", Option: "--kube-scheduler-arg=secure-port=…"},
	}
	if !c.DisableAgent {
		ports = append(ports, agent.Ports()...)
	}
	return ports
}

func (s *Server) checkKubeconfigPath() error {
	path := s.config.Kubeconfig.Path
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("--write-kubeconfig: %s is a directory: name a file in it", path)
	}
	if err := hostcheck.Writable(filepath.Dir(path)); err != nil {
		return fmt.Errorf("--write-kubeconfig: %w", err)
	}
	_, err := groupID(s.config.Kubeconfig.Group)
	return err
}
