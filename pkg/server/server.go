// Package server is what a server is made of: the control plane and, beside
// it, a node.
package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/kedge-k8s/kedge/pkg/addon"
	"github.com/kedge-k8s/kedge/pkg/agent"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/controlplane"
	"github.com/kedge-k8s/kedge/pkg/datadir"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/helm"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/localpath"
	"github.com/kedge-k8s/kedge/pkg/metrics"
	"github.com/kedge-k8s/kedge/pkg/nodehosts"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/snapshot"
	"github.com/kedge-k8s/kedge/pkg/status"
	"github.com/kedge-k8s/kedge/pkg/token"
	"github.com/kedge-k8s/kedge/pkg/tunnel"
	"github.com/kedge-k8s/kedge/pkg/upgradeplan"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// stopLimit is how long everything together may take to stop.
const stopLimit = 9 * time.Second

// Server is one server, from its configuration to its end.
type Server struct {
	config *config.Server
	log    *slog.Logger
	gate   Gate
	out    io.Writer // for the person who started it
	layout pki.Layout
	node   *agent.Node
	began  time.Time
	peers  *peers // nil: no other server was named

	known atomic.Pointer[[]string] // servers of the cluster, as host:port; nil: not known yet

	// Ready is called once, when the node is Ready, or the control plane of a
	// server without one.
	Ready func()

	damage      error  // of the datastore, found before the start
	restoreFrom string // the snapshot to go back to for it, or its file
}

// Gate holds back what the libraries complain about while parts start and
// stop. Release logs what was held back.
type Gate interface {
	Open()
	Close()
	Release()
}

// New makes a server that takes its programs and images from the payload
// directory, logs to log, and says to out what a person wants to know.
func New(c *config.Server, payload string, log *slog.Logger, gate Gate, out io.Writer) (*Server, error) {
	n, err := agent.NewNode(c.Node, c.Paths, payload, log)
	return &Server{config: c, log: log, gate: gate, out: out, layout: pki.NewLayout(c.Paths.Server()), node: n}, err
}

// Run starts the server and returns when ctx ends or a part of it fails for
// good. Pods keep running.
func (s *Server) Run(ctx context.Context) error {
	if s.config.Etcd.Reset {
		return s.reset(ctx)
	}
	began := time.Now()
	s.began = began
	if err := s.preflight(ctx); err != nil {
		return err
	}
	// What the datastore is decides on the components.
	if err := s.repairDatastore(ctx); err != nil {
		return err
	}
	var err error
	if s.peers, err = s.newPeers(); err != nil {
		return err
	}
	// What can't be used is refused here, before anything is written.
	components, err := s.components()
	if err != nil {
		return err
	}
	release, err := s.dir().Claim()
	if err != nil {
		return err
	}
	defer release()
	snapshot.ClearLeftovers(s.config.Paths.Server())
	if err := s.clearResetFlag(); err != nil {
		return err
	}
	if err := os.MkdirAll(config.RuntimeDir, 0o755); err != nil {
		return err
	}
	s.node.RaiseLimits()
	if !s.config.DisableAgent {
		if err := s.node.Prepare(); err != nil {
			return err
		}
	}
	if s.peers != nil {
		if err := s.peers.join(ctx); err != nil {
			if ctx.Err() != nil {
				return nil // asked to stop while it waited
			}
			return fmt.Errorf("join the cluster: %w", err)
		}
	}
	// After joining, which brings the cluster's: what a failed attempt left would
	// keep a cluster of this machine's own from being encrypted.
	if err := s.ensureEncryption(); err != nil {
		return err
	}
	manager, err := component.NewManager(s.log, components...)
	if err != nil {
		return err
	}
	return manager.Run(ctx, stopLimit, component.Hooks{
		Started: func(ctx context.Context) { s.announce(ctx, began) },
		Stopping: func(err error) {
			if err != nil && !errors.Is(err, component.ErrRestart) {
				s.gate.Release()
			}
			s.gate.Close()
		},
	})
}

