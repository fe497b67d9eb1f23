// Package server is what a server is made of: the control plane and, beside
// it, a node.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/addon"
	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/controlplane"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/node"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// Names of the packaged images.
const pauseImage = "kedge.io/pause:1"

// stopLimit is how long everything together may take to stop.
const stopLimit = 9 * time.Second

// Server is one server, from its configuration to its end.
type Server struct {
	config  *config.Server
	payload string // directory of the unpacked programs and images
	log     *slog.Logger
	gate    Gate
	out     io.Writer // for the person who started it
	host    hostcheck.Host

	layout    pki.Layout
	addresses []netip.Addr
	cgroups   hostcheck.CgroupInfo
	// snapshotter is the configured one, or what this machine can do.
	snapshotter string
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
func New(c *config.Server, payload string, log *slog.Logger, gate Gate, out io.Writer) *Server {
	return &Server{config: c, payload: payload, log: log, gate: gate, out: out, layout: pki.NewLayout(c.Paths.Server()), snapshotter: c.Node.Snapshotter}
}

// Run starts the server and returns when ctx ends or a part of it fails for
// good. Pods keep running.
func (s *Server) Run(ctx context.Context) error {
	began := time.Now()
	if err := s.preflight(ctx); err != nil {
		return err
	}
	// What can't be used is refused here, before anything is written.
	components, err := s.components()
	if err != nil {
		return err
	}
	unlock, err := s.claimDataDir()
	if err != nil {
		return err
	}
	defer unlock()
	if s.cgroups.Version == 1 {
		s.log.Warn("this machine uses cgroup v1, which Kubernetes is about to leave behind: boot with systemd.unified_cgroup_hierarchy=1 when you can")
	}
	if err := s.prepareNode(); err != nil {
		return err
	}
	manager, err := component.NewManager(s.log, components...)
	if err != nil {
		return err
	}
	return s.supervise(ctx, manager, began)
}

// supervise runs the components until ctx ends or one fails.
func (s *Server) supervise(ctx context.Context, manager *component.Manager, began time.Time) error {
	err := manager.Start(ctx)
	switch {
	case err == nil:
		s.log.Info("started", "took", time.Since(began).Round(time.Millisecond), "timeline", timeline(manager.Timeline()))
		err = s.runUntilEnd(ctx, manager, began)
	case ctx.Err() != nil:
		err = nil // asked to stop while starting
	default:
		s.gate.Release()
	}
	s.gate.Close()
	stopping := time.Now()
	s.log.Info("stopping; pods keep running")
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	if stopErr := manager.Stop(stopCtx); stopErr != nil {
		s.log.Warn("some parts were cut off", "err", stopErr)
	}
	s.log.Info("stopped", "took", time.Since(stopping).Round(time.Millisecond))
	return err
}

// runUntilEnd announces when everything is ready, and returns when ctx ends,
// or with the error of the part that failed.
func (s *Server) runUntilEnd(ctx context.Context, manager *component.Manager, began time.Time) error {
	watching, stopWatching := context.WithCancel(ctx)
	announced := make(chan struct{})
	go func() { defer close(announced); s.announce(watching, began) }()
	defer func() { stopWatching(); <-announced }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-manager.Failures():
		s.log.Error("a part of Kedge failed; stopping the rest", "err", err)
		return err
	}
}

// timeline is the start-up in one line: each part with when it began and when
// it was ready.
func timeline(steps []component.Step) string {
	var out []string
	for _, step := range steps {
		out = append(out, fmt.Sprintf("%s %.2f–%.2fs", step.Name, step.Began.Seconds(), step.Ready.Seconds()))
	}
	return strings.Join(out, ", ")
}

