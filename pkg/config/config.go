// Package config builds the configuration of a Kedge role: one typed value,
// validated once and not changed afterwards.
//
// A value comes from, each winning over the ones before it: the default, the
// configuration file, its drop-in files in lexical order, the environment
// (KEDGE_*), and the command line. A list replaces the whole list of lower
// sources, unless a file gives it as "key+", which appends to it.
//
// Every option is declared once, in the table of options.go. Each part of a
// Server is what one kind of component needs to know, and is handed over alone.
package config

import (
	"io/fs"
	"net/netip"
	"strconv"
)

// Defaults that others need before, or without, a loaded configuration.
const (
	DefaultConfigFile = "/etc/kedge/config.yaml"
	DefaultDataDir    = "/var/lib/kedge"
	DefaultKubeconfig = "/etc/kedge/kedge.yaml"
)

// Server is the configuration of the server role: the control plane and the
// node beside it. LoadServer makes it; nobody changes it.
type Server struct {
	// ConfigFile is the configuration file, whether it exists or not. Its
	// drop-in files are in the directory of the same name with ".d" added.
	ConfigFile   string
	Paths        Paths
	Logging      Logging
	Network      Network
	ControlPlane ControlPlane
	AddOns       AddOns
	Kubeconfig   Kubeconfig
	Node         Node
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

	APIServerArgs         []Arg
	ControllerManagerArgs []Arg
	SchedulerArgs         []Arg
}

// AddOns says which packaged add-ons are deployed, and how.
type AddOns struct {
	Disabled         []string
	LocalStoragePath string // directory of the volumes of class local-path
}

// Kubeconfig is the file for administrators that the server writes.
type Kubeconfig struct {
	Path  string
	Mode  fs.FileMode
	Group string // name or number of the owning group; empty: root's
}

// Node is the configuration of one node, the same for every role.
type Node struct {
	Name   string
	IPs    []netip.Addr      // at most one for each IP family; empty: found on the host
	Labels map[string]string // set when the node registers
	Taints []Taint           // set when the node registers

	Snapshotter     string // overlayfs or native
	PauseImage      string // empty: Kedge's own
	RuntimeEndpoint string // unix:// address of the host's own container runtime; empty: Kedge's containerd
	ResolvConf      string // resolv.conf for pods; empty: found on the host

	ProtectKernelDefaults bool

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