// components lists what a server is made of. Each says itself what it needs
// to be ready before it starts.
func (s *Server) components() ([]component.Component, error) {
	c := s.config
	mode, err := tunnel.ParseMode(c.Network.EgressSelectorMode)
	if err != nil {
		return nil, err
	}
	store, etcd, err := s.newStore()
	if err != nil {
		return nil, err
	}
	own := s.node.Name()
	if c.DisableAgent {
		own = ""
	}
	nodes := newNodes(s.layout.Kubeconfig("join"), own, s.log)
	tokens := newTokens(c.Join, c.Paths, s.layout)
	desk := &joinDesk{server: s, nodes: nodes, tokens: tokens}
	if etcd != nil {
		desk.servers = servers{etcd, s}
		nodes.gone = etcd.RemoveNode
		tokens.others = etcd.Others
	}
	nodes.tunnel = tunnel.NewServer(tunnel.ServerOptions{Authenticate: desk.nodeOf, Log: s.log})

	apiserver, err := controlplane.NewAPIServer(controlplane.APIServerConfig{
		BindAddress:      c.ControlPlane.BindAddress,
		Port:             c.ControlPlane.Port,
		AdvertiseAddress: s.advertiseAddress(),
		ServiceCIDRs:     c.Network.ServiceCIDRs,
		NodePorts:        c.Network.NodePorts,
		ClusterDomain:    c.Network.ClusterDomain,
		Datastore:        store.Endpoint(),
		DatastoreTLS:     store.TLS(),
		Several:          etcd != nil,
		PKI:              s.layout,
		ConfigDir:        filepath.Join(c.Paths.Server(), "etc"),
		EncryptionConfig: s.encryptionFiles().Config,
		Hardening: controlplane.Hardening{
			AuditPolicy: c.Security.AuditPolicyFile,
			AuditLog:    c.Security.AuditLogPath,
			PodSecurity: c.Security.PodSecurityFile,
			CIS:         c.Node.Profile == config.ProfileCIS,
		},
		Profiling: c.ControlPlane.EnablePprof,
		ExtraArgs: c.ControlPlane.APIServerArgs,
		Front:     desk.front,
		Dial:      nodes.tunnel.Dialer(mode),
	})
	if err != nil {
		return nil, err
	}
	external := !c.ControlPlane.DisableCloudController
	controllerManager, err := controlplane.NewControllerManager(controlplane.ControllerManagerConfig{
		ClusterCIDRs:  c.Network.ClusterCIDRs,
		ServiceCIDRs:  c.Network.ServiceCIDRs,
		PKI:           s.layout,
		VolumePlugins: filepath.Join(c.Paths.AgentEtc(), "volume-plugins"),
		CloudProvider: external,
		Profiling:     c.ControlPlane.EnablePprof,
		ExtraArgs:     c.ControlPlane.ControllerManagerArgs,
	})
	if err != nil {
		return nil, err
	}
	certificates := &certificates{server: s, nodes: nodes, again: make(chan string, 1), others: tokens.others}
	commands := control.NewServer(filepath.Join(config.RuntimeDir, control.Socket), "server", s.log)
	control.Handle(commands, control.RotateCertificates, certificates.rotate)
	control.Handle(commands, control.RotateCA, certificates.rotateCA)
	control.Handle(commands, control.RotateTokens, tokens.rotate)
	control.Handle(commands, control.Describe, s.describe)
	if c.ControlPlane.SupervisorMetrics {
		legacyregistry.RawMustRegister(&metrics.Collector{About: s.describe, Tunnels: nodes.tunnel.Count, Size: status.DirSize})
	}
	secrets := newSecretsEncryption(s.encryptionFiles(), c.Security.EncryptionProvider, apiserver, s.log)
	secrets.others = tokens.others
	control.Handle(commands, control.EncryptSecrets, secrets.change)
	control.Handle(commands, control.EncryptionStatus, secrets.status)

	handleMembers(commands, etcd)

	components := []component.Component{
		certificates,
		tokens,
		commands,
		secrets,
		store,
		apiserver.Listener(),
		apiserver,
		nodes,
	}
	// What only one of several servers runs.
	alone := []component.Component{
		controllerManager,
		&serviceLB{
			kubeconfig: s.layout.Kubeconfig("servicelb"),
			disabled:   c.AddOns.Disables("servicelb"),
			reserved:   reservedPorts(c),
			log:        s.log,
		},
		addon.NewDeployer(addon.Config{
			Dir:        c.Paths.Manifests(),
			Disabled:   s.disabledManifests(),
			Variables:  s.manifestVariables,
			Kubeconfig: s.layout.Kubeconfig("addons"),
			Server:     s.identity(etcd),
			Log:        s.log,
		}),
	}
	alone = append(alone, upgradeplan.New(upgradeplan.Config{Kubeconfig: s.layout.Kubeconfig("upgrades"), Log: s.log}))
	if c.Datastore.Endpoint != "" {
		noSnapshots(commands)
	} else {
		components = append(components, s.newSnapshots(commands, etcd))
	}
	if !slices.Contains(c.AddOns.Disabled, "coredns") {
		alone = append(alone, nodehosts.NewController(s.layout.Kubeconfig("node-hosts"), s.log))
	}
	if !slices.Contains(c.AddOns.Disabled, "metrics-server") {
		alone = append(alone, &servingSecret{
			kubeconfig: s.layout.Kubeconfig("addons"),
			ca:         s.layout.ServerCA(),
			service:    "metrics-server",
			log:        s.log,
		})
	}
	if !c.AddOns.DisableHelm {
		alone = append(alone, helm.New(helm.Config{
			Kubeconfig: s.layout.Kubeconfig("helm"),
			StaticDir:  c.Paths.Static(),
			Log:        s.log,
		}))
	}
	if !c.ControlPlane.DisableScheduler {
		scheduler, err := controlplane.NewScheduler(controlplane.SchedulerConfig{
			PKI:       s.layout,
			Profiling: c.ControlPlane.EnablePprof,
			ExtraArgs: c.ControlPlane.SchedulerArgs,
		})
		if err != nil {
			return nil, err
		}
		alone = append(alone, scheduler)
	}
	if external {
		alone = append(alone, controlplane.NewCloudController(s.layout))
	}
	beforeVolumes := controllerManager.Built
	var ports []hostcheck.FirewallPort
	if etcd != nil {
		beforeVolumes = nil // this server may not lead; see package leader
		ports = []hostcheck.FirewallPort{{Number: datastore.EtcdPeerPort, Protocol: "tcp"}}
	}
	if !c.DisableAgent {
		parts, err := s.node.Components(agent.Setup{
			Cluster:       s.cluster(),
			Credentials:   s.credentials(),
			Profiling:     c.ControlPlane.EnablePprof,
			Ports:         ports,
			BeforeVolumes: beforeVolumes,
		})
		if err != nil {
			return nil, err
		}
		components = append(components, parts...)
	}
	if !slices.Contains(c.AddOns.Disabled, localpath.AddOn) {
		alone = append(alone, &storage{
			kubeconfig: s.layout.Kubeconfig(localpath.AddOn),
			path:       c.AddOns.LocalStoragePath,
			own:        own,
			ownVolumes: s.node.Volumes(),
			tunnel:     nodes.tunnel,
			log:        s.log,
		})
	}
	if etcd == nil {
		return append(components, alone...), controlplane.SetFeatureGates()
	}
	components = append(components, s.among(etcd, tokens, controllerManager, alone)...)
	return components, controlplane.SetFeatureGates()
}

