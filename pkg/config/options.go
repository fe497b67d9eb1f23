package config

import (
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/kedge-k8s/kedge/pkg/encryption"
)

// Kind is the kind of value an option takes.
type Kind int

// The kinds of values. A List may be given more than once.
const (
	String Kind = iota
	Bool
	Int
	List
)

// Categories group the options in the help text.
const (
	categoryData       = "Data"
	categoryLogging    = "Logging"
	categoryJoin       = "Joining"
	categoryListener   = "Listener"
	categorySecurity   = "Security"
	categoryNetwork    = "Networking"
	categoryKubeconfig = "Admin kubeconfig"
	categoryComponents = "Components"
	categoryArgs       = "Arguments for Kubernetes components"
	categoryNode       = "Node"
	categoryRuntime    = "Container runtime"
)

// Option declares one option: flag, key of the configuration file and
// environment variable at once.
type Option struct {
	Name     string // flag without dashes, and key in the configuration file
	Aliases  []string
	Kind     Kind
	Default  string // as a person writes it, a list with commas; empty: unset, or what Help says
	Category string
	Help     string   // one sentence, without Default; the value's placeholder in backquotes
	Choices  []string // the only values there are; empty: any valid one
	// Whole marks a list whose values hold commas: it is given value by value.
	// Any other list is also split at commas.
	Whole bool

	bind binding
}

// EnvVar returns the name of the option's environment variable.
func (o Option) EnvVar() string {
	return "KEDGE_" + strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_"))
}

// Flag returns the option's name with the dashes it has on a command line.
func (o Option) Flag() string {
	if len(o.Name) == 1 {
		return "-" + o.Name
	}
	return "--" + o.Name
}

// split returns the values in a text that gives the option.
func (o Option) split(text string) []string {
	if o.Kind != List || o.Whole {
		return []string{text}
	}
	var values []string
	for v := range strings.SplitSeq(text, ",") {
		if v = strings.TrimSpace(v); v != "" {
			values = append(values, v)
		}
	}
	return values
}

// A binding parses an option's values and stores them in the field that the
// option is for. A role other than the server takes a part of the table, and
// that part of the Server. A value that is refused is named with its origin.
type binding func(*Server, []value) error

// one binds an option of a single value.
func one[T any](parse func(string) (T, error), field func(*Server) *T) binding {
	return func(s *Server, values []value) error {
		v, err := parse(values[0].text)
		if err != nil {
			return values[0].refuse(err)
		}
		*field(s) = v
		return nil
	}
}

// many binds a list. The checks are of the list as a whole; what they refuse
// came with its last value.
func many[T any](parse func(string) (T, error), field func(*Server) *[]T, checks ...func([]T) error) binding {
	return func(s *Server, values []value) error {
		var list []T
		for _, v := range values {
			item, err := parse(v.text)
			if err != nil {
				return v.refuse(err)
			}
			list = append(list, item)
		}
		for _, check := range checks {
			if err := check(list); err != nil && len(values) > 0 {
				return values[len(values)-1].refuse(err)
			}
		}
		*field(s) = list
		return nil
	}
}

// labels binds the node's labels; the last value of a key counts.
func labels(s *Server, values []value) error {
	m := make(map[string]string, len(values))
	for _, v := range values {
		key, val, err := parseLabel(v.text)
		if err != nil {
			return v.refuse(err)
		}
		m[key] = val
	}
	s.Node.Labels = m
	return nil
}

// readLater binds a file whose content is the value: only the one that counts
// in the end is read.
func readLater(*Server, []value) error { return nil }

// ServerOptions returns the options of the server role, in the order in which
// a person is shown them.
func ServerOptions() []Option {
	return slices.Concat(commonOptions(), serverJoinOptions(), tokenOptions(), agentTokenOptions(), clusterOptions(), datastoreOptions(), SnapshotOptions(), nodeOptions())
}

// AgentOptions returns the options of the agent role, in the order in which a
// person is shown them.
func AgentOptions() []Option {
	return slices.Concat(commonOptions(), agentOptions(), tokenOptions(), nodeOptions())
}

