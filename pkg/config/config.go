// Package config builds the configuration of a Kedge role: one typed value,
// validated once and not changed afterwards.
//
// A value comes from, each winning over the ones before it: the default, the
// configuration file, its drop-in files in lexical order, the environment
// (KEDGE_*), and the command line. A list replaces the whole list of lower
// sources, unless a file gives it as "key+", which appends to it.
//
// Every option is declared once, in the table of options.go. Each part of a
// Server or Agent is what one kind of component needs to know, and is handed
// over alone.
package config

import (
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
)

// Defaults that others need before, or without, a loaded configuration.
const (
	DefaultConfigFile = "/etc/kedge/config.yaml"
	DefaultDataDir    = "/var/lib/kedge"
	DefaultKubeconfig = "/etc/kedge/kedge.yaml"
	DefaultRegistries = "/etc/kedge/registries.yaml"
	DefaultTokenFile  = "/etc/kedge/token" //nolint:gosec // a path
)

// ProfileCIS is the profile that follows the CIS Kubernetes Benchmark.
const ProfileCIS = "cis"

// Server is the configuration of the server role: the control plane and,
// unless DisableAgent, the node beside it. LoadServer makes it; nobody changes
// it.
type Server struct {
	// ConfigFile is the configuration file, whether it exists or not. Its
	// drop-in files are in the directory of the same name with ".d" added.
	ConfigFile   string
	Paths        Paths
	Logging      Logging
	Network      Network
	ControlPlane ControlPlane
	Security     Security
	AddOns       AddOns
	Images       Images
	Kubeconfig   Kubeconfig
	Join         Join
	Datastore    Datastore
	Snapshots    Snapshots
	Etcd         Etcd
	DisableAgent bool // run the control plane only, no node
	Node         Node

	Warnings []string // what to log about values that are taken, but not good
}

// Agent is the configuration of the agent role: a node, which takes what all
// nodes agree on from the server that it joins. LoadAgent makes it; nobody
// changes it.
type Agent struct {
	ConfigFile string
	Paths      Paths
	Logging    Logging
	Join       Join
	Node       Node

	Warnings []string // as a server's
}

// Join is how machines join a cluster: as an agent does, and as a server lets
// them.
type Join struct {
	Server     string // URL of a server to join, https://HOST:PORT; empty on a cluster's first server
	Token      Secret // the cluster's token; empty: a server makes one, an agent has joined before
	AgentToken Secret // the token with which only agents join; empty: the server makes one
}

// Logging says what is logged, and where.
type Logging struct {
	Debug     bool   // log Kedge's own debug messages
	Verbosity int    // Kubernetes' verbosity (klog's -v)
	VModule   string // Kubernetes' verbosity by source file: pattern=level,…
	File      string // log to this file; empty: standard error
}

// Network is what all nodes of a cluster agree on. Ranges and addresses hold
// one entry for each IP family, the primary family first; cluster and service
// ranges are of the same families.
type Network struct {
	ClusterCIDRs     []netip.Prefix // pods
	ServiceCIDRs     []netip.Prefix // Services
	NodePorts        NodePortRange
	ClusterDNS       []netip.Addr // the DNS Service, inside ServiceCIDRs
	ClusterDomain    string       // without a final dot
	DisableKubeProxy bool

	FlannelBackend       string // vxlan, host-gw, wireguard-native, or none: another pod network
	FlannelExternalIP    bool   // send pod traffic to the nodes' external addresses
	FlannelIPv6Masq      bool   // pods reach IPv6 hosts outside under the address of their node
	DisableNetworkPolicy bool

	EgressSelectorMode string // what kube-apiserver uses the nodes' tunnels for: disabled, agent, pod or cluster
}

// NodePortRange is a range of ports, both ends included.
type NodePortRange struct {
	First, Last uint16
}

// String returns the range as kube-apiserver takes it, such as 30000-32767.
func (r NodePortRange) String() string {
	return strconv.Itoa(int(r.First)) + "-" + strconv.Itoa(int(r.Last))
}