// identity is this server's name among several; empty: it is the only one.
func (s *Server) identity(etcd *datastore.Etcd) string {
	if etcd == nil {
		return ""
	}
	return s.node.Name()
}

// cluster is what nodes are told of the cluster.
func (s *Server) cluster() join.Cluster {
	n, control := s.config.Network, s.config.ControlPlane
	return join.Cluster{
		Version:           version.Version,
		ClusterCIDRs:      n.ClusterCIDRs,
		ServiceCIDRs:      n.ServiceCIDRs,
		ClusterDNS:        n.ClusterDNS,
		ClusterDomain:     n.ClusterDomain,
		DisableKubeProxy:  n.DisableKubeProxy,
		ExternalCloud:     !control.DisableCloudController,
		FlannelBackend:    n.FlannelBackend,
		FlannelExternalIP: n.FlannelExternalIP,
		FlannelIPv6Masq:   n.FlannelIPv6Masq,
		NetworkPolicy:     !n.DisableNetworkPolicy,
		ServiceLB:         !s.config.AddOns.Disables("servicelb"),
		EgressMode:        n.EgressSelectorMode,
		EmbeddedRegistry:  s.config.Images.EmbeddedRegistry,
		SupervisorMetrics: control.SupervisorMetrics,
		DefaultRegistry:   s.config.Images.DefaultRegistry,
		Servers:           s.allServers(),
	}
}