// commonOptions are those of every role.
func commonOptions() []Option {
	return []Option{
		{
			Name: "config", Aliases: []string{"c"}, Default: DefaultConfigFile, Category: categoryData,
			Help: "Read options from this YAML `FILE`, and then from FILE.d/*.yaml",
			bind: one(parseNeededPath, func(s *Server) *string { return &s.ConfigFile }),
		},
		{
			Name: "data-dir", Aliases: []string{"d"}, Default: DefaultDataDir, Category: categoryData,
			Help: "Keep all state in this `DIRECTORY`",
			bind: one(parseNeededPath, func(s *Server) *string { return &s.Paths.DataDir }),
		},
		{
			Name: "debug", Kind: Bool, Category: categoryLogging,
			Help: "Log debug messages too",
			bind: one(parseBool, func(s *Server) *bool { return &s.Logging.Debug }),
		},
		{
			Name: "v", Kind: Int, Default: "0", Category: categoryLogging,
			Help: "Log Kubernetes in this detail, a `LEVEL` from 0 to 10",
			bind: one(parseVerbosity, func(s *Server) *int { return &s.Logging.Verbosity }),
		},
		{
			Name: "vmodule", Category: categoryLogging,
			Help: "Set Kubernetes' log level for single source files, as `PATTERN=LEVEL` with commas between",
			bind: one(parseVModule, func(s *Server) *string { return &s.Logging.VModule }),
		},
		{
			Name: "log", Aliases: []string{"l"}, Category: categoryLogging,
			Help: "Log to this `FILE` (default: standard error)",
			bind: one(parsePath, func(s *Server) *string { return &s.Logging.File }),
		},
	}
}

// agentOptions are those of agents only.
func agentOptions() []Option {
	return []Option{
		serverOption(),
		{
			Name: "lb-server-port", Kind: Int, Default: "6444", Category: categoryJoin,
			Help: "Let the node's components reach the servers through this local TCP `PORT`, from 1 to 65535",
			bind: one(parsePort, func(s *Server) *uint16 { return &s.Node.LBPort }),
		},
	}
}

// tokenOptions are those of every role, as machines join with the token that
// servers take.
func tokenOptions() []Option {
	return []Option{
		{
			Name: "token", Aliases: []string{"t"}, Category: categoryJoin,
			Help: "Join with this `TOKEN`, or let machines join with it (default: a new cluster makes one)",
			bind: one(parseToken, func(s *Server) *Secret { return &s.Join.Token }),
		},
		{
			Name: "token-file", Category: categoryJoin,
			Help: "Read the token from this `FILE`, where no other user sees it",
			bind: readLater,
		},
	}
}

// agentTokenOptions are those of servers only, about what agents join with.
func agentTokenOptions() []Option {
	return []Option{
		{
			Name: "agent-token", Category: categoryJoin,
			Help: "Let agents, but no servers, join with this `TOKEN` (default: a new cluster makes one)",
			bind: one(parseToken, func(s *Server) *Secret { return &s.Join.AgentToken }),
		},
		{
			Name: "agent-token-file", Category: categoryJoin,
			Help: "Read the agents' token from this `FILE`, where no other user sees it",
			bind: readLater,
		},
	}
}