// components lists what a server is made of. Each says itself what it needs
// to be ready before it starts.
func (s *Server) components() ([]component.Component, error) {
	c, paths := s.config, s.config.Paths
	agentEtc := paths.AgentEtc()
	containerdSocket := filepath.Join(config.RuntimeDir, "containerd", "containerd.sock")
	cni := filepath.Join(agentEtc, "cni", "net.d")
	pause := pauseImage
	if c.Node.PauseImage != "" {
		pause = c.Node.PauseImage
	}
	systemd := s.cgroups.Version == 2 && exists("/run/systemd/system")
	external := !c.ControlPlane.DisableCloudController

	store := datastore.NewSQLite(paths.DB(), filepath.Join(config.RuntimeDir, "datastore.sock"))
	apiserver, err := controlplane.NewAPIServer(controlplane.APIServerConfig{
		BindAddress:      c.ControlPlane.BindAddress,
		Port:             c.ControlPlane.Port,
		AdvertiseAddress: s.advertiseAddress(),
		ServiceCIDRs:     c.Network.ServiceCIDRs,
		NodePorts:        c.Network.NodePorts,
		ClusterDomain:    c.Network.ClusterDomain,
		Datastore:        store.Endpoint(),
		PKI:              s.layout,
		ConfigDir:        filepath.Join(paths.Server(), "etc"),
		Profiling:        c.ControlPlane.EnablePprof,
		ExtraArgs:        c.ControlPlane.APIServerArgs,
	})
	if err != nil {
		return nil, err
	}
	controllerManager, err := controlplane.NewControllerManager(controlplane.ControllerManagerConfig{
		ClusterCIDRs:  c.Network.ClusterCIDRs,
		ServiceCIDRs:  c.Network.ServiceCIDRs,
		PKI:           s.layout,
		VolumePlugins: filepath.Join(agentEtc, "volume-plugins"),
		CloudProvider: external,
		Profiling:     c.ControlPlane.EnablePprof,
		ExtraArgs:     c.ControlPlane.ControllerManagerArgs,
	})
	if err != nil {
		return nil, err
	}
	kubelet, err := node.NewKubelet(node.KubeletConfig{
		Node:           c.Node,
		Addresses:      s.addresses,
		ClusterDNS:     c.Network.ClusterDNS,
		ClusterDomain:  c.Network.ClusterDomain,
		ClientCA:       s.layout.ClientCA().Cert,
		Serving:        s.layout.Serving("kubelet"),
		Kubeconfig:     s.layout.Kubeconfig("kubelet"),
		RuntimeSocket:  s.runtimeEndpoint(containerdSocket),
		ResolvConf:     s.resolvConf(),
		SystemdCgroups: systemd,
		CloudProvider:  external,
		Dir:            agentEtc,
		Profiling:      c.ControlPlane.EnablePprof,
		BeforeVolumes:  controllerManager.Built,
	})
	if err != nil {
		return nil, err
	}
	components := []component.Component{
		&certificates{server: s},
		store,
		apiserver,
		controllerManager,
		kubelet,
		node.NewNetwork(node.NetworkConfig{
			NodeName:     c.Node.Name,
			ClusterCIDRs: c.Network.ClusterCIDRs,
			Kubeconfig:   s.layout.Kubeconfig("network"),
			CNIConfig:    cni,
			Log:          s.log,
		}),
		addon.NewDeployer(addon.Config{
			Dir:        paths.Manifests(),
			Disabled:   c.AddOns.Disabled,
			Variables:  s.manifestVariables(),
			Kubeconfig: s.layout.Kubeconfig("addons"),
			Log:        s.log,
		}),
	}
	if c.Node.RuntimeEndpoint == "" {
		components = append(components,
			node.NewContainerd(node.ContainerdConfig{
				Root:             paths.Containerd(),
				State:            filepath.Join(config.RuntimeDir, "containerd"),
				Socket:           containerdSocket,
				ConfigFile:       filepath.Join(agentEtc, "containerd", "config.toml"),
				PauseImage:       pause,
				Snapshotter:      s.snapshotter,
				Runc:             filepath.Join(s.payload, "bin", "runc"),
				CNIPlugins:       []string{filepath.Join(s.payload, "bin"), "/opt/cni/bin"},
				CNIConfig:        cni,
				RegistryConfig:   filepath.Join(agentEtc, "containerd", "certs.d"),
				SystemdCgroups:   systemd,
				RestrictOOMScore: !s.host.HasCapability(unix.CAP_SYS_RESOURCE),
				AppArmor:         exists("/sys/module/apparmor/parameters/enabled") && exists("/etc/apparmor.d"),
			}),
			node.NewImages(filepath.Join(s.payload, "images"), containerdSocket, s.snapshotter, s.log))
	} else {
		components = append(components, component.Nothing("containerd"))
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
		components = append(components, scheduler)
	}
	if external {
		components = append(components, controlplane.NewCloudController(s.layout, c.Node.Name))
	}
	if !c.Network.DisableKubeProxy {
		proxy, err := node.NewKubeProxy(node.KubeProxyConfig{
			NodeName:     c.Node.Name,
			ClusterCIDRs: c.Network.ClusterCIDRs,
			Kubeconfig:   s.layout.Kubeconfig("kube-proxy"),
			SetConntrack: s.host.ConntrackMaxWritable(),
			Profiling:    c.ControlPlane.EnablePprof,
			ExtraArgs:    c.Node.KubeProxyArgs,
		})
		if err != nil {
			return nil, err
		}
		components = append(components, proxy)
	}
	return components, controlplane.SetFeatureGates()
}