// credentials are those of the node beside the control plane.
func (s *Server) credentials() agent.Credentials {
	return agent.Credentials{
		ClientCA:  s.layout.ClientCA().Cert,
		Serving:   s.layout.Serving("kubelet"),
		Kubelet:   s.layout.Kubeconfig("kubelet"),
		KubeProxy: s.layout.Kubeconfig("kube-proxy"),
		Agent:     s.layout.Kubeconfig("agent"),
	}
}

func (s *Server) advertiseAddress() netip.Addr {
	if s.config.ControlPlane.AdvertiseAddress.IsValid() {
		return s.config.ControlPlane.AdvertiseAddress
	}
	return s.node.Addresses()[0]
}

// disabledManifests are the packaged manifests that are not deployed.
func (s *Server) disabledManifests() []string {
	if s.config.Node.Profile == config.ProfileCIS {
		return s.config.AddOns.Disabled
	}
	return append(slices.Clone(s.config.AddOns.Disabled), config.ProfileCIS)
}

func (s *Server) manifestVariables() (map[string]string, error) {
	trust, err := os.ReadFile(s.layout.ServerCA().Cert)
	if err != nil {
		return nil, err
	}
	dns := make([]string, len(s.config.Network.ClusterDNS))
	for i, address := range s.config.Network.ClusterDNS {
		dns[i] = fmt.Sprintf("%q", address)
	}
	issuer, client := s.identityProvider()
	return map[string]string{
		"OIDC_ISSUER_URL":  strconv.Quote(issuer),
		"OIDC_CLIENT_ID":   strconv.Quote(client),
		"CLUSTER_DNS":      s.config.Network.ClusterDNS[0].String(),
		"CLUSTER_DNS_LIST": strings.Join(dns, ", "),
		"CLUSTER_DOMAIN":   s.config.Network.ClusterDomain,
		"ADDONS_IMAGE":     path.Join(s.config.Images.DefaultRegistry, "kedge.io/addons:"+version.ImageTag()),
		"DATA_DIR":         s.config.Paths.DataDir,
		"SERVER_CA":        base64.StdEncoding.EncodeToString(trust),
	}, nil
}

// identityProvider is the OpenID Connect provider that the user's arguments name to
// the apiserver, which the dashboard can send people to.
func (s *Server) identityProvider() (issuer, client string) {
	for _, arg := range s.config.ControlPlane.APIServerArgs {
		switch arg.Name {
		case "oidc-issuer-url":
			issuer = arg.Value
		case "oidc-client-id":
			client = arg.Value
		}
	}
	return issuer, client
}

func (s *Server) dir() datadir.Dir {
	return datadir.Dir{Root: s.config.Paths.DataDir, Role: s.config.Paths.Server()}
}

// joinDesk makes the handler in front of the apiserver that nodes join at, once
// the certificates it works with are there.
type joinDesk struct {
	server  *Server
	nodes   *nodes
	tokens  *tokens
	servers join.Servers // nil: no others can join
	handler *join.Handler
}

func (d *joinDesk) front() (func(http.Handler) http.Handler, error) {
	layout := d.server.layout
	serverCA, err := pki.LoadCA(layout.ServerCA())
	if err != nil {
		return nil, err
	}
	clientCA, err := pki.LoadCA(layout.ClientCA())
	if err != nil {
		return nil, err
	}
	apiserver, err := pki.LoadCertificate(layout.Serving("kube-apiserver").Cert)
	if err != nil {
		return nil, err
	}
	client, err := d.nodes.connect()
	if err != nil {
		return nil, err
	}
	d.tokens.client = client
	d.handler = join.NewHandler(join.Config{
		Cluster:   d.server.cluster,
		ServerCA:  serverCA,
		ClientCA:  clientCA,
		Apiserver: apiserver,
		Tokens:    d.tokens,
		Machines:  machines{client, token.HashCA(serverCA.Bundle)},
		Servers:   d.servers,
		Tunnel:    d.nodes.tunnel,
		Log:       d.server.log,
	})
	return d.handler.InFrontOf, nil
}

func (d *joinDesk) nodeOf(r *http.Request) (node string, ok bool) { return d.handler.NodeOf(r) }