// ControlPlane is the configuration of kube-apiserver,
// kube-controller-manager, kube-scheduler and the cloud provider.
type ControlPlane struct {
	BindAddress      netip.Addr // listen here; 0.0.0.0 or :: is every address
	Port             uint16
	AdvertiseAddress netip.Addr // zero (not valid): the node's address
	TLSSANs          []string   // further host names and IP addresses of the serving certificate

	DisableScheduler       bool
	DisableCloudController bool
	EnablePprof            bool
	SupervisorMetrics      bool // tell Prometheus of Kedge itself, on agents too

	APIServerArgs         []Arg
	ControllerManagerArgs []Arg
	SchedulerArgs         []Arg
}

// Security says how the control plane is hardened.
type Security struct {
	EncryptSecrets     bool   // in the datastore of a new cluster
	EncryptionProvider string // cipher of new keys
	AuditPolicyFile    string // what is written to the audit log; empty: nothing
	AuditLogPath       string // the audit log
	PodSecurityFile    string // AdmissionConfiguration of kube-apiserver; empty: upstream's
}

// AddOns says which packaged add-ons are deployed, and how.
type AddOns struct {
	Disabled         []string
	DisableHelm      bool   // leave HelmChart objects alone
	LocalStoragePath string // directory of the volumes of class local-path
}

// Disables says whether an add-on is disabled.
func (a AddOns) Disables(name string) bool { return slices.Contains(a.Disabled, name) }

// Images says where the nodes' images come from.
type Images struct {
	EmbeddedRegistry bool   // nodes give each other what they have
	DefaultRegistry  string // in front of the names of packaged images; empty: none
}

// Kubeconfig is the file for administrators that the server writes.
type Kubeconfig struct {
	Path  string
	Mode  fs.FileMode
	Group string // name or number of the owning group; empty: root's
}

// Node is the configuration of one node, the same for every role.
type Node struct {
	Name        string
	WithID      bool              // append a random, lasting id to the name
	IPs         []netip.Addr      // at most one for each IP family; empty: found on the host
	ExternalIPs []netip.Addr      // at most one for each IP family
	InternalDNS []string          // host names
	ExternalDNS []string          // host names
	Labels      map[string]string // set when the node registers
	Taints      []Taint           // set when the node registers

	FlannelIface   string // network interface of the pod network; empty: that of the node's address
	FlannelConf    string // flannel's configuration file; empty: Kedge's own
	FlannelCNIConf string // the CNI configuration file for flannel; empty: Kedge's own
	LBPort         uint16 // where an agent's load balancer for the Kubernetes API listens on loopback; 0 on servers

	Snapshotter              string // overlayfs or native
	PauseImage               string // empty: Kedge's own
	RuntimeEndpoint          string // unix:// address of the host's own container runtime; empty: Kedge's containerd
	PrivateRegistry          string // file of registry mirrors and credentials, whether it exists or not
	CredentialProviderBinDir string // of the kubelet's image credential providers; empty: there are none
	CredentialProviderConfig string // given if and only if CredentialProviderBinDir is
	DisableDefaultRegistry   bool   // registries with a mirror are not asked themselves
	SELinux                  bool   // containerd labels containers for SELinux
	ResolvConf               string // resolv.conf for pods; empty: found on the host

	ProtectKernelDefaults bool
	Profile               string // cis: as the CIS Kubernetes Benchmark asks for; empty: none

	KubeletArgs   []Arg
	KubeProxyArgs []Arg
}

// Taint keeps pods that do not tolerate it off a node.
type Taint struct {
	Key, Value string
	Effect     string // NoSchedule, PreferNoSchedule or NoExecute
}

// Arg is one more command-line argument for a Kubernetes component.
type Arg struct {
	Name  string // without leading dashes
	Value string
}

// String returns the argument as the component's command line takes it.
func (a Arg) String() string { return "--" + a.Name + "=" + a.Value }
