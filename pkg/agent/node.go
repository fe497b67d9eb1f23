// Package agent is what a node is made of, and the role that runs nothing else.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/flannel"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/localpath"
	"github.com/kedge-k8s/kedge/pkg/mirror"
	"github.com/kedge-k8s/kedge/pkg/node"
	"github.com/kedge-k8s/kedge/pkg/noproxy"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/preload"
	"github.com/kedge-k8s/kedge/pkg/registries"
	"github.com/kedge-k8s/kedge/pkg/servicelb"
	"github.com/kedge-k8s/kedge/pkg/sysctl"
	"github.com/kedge-k8s/kedge/pkg/upgradeplan"
)

// pauseImage is the packaged one.
const pauseImage = "kedge.io/pause:1"

// kubeletPort is where kubelets serve.
const kubeletPort = 10250

// Node is this machine as a node: what is found out about it, and its parts.
type Node struct {
	config  config.Node
	paths   config.Paths
	payload string // directory of the unpacked programs and images
	log     *slog.Logger
	host    hostcheck.Host

	cgroups   hostcheck.CgroupInfo
	podRanges []netip.Prefix // of the cluster
	addresses []netip.Addr   // one for each IP family of the cluster, the primary first
	// snapshotter is the configured one, or what this machine can do.
	snapshotter string
	registries  registries.Config
	id          string // in the node's name; empty: none
	network     *flannel.Network
	volumes     *volumes
	kubelet     *node.Kubelet
}

// NewNode makes the node that a configuration describes.
func NewNode(c config.Node, paths config.Paths, payload string, log *slog.Logger) (*Node, error) {
	n := &Node{config: c, paths: paths, payload: payload, log: log, snapshotter: c.Snapshotter}
	if !c.WithID {
		return n, nil
	}
	var err error
	if n.id, err = nodeID(); err != nil {
		return nil, err
	}
	n.config.Name += "-" + n.id
	if len(n.config.Name) > maxName {
		return nil, fmt.Errorf("--with-node-id: %s is longer than %d characters: give a shorter --node-name", n.config.Name, maxName)
	}
	return n, nil
}

// maxName is the length that fits the label kubernetes.io/hostname.
const maxName = 63

// idFile keeps the id of --with-node-id.
var idFile = filepath.Join(filepath.Dir(config.NodePasswordFile), "id")