// clusterOptions are those of the control plane and the cluster as a whole.
func clusterOptions() []Option {
	return []Option{
		{
			Name: "bind-address", Default: "0.0.0.0", Category: categoryListener,
			Help: "Serve the Kubernetes API on this IP `ADDRESS`; 0.0.0.0 is every address, IPv6 included",
			bind: one(parseBindAddr, func(s *Server) *netip.Addr { return &s.ControlPlane.BindAddress }),
		},
		{
			Name: "https-listen-port", Kind: Int, Default: "6443", Category: categoryListener,
			Help: "Serve the Kubernetes API on this TCP `PORT`, from 1 to 65535",
			bind: one(parsePort, func(s *Server) *uint16 { return &s.ControlPlane.Port }),
		},
		{
			Name: "advertise-address", Category: categoryListener,
			Help: "Tell pods and nodes to reach the Kubernetes API at this IP `ADDRESS` (default: the node's)",
			bind: one(parseHostAddr, func(s *Server) *netip.Addr { return &s.ControlPlane.AdvertiseAddress }),
		},
		{
			Name: "tls-san", Kind: List, Category: categoryListener,
			Help: "Let clients also reach the Kubernetes API by this `NAME`, a host name or IP address; may be repeated",
			bind: many(parseSAN, func(s *Server) *[]string { return &s.ControlPlane.TLSSANs }),
		},
		{
			Name: "secrets-encryption", Kind: Bool, Default: "true", Category: categorySecurity,
			Help: "Encrypt Secrets in the datastore of a new cluster; kedge secrets-encrypt changes one that exists",
			bind: one(parseBool, func(s *Server) *bool { return &s.Security.EncryptSecrets }),
		},
		{
			Name: "secrets-encryption-provider", Default: encryption.Providers()[0], Choices: encryption.Providers(), Category: categorySecurity,
			Help: "Make keys for Secrets of this `CIPHER`: secretbox, or aescbc where only FIPS 140's algorithms are allowed",
			bind: one(choice("cipher", encryption.Providers()), func(s *Server) *string { return &s.Security.EncryptionProvider }),
		},
		{
			Name: "audit-policy-file", Category: categorySecurity,
			Help: "Write what happens in the cluster to the audit log, as the Policy in this `FILE` says",
			bind: one(parsePath, func(s *Server) *string { return &s.Security.AuditPolicyFile }),
		},
		{
			Name: "audit-log-path", Category: categorySecurity,
			Help: "Write the audit log to this `FILE` (default: server/logs/audit.log in data-dir)",
			bind: one(parsePath, func(s *Server) *string { return &s.Security.AuditLogPath }),
		},
		{
			Name: "pod-security-admission-config-file", Category: categorySecurity,
			Help: "Take the Pod Security standards that namespaces have by default from the AdmissionConfiguration in this `FILE`",
			bind: one(parsePath, func(s *Server) *string { return &s.Security.PodSecurityFile }),
		},
		{
			Name: "cluster-cidr", Kind: List, Default: "10.42.0.0/16", Category: categoryNetwork,
			Help: "Give pods addresses from this `CIDR` range; one IPv4 and one IPv6 range make a dual-stack cluster",
			bind: many(parseRange, func(s *Server) *[]netip.Prefix { return &s.Network.ClusterCIDRs }, oneRangePerFamily),
		},
		{
			Name: "service-cidr", Kind: List, Default: "10.43.0.0/16", Category: categoryNetwork,
			Help: "Give Services addresses from this `CIDR` range; of the same IP families as cluster-cidr",
			bind: many(parseServiceRange, func(s *Server) *[]netip.Prefix { return &s.Network.ServiceCIDRs }, oneRangePerFamily),
		},
		{
			Name: "service-node-port-range", Default: "30000-32767", Category: categoryNetwork,
			Help: "Give Services of type NodePort their ports from this `RANGE`, as FIRST-LAST",
			bind: one(parseNodePorts, func(s *Server) *NodePortRange { return &s.Network.NodePorts }),
		},
		{
			Name: "cluster-dns", Kind: List, Category: categoryNetwork,
			Help: "Give the cluster's DNS service this IP `ADDRESS` inside service-cidr (default: the 10th of each range)",
			bind: many(parseAddr, func(s *Server) *[]netip.Addr { return &s.Network.ClusterDNS }, oneAddrPerFamily),
		},
		{
			Name: "cluster-domain", Default: "cluster.local", Category: categoryNetwork,
			Help: "Put the names of Services under this DNS `DOMAIN`",
			bind: one(parseDomain, func(s *Server) *string { return &s.Network.ClusterDomain }),
		},
		{
			Name: "flannel-backend", Default: "vxlan", Choices: flannelBackends(), Category: categoryNetwork,
			Help: "Connect the pods of all nodes by this `BACKEND`: vxlan, host-gw, wireguard-native, or none for a pod network of your own",
			bind: one(choice("pod network", flannelBackends()), func(s *Server) *string { return &s.Network.FlannelBackend }),
		},
		{
			Name: "flannel-external-ip", Kind: Bool, Category: categoryNetwork,
			Help: "Send pod traffic between nodes to their external addresses",
			bind: one(parseBool, func(s *Server) *bool { return &s.Network.FlannelExternalIP }),
		},
		{
			Name: "flannel-ipv6-masq", Kind: Bool, Category: categoryNetwork,
			Help: "Let pods reach IPv6 hosts outside the cluster under the address of their node",
			bind: one(parseBool, func(s *Server) *bool { return &s.Network.FlannelIPv6Masq }),
		},
		{
			Name: "egress-selector-mode", Default: "agent", Choices: egressSelectorModes(), Category: categoryNetwork,
			Help: "Let kube-apiserver use the nodes' tunnels in this `MODE`: disabled, agent to reach kubelets, pod to reach pods too by the ranges of their nodes, or cluster to reach pods in any pod network",
			bind: one(choice("mode", egressSelectorModes()), func(s *Server) *string { return &s.Network.EgressSelectorMode }),
		},
		{
			Name: "write-kubeconfig", Aliases: []string{"o"}, Default: DefaultKubeconfig, Category: categoryKubeconfig,
			Help: "Write the administrator's kubeconfig to this `FILE`, to which the default becomes a link",
			bind: one(parseNeededPath, func(s *Server) *string { return &s.Kubeconfig.Path }),
		},
		{
			Name: "write-kubeconfig-mode", Default: "0600", Category: categoryKubeconfig,
			Help: "Write the kubeconfig with this octal `MODE`; others than owner and group may at most read it",
			bind: one(parseMode, func(s *Server) *fs.FileMode { return &s.Kubeconfig.Mode }),
		},
		{
			Name: "write-kubeconfig-group", Category: categoryKubeconfig,
			Help: "Write the kubeconfig with this owning `GROUP`, a name or number; write-kubeconfig-mode 0640 lets it read (default: root's)",
			bind: one(parseText, func(s *Server) *string { return &s.Kubeconfig.Group }),
		},
		{
			Name: "disable", Kind: List, Choices: addOnNames(), Category: categoryComponents,
			Help: "Do not deploy this packaged `ADD-ON`, and delete it where it was deployed (one of: " + strings.Join(addOnNames(), ", ") + "); may be repeated",
			bind: many(choice("add-on", addOnNames()), func(s *Server) *[]string { return &s.AddOns.Disabled }),
		},
		{
			Name: "disable-agent", Kind: Bool, Category: categoryComponents,
			Help: "Run the control plane only, no node",
			bind: one(parseBool, func(s *Server) *bool { return &s.DisableAgent }),
		},
		{
			Name: "disable-scheduler", Kind: Bool, Category: categoryComponents,
			Help: "Do not run kube-scheduler",
			bind: one(parseBool, func(s *Server) *bool { return &s.ControlPlane.DisableScheduler }),
		},
		{
			Name: "disable-kube-proxy", Kind: Bool, Category: categoryComponents,
			Help: "Do not run kube-proxy; something else must then serve the addresses of Services",
			bind: one(parseBool, func(s *Server) *bool { return &s.Network.DisableKubeProxy }),
		},
		{
			Name: "disable-network-policy", Kind: Bool, Category: categoryComponents,
			Help: "Do not enforce NetworkPolicies; something else may then do so",
			bind: one(parseBool, func(s *Server) *bool { return &s.Network.DisableNetworkPolicy }),
		},
		{
			Name: "disable-cloud-controller", Kind: Bool, Category: categoryComponents,
			Help: "Do not run Kedge's cloud provider; nodes wait for another one only with kubelet-arg cloud-provider=external",
			bind: one(parseBool, func(s *Server) *bool { return &s.ControlPlane.DisableCloudController }),
		},
		{
			Name: "embedded-registry", Kind: Bool, Category: categoryComponents,
			Help: "Let nodes give each other the images they have, of the registries that private-registry names in mirrors",
			bind: one(parseBool, func(s *Server) *bool { return &s.Images.EmbeddedRegistry }),
		},
		{
			Name: "system-default-registry", Category: categoryComponents,
			Help: "Take the images of packaged add-ons, and the nodes' pause image, under names that begin with this `REGISTRY`, HOST[:PORT][/PATH]",
			bind: one(parseRegistry, func(s *Server) *string { return &s.Images.DefaultRegistry }),
		},
		{
			Name: "disable-helm-controller", Kind: Bool, Category: categoryComponents,
			Help: "Do not install the charts of HelmChart objects; what is installed stays",
			bind: one(parseBool, func(s *Server) *bool { return &s.AddOns.DisableHelm }),
		},
		{
			Name: "default-local-storage-path", Category: categoryComponents,
			Help: "Keep the volumes of storage class local-path in this `DIRECTORY` (default: storage in data-dir)",
			bind: one(parsePath, func(s *Server) *string { return &s.AddOns.LocalStoragePath }),
		},
		{
			Name: "enable-pprof", Kind: Bool, Category: categoryComponents,
			Help: "Serve Go's profiles to administrators on the API port under /debug/pprof",
			bind: one(parseBool, func(s *Server) *bool { return &s.ControlPlane.EnablePprof }),
		},
		{
			Name: "supervisor-metrics", Kind: Bool, Category: categoryComponents,
			Help: "Tell Prometheus of Kedge itself too, on the API port under /metrics, and serve the same on the same port of agents",
			bind: one(parseBool, func(s *Server) *bool { return &s.ControlPlane.SupervisorMetrics }),
		},
		argOption("kube-apiserver", func(s *Server) *[]Arg { return &s.ControlPlane.APIServerArgs }),
		argOption("kube-controller-manager", func(s *Server) *[]Arg { return &s.ControlPlane.ControllerManagerArgs }),
		argOption("kube-scheduler", func(s *Server) *[]Arg { return &s.ControlPlane.SchedulerArgs }),
	}
}