func (s *Server) advertiseAddress() netip.Addr {
	if s.config.ControlPlane.AdvertiseAddress.IsValid() {
		return s.config.ControlPlane.AdvertiseAddress
	}
	return s.addresses[0]
}

func (s *Server) runtimeEndpoint(own string) string {
	if s.config.Node.RuntimeEndpoint != "" {
		return s.config.Node.RuntimeEndpoint
	}
	return "unix://" + own
}

func (s *Server) manifestVariables() map[string]string {
	dns := make([]string, len(s.config.Network.ClusterDNS))
	for i, address := range s.config.Network.ClusterDNS {
		dns[i] = fmt.Sprintf("%q", address)
	}
	return map[string]string{
		"CLUSTER_DNS":      s.config.Network.ClusterDNS[0].String(),
		"CLUSTER_DNS_LIST": strings.Join(dns, ", "),
		"CLUSTER_DOMAIN":   s.config.Network.ClusterDomain,
		"ADDONS_IMAGE":     "kedge.io/addons:" + version.ImageTag(),
	}
}

// claimDataDir makes this process the only server of its data directory and
// marks the directory with this version.
func (s *Server) claimDataDir() (unlock func(), err error) {
	dir := s.config.Paths.DataDir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	for _, private := range []string{s.config.Paths.Server(), s.config.Paths.AgentEtc()} {
		if err := os.MkdirAll(private, 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(config.RuntimeDir, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockServer(s.config.Paths.Server(), os.O_CREATE)
	if err != nil {
		return nil, err
	}
	_, err = atomicfile.Update(versionFile(dir), []byte(version.Version+"\n"), 0o644)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return func() { _ = lock.Close() }, nil
}

// lockServer holds the lock of a server's directory until the file is closed
// or the process ends. With os.O_CREATE it makes the lock file.
func lockServer(dir string, create int) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|create, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another server is running on %s: stop it, or give this one a --data-dir of its own", filepath.Dir(dir))
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return lock, nil
}

func versionFile(dataDir string) string { return filepath.Join(dataDir, "server", "version") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// nodeAddresses are the configured ones, or those found for each family of the
// cluster range.
func (s *Server) nodeAddresses() ([]netip.Addr, error) {
	if ips := s.config.Node.IPs; len(ips) > 0 {
		return slices.Clone(ips), nil
	}
	return node.Addresses(s.config.Network.ClusterCIDRs)
}