// nodeID is the machine's id in its node's name, or a new one that Prepare keeps.
func nodeID() (string, error) {
	content, err := os.ReadFile(idFile)
	if errors.Is(err, fs.ErrNotExist) {
		return strings.ToLower(rand.Text()[:8]), nil
	}
	if err != nil {
		return "", fmt.Errorf("--with-node-id: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}

// Name is the node's name in the cluster.
func (n *Node) Name() string { return n.config.Name }

// podCIDRs are the ranges of the pods on this node, once the cluster has given
// it some.
func (n *Node) podCIDRs() []netip.Prefix {
	if n.network == nil {
		return nil
	}
	return n.network.PodCIDRs()
}

// Volumes are the directories of local volumes on this node, once it has its
// components.
func (n *Node) Volumes() localpath.Directories { return n.volumes }

// ReclaimVolumes gives the node's volume plugins back to its kubelet after
// controllers have started in this process; see node.Kubelet.
func (n *Node) ReclaimVolumes(ctx context.Context) error { return n.kubelet.ReclaimVolumes(ctx) }

// Addresses are the node's own, the primary family first; see FindAddresses.
func (n *Node) Addresses() []netip.Addr { return n.addresses }

// Check refuses a machine that can't run pods, with what to do about it, before
// anything on it is changed but the kernel's modules.
func (n *Node) Check(ctx context.Context) error {
	if err := n.host.CheckKernel(); err != nil {
		return err
	}
	if err := n.host.CheckCgroups(); err != nil {
		return err
	}
	if err := n.checkRuntime(); err != nil {
		return err
	}
	if err := n.checkKernelDefaults(); err != nil {
		return err
	}
	node.LoadModules(ctx)
	var err error
	n.cgroups, err = n.host.Cgroups()
	return err
}

// checkKernelDefaults refuses a kernel that would have to be changed, if nobody may.
func (n *Node) checkKernelDefaults() error {
	if !n.config.ProtectKernelDefaults {
		return nil
	}
	option := "--protect-kernel-defaults"
	if n.config.Profile != "" {
		option = "--profile " + n.config.Profile
	}
	if err := hostcheck.Errs(n.host.KernelDefaults()); err != nil {
		return fmt.Errorf("%s: this machine's kernel is not set up for it: %w", option, err)
	}
	return nil
}

// CheckPrivate refuses configuration that others than root may read or change, as
// --profile cis asks for. Empty paths are none.
func CheckPrivate(paths ...string) error {
	paths = slices.DeleteFunc(paths, func(path string) bool { return path == "" })
	if err := hostcheck.Errs(hostcheck.Host{}.PrivateFiles(paths...)); err != nil {
		return fmt.Errorf("--profile %s: %w", config.ProfileCIS, err)
	}
	return nil
}

// checkRuntime refuses options of the container runtime that this machine can't
// fulfil.
func (n *Node) checkRuntime() error {
	if n.config.SELinux && !exists("/sys/fs/selinux/enforce") {
		return errors.New("--selinux: SELinux is not enabled in this machine's kernel (there is no /sys/fs/selinux): enable it, or remove the option")
	}
	if err := node.CheckCredentialProviders(n.config.CredentialProviderBinDir, n.config.CredentialProviderConfig); err != nil {
		return err
	}
	if n.config.RuntimeEndpoint != "" {
		return nil
	}
	var err error
	n.registries, err = registries.Load(n.config.PrivateRegistry)
	if errors.Is(err, fs.ErrNotExist) {
		if n.config.PrivateRegistry == config.DefaultRegistries {
			return nil
		}
		return fmt.Errorf("--private-registry: %w", err)
	}
	return err
}

// CheckPorts refuses ports that others listen on.
func (n *Node) CheckPorts(ctx context.Context, ports []hostcheck.Port) error {
	for _, p := range ports {
		if err := n.host.CheckPort(ctx, p.Host, p.Number, p.Option); err != nil {
			return err
		}
	}
	return nil
}

// Ports are what a node listens on.
func Ports() []hostcheck.Port {
	return []hostcheck.Port{
		{Number: kubeletPort, Use: "kubelet", Option: "--kubelet-arg=port=…"},
		{Host: "127.0.0.1", Number: 10248, Use: "kubelet's health", Option: "--kubelet-arg=healthz-port=…"},
	}
}

// FindAddresses finds the node's address for each IP family of the cluster's pod
// ranges, unless they are configured.
func (n *Node) FindAddresses(clusterCIDRs []netip.Prefix) error {
	n.podRanges = clusterCIDRs
	if ips := n.config.IPs; len(ips) > 0 {
		n.addresses = slices.Clone(ips)
		return nil
	}
	var err error
	n.addresses, err = node.Addresses(clusterCIDRs)
	return err
}

// AvoidProxy keeps requests to pods, Services and the nodes that are known from a
// proxy. It follows FindAddresses, and comes before anything that asks the proxy.
func (n *Node) AvoidProxy(clusterCIDRs, serviceCIDRs []netip.Prefix, domain string, servers ...string) error {
	for _, a := range n.addresses {
		servers = append(servers, a.String())
	}
	return noproxy.Cluster{Ranges: slices.Concat(clusterCIDRs, serviceCIDRs), Domain: domain, Nodes: servers}.Set()
}

// CheckRanges refuses a machine on whose networks the cluster's ranges lie.
func (n *Node) CheckRanges(clusterCIDRs, serviceCIDRs []netip.Prefix) error {
	interfaces, err := hostcheck.HostInterfaces(hostcheck.OwnInterface)
	if err != nil {
		return err
	}
	return hostcheck.CheckRanges(clusterCIDRs, serviceCIDRs, interfaces)
}

// ChooseSnapshotter falls back to copying where overlayfs can't keep images.
func (n *Node) ChooseSnapshotter() {
	if n.snapshotter != "overlayfs" || n.config.RuntimeEndpoint != "" {
		return
	}
	if err := hostcheck.OverlayUsable(n.paths.DataDir); err != nil {
		n.log.Warn("using the native snapshotter, which copies images and takes more space and time", "why", err)
		n.snapshotter = "native"
	}
}

// RaiseLimits raises limits of the kernel that would soon be reached.
func (n *Node) RaiseLimits() {
	if err := rememberSettings(); err != nil {
		n.log.Warn("an uninstallation will not put the kernel's settings back", "err", err)
	}
	if err := node.RaiseLimits(); err != nil {
		n.log.Warn("a limit of this machine may be reached with many pods", "err", err)
	}
}

// rememberSettings keeps what the kernel's settings are before Kedge changes some.
func rememberSettings() error {
	if err := os.MkdirAll(config.RuntimeDir, 0o755); err != nil {
		return err
	}
	return sysctl.Host{Root: "/proc/sys"}.Save(config.SysctlFile)
}

// Prepare makes the machine ready for pods, and writes what the node's parts
// read.
func (n *Node) Prepare() error {
	if n.cgroups.Version == 1 {
		n.log.Warn("this machine uses cgroup v1, which Kubernetes is about to leave behind: boot with systemd.unified_cgroup_hierarchy=1 when you can")
	}
	if n.cgroups.Version == 2 && n.cgroups.Nested && n.cgroups.AtRoot() {
		if err := node.LeaveCgroup(hostcheck.CgroupRoot); err != nil {
			return err
		}
	}
	for _, dir := range []string{n.paths.Agent(), n.paths.AgentEtc()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(config.RuntimeDir, 0o755); err != nil {
		return err
	}
	if err := flannel.Forget(n.cniDir()); err != nil {
		return fmt.Errorf("remove an old pod network's configuration: %w", err)
	}
	if n.id != "" {
		if err := os.MkdirAll(filepath.Dir(idFile), 0o700); err != nil {
			return err
		}
		if _, err := atomicfile.Update(idFile, []byte(n.id+"\n"), 0o600); err != nil {
			return err
		}
	}
	return n.writeResolvConf()
}

func (n *Node) cniDir() string { return filepath.Join(n.paths.AgentEtc(), "cni", "net.d") }

func (n *Node) resolvConfCopy() string { return filepath.Join(n.paths.AgentEtc(), "resolv.conf") }

// resolvConf is the path of a resolv.conf that pods can use.
func (n *Node) resolvConf() string {
	if n.config.ResolvConf != "" {
		return n.config.ResolvConf
	}
	if r, ok := n.host.ResolvConf(n.podRanges); ok && !r.Filtered {
		return r.Path
	}
	return n.resolvConfCopy()
}

func (n *Node) writeResolvConf() error {
	if n.resolvConf() != n.resolvConfCopy() {
		return nil
	}
	r, found := n.host.ResolvConf(n.podRanges)
	content := r.Content
	if found {
		n.log.Info("pods get a resolv.conf without the nameservers that only this machine reaches", "from", r.Path)
	} else {
		nameserver := hostcheck.FallbackNameserver(n.podRanges)
		content = fmt.Appendf(nil, "nameserver %s\n", nameserver)
		n.log.Warn(fmt.Sprintf("this machine has no nameserver that pods can reach, so they get %s: name a file with --resolv-conf to choose another", nameserver))
	}
	_, err := atomicfile.Update(n.resolvConfCopy(), content, 0o644)
	return err
}

// ServingNames are what the node's kubelet is reached as.
func (n *Node) ServingNames() join.Names {
	names := join.Names{DNS: append([]string{n.config.Name}, slices.Concat(n.config.InternalDNS, n.config.ExternalDNS)...)}
	for _, address := range slices.Concat(n.addresses, n.config.ExternalIPs) {
		names.IPs = append(names.IPs, net.IP(address.AsSlice()))
	}
	return names
}

// annotations are what the node says of itself.
func (n *Node) annotations(c join.Cluster) map[string]string {
	images := ""
	if n.sharesImages(c) {
		images = strconv.Itoa(mirror.Port)
	}
	external := make([]string, len(n.config.ExternalIPs))
	for i, address := range n.config.ExternalIPs {
		external[i] = address.String()
	}
	return map[string]string{
		join.ExternalIPAnnotation:  strings.Join(external, ","),
		join.InternalDNSAnnotation: strings.Join(n.config.InternalDNS, ","),
		join.ExternalDNSAnnotation: strings.Join(n.config.ExternalDNS, ","),
		mirror.Annotation:          images,
	}
}

// systemdCgroups says whether systemd manages the cgroups that pods get. In a
// container its directory may be visible although it manages another tree: the
// root that this process is in would be empty if systemd ran here.
func (n *Node) systemdCgroups() bool {
	foreign := n.cgroups.Nested && n.cgroups.AtRoot()
	return n.cgroups.Version == 2 && !foreign && exists("/run/systemd/system")
}

// Credentials are the files that a node's parts are known by, and know others by.
type Credentials struct {
	ClientCA string // bundle that signs the kubelet's clients
	Serving  pki.KeyPair
	// Kubeconfigs of the kubelet, of kube-proxy and of Kedge's own parts.
	Kubelet, KubeProxy, Agent string
}

// Setup is what a node's parts are told beside their configuration.
type Setup struct {
	Cluster     join.Cluster
	Credentials Credentials
	Profiling   bool
	// Ports are what others reach on this machine beside the node's own.
	Ports []hostcheck.FirewallPort
	// BeforeVolumes returns when the controllers in this process, if there are
	// any, have initialized their volume plugins; see node.KubeletConfig.
	BeforeVolumes func(context.Context) error
}

// Components lists what a node is made of. What reaches the apiserver needs a
// component of that name. Arguments that can't be used are refused here.
func (n *Node) Components(s Setup) ([]component.Component, error) {
	agentEtc := n.paths.AgentEtc()
	socket := filepath.Join(config.RuntimeDir, "containerd", "containerd.sock")
	cni := n.cniDir()
	systemd := n.systemdCgroups()
	runtimeEndpoint := n.config.RuntimeEndpoint
	if runtimeEndpoint == "" {
		runtimeEndpoint = "unix://" + socket
	}

	kubelet, err := node.NewKubelet(node.KubeletConfig{
		Node:           n.config,
		Addresses:      n.addresses,
		ClusterDNS:     s.Cluster.ClusterDNS,
		ClusterDomain:  s.Cluster.ClusterDomain,
		ClientCA:       s.Credentials.ClientCA,
		Serving:        s.Credentials.Serving,
		Kubeconfig:     s.Credentials.Kubelet,
		RuntimeSocket:  runtimeEndpoint,
		ResolvConf:     n.resolvConf(),
		SystemdCgroups: systemd,
		CloudProvider:  s.Cluster.ExternalCloud,
		Shutdown:       exists("/run/dbus/system_bus_socket") && exists("/run/systemd/seats"),
		Dir:            agentEtc,
		Profiling:      s.Profiling,
		BeforeVolumes:  s.BeforeVolumes,
	})
	if err != nil {
		return nil, err
	}
	n.kubelet = kubelet
	gate := ""
	if s.Cluster.NetworkPolicy {
		gate = filepath.Join(config.RuntimeDir, "gate.sock")
	}
	n.network = flannel.New(flannel.Config{
		NodeName:     n.config.Name,
		NodeIPs:      n.addresses,
		ClusterCIDRs: s.Cluster.ClusterCIDRs,
		Kubeconfig:   s.Credentials.Agent,
		Kubelet:      s.Credentials.Kubelet,
		CNIConfig:    cni,
		Backend:      s.Cluster.FlannelBackend,
		Iface:        n.config.FlannelIface,
		Conf:         n.config.FlannelConf,
		CNIConf:      n.config.FlannelCNIConf,
		ExternalIP:   s.Cluster.FlannelExternalIP,
		IPv6Masq:     s.Cluster.FlannelIPv6Masq,
		Gate:         gate,
		Log:          n.log,
	})
	n.volumes = newVolumes(n.config.Name, s.Credentials.Agent, n.log)
	says := n.annotations(s.Cluster)
	if !s.Cluster.ServiceLB {
		says[servicelb.ReportAnnotation] = "" // of an earlier run
	}
	components := []component.Component{
		kubelet,
		n.volumes,
		n.network,
		node.NewAnnotations(n.config.Name, s.Credentials.Kubelet, says, n.log),
		&firewallCheck{traffic: n.traffic(s.Cluster, s.Ports), log: n.log},
		upgradeplan.NewNode(upgradeplan.NodeConfig{
			Name:   n.config.Name,
			Reads:  s.Credentials.Agent,
			Writes: s.Credentials.Kubelet,
			Dir:    n.paths.Agent(),
			Log:    n.log,
		}),
	}
	if s.Cluster.NetworkPolicy {
		components = append(components, &networkPolicy{node: n.config.Name, kubeconfig: s.Credentials.Agent, gate: gate, log: n.log})
	} else {
		components = append(components, noNetworkPolicy{})
	}
	if s.Cluster.ServiceLB {
		components = append(components, &servicePorts{
			node:       n.config.Name,
			external:   n.config.ExternalIPs,
			kubeconfig: s.Credentials.Kubelet,
			log:        n.log,
		})
	}
	if len(n.config.IPs) == 0 {
		components = append(components, &addressWatch{node: n, families: s.Cluster.ClusterCIDRs})
	}
	if n.config.RuntimeEndpoint == "" {
		parts, err := n.runtime(s, socket, cni, systemd)
		if err != nil {
			return nil, err
		}
		components = append(components, parts...)
	} else {
		components = append(components, component.Nothing("containerd"))
	}
	if !s.Cluster.DisableKubeProxy {
		proxy, err := node.NewKubeProxy(node.KubeProxyConfig{
			NodeName:     n.config.Name,
			ClusterCIDRs: s.Cluster.ClusterCIDRs,
			Kubeconfig:   s.Credentials.KubeProxy,
			SetConntrack: n.host.ConntrackMaxWritable(),
			Profiling:    s.Profiling,
			ExtraArgs:    n.config.KubeProxyArgs,
		})
		if err != nil {
			return nil, err
		}
		components = append(components, proxy)
	}
	return components, nil
}

// sharesImages says whether the node gives others the images that it has.
func (n *Node) sharesImages(c join.Cluster) bool {
	return c.EmbeddedRegistry && n.config.RuntimeEndpoint == ""
}

// runtime lists what runs containers, and how images come to it.
func (n *Node) runtime(s Setup, socket, cni string, systemd bool) ([]component.Component, error) {
	dir := filepath.Join(n.paths.AgentEtc(), "containerd")
	certs := filepath.Join(dir, "certs.d")
	live := registries.NewLive(n.registries, n.config.PrivateRegistry, certs, n.log)
	live.MirrorsOnly = n.config.DisableDefaultRegistry
	images := preload.New(preload.Config{
		Layout:      filepath.Join(n.payload, "images"),
		Prefix:      s.Cluster.DefaultRegistry,
		Dir:         n.paths.Images(),
		StateFile:   filepath.Join(n.paths.AgentEtc(), "images.json"),
		Socket:      socket,
		Snapshotter: n.snapshotter,
		Log:         n.log,
	})
	components := []component.Component{live, images}
	var peers registries.Peers
	if n.sharesImages(s.Cluster) {
		others := mirror.NewPeers(n.log)
		peers = others
		components = append(components, mirror.New(mirror.Config{
			NodeName:   n.config.Name,
			Kubeconfig: s.Credentials.Agent,
			Serving:    s.Credentials.Serving,
			ClientCA:   s.Credentials.ClientCA,
			Group:      join.AgentGroup,
			Socket:     socket,
			Shares:     live.Shares,
			Log:        n.log,
		}, others))
	}
	pause := path.Join(s.Cluster.DefaultRegistry, pauseImage)
	if n.config.PauseImage != "" {
		pause = n.config.PauseImage
	}
	containerd, err := node.NewContainerd(node.ContainerdConfig{
		Root:             n.paths.Containerd(),
		State:            filepath.Join(config.RuntimeDir, "containerd"),
		Socket:           socket,
		ConfigFile:       filepath.Join(dir, "config.toml"),
		Template:         filepath.Join(dir, "config-v3.toml.tmpl"),
		PauseImage:       pause,
		Snapshotter:      n.snapshotter,
		Runc:             filepath.Join(n.payload, "bin", "runc"),
		Runtimes:         node.FindRuntimes(),
		CNIPlugins:       []string{filepath.Join(n.payload, "bin"), "/opt/cni/bin"},
		CNIConfig:        cni,
		RegistryConfig:   certs,
		Registries:       live,
		Peers:            peers,
		Await:            images.Await,
		SystemdCgroups:   systemd,
		RestrictOOMScore: !n.host.HasCapability(unix.CAP_SYS_RESOURCE),
		AppArmor:         exists("/sys/module/apparmor/parameters/enabled") && exists("/etc/apparmor.d"),
		SELinux:          n.config.SELinux,
	}, n.log)
	return append(components, containerd), err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// NeedRoot refuses to run as anybody else.
func NeedRoot(role string) error {
	if os.Geteuid() != 0 {
		return errors.New("a " + role + " needs root: run it with sudo")
	}
	return nil
}

var errNoServer = errors.New("name a server with --server https://HOST:6443")