// nodeOptions are those of every role that runs a node.
func nodeOptions() []Option {
	return []Option{
		argOption("kubelet", func(s *Server) *[]Arg { return &s.Node.KubeletArgs }),
		argOption("kube-proxy", func(s *Server) *[]Arg { return &s.Node.KubeProxyArgs }),
		{
			Name: "node-name", Category: categoryNode,
			Help: "Register the node under this `NAME`, up to 63 characters (default: the host name)",
			bind: one(parseNodeName, func(s *Server) *string { return &s.Node.Name }),
		},
		{
			Name: "with-node-id", Kind: Bool, Category: categoryNode,
			Help: "Append a random, lasting id to the node's name",
			bind: one(parseBool, func(s *Server) *bool { return &s.Node.WithID }),
		},
		{
			Name: "node-ip", Aliases: []string{"i"}, Kind: List, Category: categoryNode,
			Help: "Register the node with this IP `ADDRESS`, at most one IPv4 and one IPv6 (default: that of the default route)",
			bind: many(parseHostAddr, func(s *Server) *[]netip.Addr { return &s.Node.IPs }, oneAddrPerFamily),
		},
		{
			Name: "node-external-ip", Kind: List, Category: categoryNode,
			Help: "Register the node with this external IP `ADDRESS`, at which hosts outside the cluster's network reach it, at most one IPv4 and one IPv6",
			bind: many(parseHostAddr, func(s *Server) *[]netip.Addr { return &s.Node.ExternalIPs }, oneAddrPerFamily),
		},
		{
			Name: "node-internal-dns", Kind: List, Category: categoryNode,
			Help: "Register the node with this host `NAME` for its internal address; may be repeated",
			bind: many(parseHostName, func(s *Server) *[]string { return &s.Node.InternalDNS }),
		},
		{
			Name: "node-external-dns", Kind: List, Category: categoryNode,
			Help: "Register the node with this host `NAME` for its external address; may be repeated",
			bind: many(parseHostName, func(s *Server) *[]string { return &s.Node.ExternalDNS }),
		},
		{
			Name: "node-label", Kind: List, Category: categoryNode,
			Help: "Register the node with this label, as `KEY=VALUE`; may be repeated",
			bind: labels,
		},
		{
			Name: "node-taint", Kind: List, Category: categoryNode,
			Help: "Register the node with this taint, as `KEY=VALUE:EFFECT` with effect NoSchedule, PreferNoSchedule or NoExecute; may be repeated",
			bind: many(parseTaint, func(s *Server) *[]Taint { return &s.Node.Taints }, distinctTaints),
		},
		{
			Name: "resolv-conf", Category: categoryNode,
			Help: "Take the DNS servers of pods from this resolv.conf `FILE` (default: the host's, or the real one behind a local resolver)",
			bind: one(parsePath, func(s *Server) *string { return &s.Node.ResolvConf }),
		},
		{
			Name: "protect-kernel-defaults", Kind: Bool, Category: categoryNode,
			Help: "Refuse to start on kernel settings other than the kubelet wants, instead of changing them",
			bind: one(parseBool, func(s *Server) *bool { return &s.Node.ProtectKernelDefaults }),
		},
		{
			Name: "profile", Choices: profiles(), Category: categoryNode,
			Help: "Harden Kedge by this `PROFILE`, and refuse to start where the machine does not allow it: cis for the CIS Kubernetes Benchmark",
			bind: one(choice("profile", profiles()), func(s *Server) *string { return &s.Node.Profile }),
		},
		{
			Name: "flannel-iface", Category: categoryNode,
			Help: "Send pod traffic to other nodes through this network `INTERFACE` (default: that of the node's address)",
			bind: one(parseInterface, func(s *Server) *string { return &s.Node.FlannelIface }),
		},
		{
			Name: "flannel-conf", Category: categoryNode,
			Help: "Run flannel with this configuration `FILE` (default: Kedge's own)",
			bind: one(parsePath, func(s *Server) *string { return &s.Node.FlannelConf }),
		},
		{
			Name: "flannel-cni-conf", Category: categoryNode,
			Help: "Connect pods to flannel by this CNI configuration `FILE` (default: Kedge's own)",
			bind: one(parsePath, func(s *Server) *string { return &s.Node.FlannelCNIConf }),
		},
		{
			Name: "container-runtime-endpoint", Category: categoryRuntime,
			Help: "Use the container runtime that listens on this `SOCKET`, a path, instead of Kedge's containerd",
			bind: one(parseEndpoint, func(s *Server) *string { return &s.Node.RuntimeEndpoint }),
		},
		{
			Name: "snapshotter", Default: "overlayfs", Choices: snapshotters(), Category: categoryRuntime,
			Help: "Let containerd keep images with this `SNAPSHOTTER`, overlayfs or native",
			bind: one(choice("snapshotter", snapshotters()), func(s *Server) *string { return &s.Node.Snapshotter }),
		},
		{
			Name: "pause-image", Category: categoryRuntime,
			Help: "Hold the namespaces of pods with this `IMAGE` (default: Kedge's own)",
			bind: one(parseImage, func(s *Server) *string { return &s.Node.PauseImage }),
		},
		{
			Name: "private-registry", Default: DefaultRegistries, Category: categoryRuntime,
			Help: "Read the mirrors of image registries, and the credentials for them, from this YAML `FILE`",
			bind: one(parseNeededPath, func(s *Server) *string { return &s.Node.PrivateRegistry }),
		},
		{
			Name: "disable-default-registry-endpoint", Kind: Bool, Category: categoryRuntime,
			Help: "Never ask a registry itself that private-registry names in mirrors, only its endpoints",
			bind: one(parseBool, func(s *Server) *bool { return &s.Node.DisableDefaultRegistry }),
		},
		{
			Name: "image-credential-provider-bin-dir", Category: categoryRuntime,
			Help: "Let the kubelet ask the programs in this `DIRECTORY` for image registries' credentials; with image-credential-provider-config",
			bind: one(parsePath, func(s *Server) *string { return &s.Node.CredentialProviderBinDir }),
		},
		{
			Name: "image-credential-provider-config", Category: categoryRuntime,
			Help: "Read which programs to ask for which images from this `FILE`; with image-credential-provider-bin-dir",
			bind: one(parsePath, func(s *Server) *string { return &s.Node.CredentialProviderConfig }),
		},
		{
			Name: "selinux", Kind: Bool, Category: categoryRuntime,
			Help: "Let containerd label containers for SELinux",
			bind: one(parseBool, func(s *Server) *bool { return &s.Node.SELinux }),
		},
	}
}

func argOption(component string, field func(*Server) *[]Arg) Option {
	return Option{
		Name: component + "-arg", Kind: List, Whole: true, Category: categoryArgs,
		Help: "Pass this argument to " + component + ", as `KEY=VALUE`; may be repeated",
		bind: many(parseArg, field),
	}
}

// addOnNames are the packaged add-ons that can be disabled.
func addOnNames() []string {
	return []string{"coredns", "dashboard", "gateway-api", "ingress", "local-storage", "metrics-server", "runtimes", "servicelb"}
}

func profiles() []string { return []string{ProfileCIS} }

func snapshotters() []string { return []string{"overlayfs", "native"} }

func flannelBackends() []string { return []string{"vxlan", "host-gw", "wireguard-native", "none"} }

func egressSelectorModes() []string { return []string{"disabled", "agent", "pod", "cluster"} }
