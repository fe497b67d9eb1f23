package config

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func hostname() (string, error) { return "Host.Example", nil }

// tree writes files into a new directory and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load loads a server whose default configuration file is config.yaml among
// the files. In an error the directory of the files is written as DIR.
func load(t *testing.T, files map[string]string, env []string, flags Flags) (*Server, error) {
	t.Helper()
	dir := tree(t, files)
	s, err := loadServer(flags, env, filepath.Join(dir, "config.yaml"), hostname)
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), dir, "DIR"))
	}
	return s, err
}

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, s := range texts {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

func ranges(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

func TestDefaults(t *testing.T) {
	dir := t.TempDir()
	got, err := loadServer(nil, nil, filepath.Join(dir, "config.yaml"), hostname)
	if err != nil {
		t.Fatal(err)
	}
	want := &Server{
		ConfigFile: "/etc/kedge/config.yaml",
		Paths:      Paths{DataDir: "/var/lib/kedge"},
		Network: Network{
			ClusterCIDRs:  ranges("10.42.0.0/16"),
			ServiceCIDRs:  ranges("10.43.0.0/16"),
			NodePorts:     NodePortRange{30000, 32767},
			ClusterDNS:    addrs("10.43.0.10"),
			ClusterDomain: "cluster.local",

			FlannelBackend:     "vxlan",
			EgressSelectorMode: "agent",
		},
		ControlPlane: ControlPlane{BindAddress: netip.IPv4Unspecified(), Port: 6443},
		Security:     Security{EncryptSecrets: true, EncryptionProvider: "secretbox", AuditLogPath: "/var/lib/kedge/server/logs/audit.log"},
		AddOns:       AddOns{LocalStoragePath: "/var/lib/kedge/storage"},
		Kubeconfig:   Kubeconfig{Path: "/etc/kedge/kedge.yaml", Mode: 0o600},
		Snapshots:    defaultSnapshots(),
		Node:         Node{Name: "host.example", Snapshotter: "overlayfs", PrivateRegistry: "/etc/kedge/registries.yaml"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// everyOption gives values that can go together to the options of all roles,
// but for those in apart.
func everyOption() (given map[string][]string, apart []string) {
	return map[string][]string{
			"data-dir":                           {"/data"},
			"debug":                              {"true"},
			"v":                                  {"4"},
			"vmodule":                            {"reflector=4,kubelet*=2"},
			"log":                                {"/var/log/kedge.log"},
			"bind-address":                       {"192.0.2.1"},
			"https-listen-port":                  {"7443"},
			"advertise-address":                  {"192.0.2.2"},
			"tls-san":                            {"Kedge.Example.com", "*.example.com", "192.0.2.3", "2001:db8::3"},
			"cluster-cidr":                       {"10.0.0.0/12", "fd42::/56"},
			"service-cidr":                       {"10.96.0.0/12", "fd43::/112"},
			"service-node-port-range":            {"80-32767"},
			"cluster-dns":                        {"10.96.0.53", "fd43::35"},
			"cluster-domain":                     {"k8s.example.com"},
			"write-kubeconfig":                   {"/home/admin/config"},
			"write-kubeconfig-mode":              {"0640"},
			"write-kubeconfig-group":             {"adm"},
			"disable":                            {"coredns"},
			"disable-scheduler":                  {"true"},
			"disable-kube-proxy":                 {"true"},
			"disable-cloud-controller":           {"true"},
			"embedded-registry":                  {"true"},
			"system-default-registry":            {"registry.example.com:5000/mirror"},
			"default-local-storage-path":         {"/volumes"},
			"enable-pprof":                       {"true"},
			"supervisor-metrics":                 {"true"},
			"secrets-encryption":                 {"false"},
			"secrets-encryption-provider":        {"aescbc"},
			"audit-policy-file":                  {"/etc/audit.yaml"},
			"audit-log-path":                     {"/var/log/audit.log"},
			"pod-security-admission-config-file": {"/etc/pod-security.yaml"},
			"kube-apiserver-arg":                 {"--feature-gates=A=true,B=false", "profiling"},
			"kube-controller-manager-arg":        {"node-monitor-period=2s"},
			"kubelet-arg":                        {"eviction-hard=memory.available<1%,nodefs.available<5%"},
			"node-name":                          {"Node-1"},
			"node-ip":                            {"192.0.2.4", "2001:db8::4"},
			"node-label":                         {"example.com/rack=r1", "empty=", "topology.kubernetes.io/zone=z"},
			"node-taint":                         {"dedicated=db:NoSchedule", "CriticalAddonsOnly:NoExecute"},
			"resolv-conf":                        {"/etc/resolv.upstream"},
			"protect-kernel-defaults":            {"true"},
			"snapshotter":                        {"native"},
			"pause-image":                        {"registry.example.com/pause:1"},
			"server":                             {"https://Kedge.example.com"},
			"cluster-init":                       {"true"},
			"etcd-arg":                           {"--quota-backend-bytes=8000000000"},
			"etcd-expose-metrics":                {"true"},
			"lb-server-port":                     {"7444"},
			"token":                              {"server:secret"},
			"agent-token":                        {"node:secret"},
			"flannel-backend":                    {"wireguard-native"},
			"flannel-external-ip":                {"true"},
			"flannel-ipv6-masq":                  {"true"},
			"egress-selector-mode":               {"cluster"},
			"disable-network-policy":             {"true"},
			"disable-helm-controller":            {"true"},
			"with-node-id":                       {"true"},
			"node-external-ip":                   {"198.51.100.4", "2001:db8:1::4"},
			"node-internal-dns":                  {"Node-1.internal", "n1"},
			"node-external-dns":                  {"node-1.example.com"},
			"flannel-iface":                      {"eth0.100"},
			"flannel-conf":                       {"/etc/flannel.json"},
			"flannel-cni-conf":                   {"/etc/flannel.conflist"},
			"private-registry":                   {"/etc/registries.yaml"},
			"image-credential-provider-bin-dir":  {"/opt/credentials/bin"},
			"image-credential-provider-config":   {"/opt/credentials/config.yaml"},
			"selinux":                            {"true"},
			"disable-default-registry-endpoint":  {"true"},
		}, []string{
			// Refused beside options above.
			"config", "container-runtime-endpoint", "kube-scheduler-arg", "kube-proxy-arg",
			"token-file", "agent-token-file", "disable-agent", "datastore-auto-restore", "cluster-reset", "cluster-reset-restore-path", "profile",
		}
}

// sources writes given options of a role as a file, variables and flags.
func sources(t *testing.T, options []Option) (file string, env []string, flags Flags) {
	t.Helper()
	given, apart := everyOption()
	maps.Copy(given, everyDatastoreOption())
	var lines strings.Builder
	flags = Flags{}
	for _, o := range options {
		values, ok := given[o.Name]
		if !ok {
			if !slices.Contains(apart, o.Name) {
				t.Errorf("%s is not tested", o.Name)
			}
			continue
		}
		lines.WriteString(o.Name + ":")
		if o.Kind == List {
			for _, v := range values {
				lines.WriteString("\n  - '" + v + "'")
			}
			lines.WriteString("\n")
		} else {
			lines.WriteString(" " + values[0] + "\n")
		}
		if o.Name != "kube-apiserver-arg" { // a variable holds one argument
			env = append(env, o.EnvVar()+"="+strings.Join(values, ","))
		}
		flags[o.Name] = values
	}
	return lines.String(), env, flags
}

// everyNode is the node that everyOption makes.
func everyNode() Node {
	return Node{
		Name:        "node-1",
		WithID:      true,
		IPs:         addrs("192.0.2.4", "2001:db8::4"),
		ExternalIPs: addrs("198.51.100.4", "2001:db8:1::4"),
		InternalDNS: []string{"node-1.internal", "n1"},
		ExternalDNS: []string{"node-1.example.com"},
		Labels:      map[string]string{"example.com/rack": "r1", "empty": "", "topology.kubernetes.io/zone": "z"},
		Taints:      []Taint{{"dedicated", "db", "NoSchedule"}, {"CriticalAddonsOnly", "", "NoExecute"}},

		FlannelIface:   "eth0.100",
		FlannelConf:    "/etc/flannel.json",
		FlannelCNIConf: "/etc/flannel.conflist",

		Snapshotter:              "native",
		PauseImage:               "registry.example.com/pause:1",
		PrivateRegistry:          "/etc/registries.yaml",
		CredentialProviderBinDir: "/opt/credentials/bin",
		CredentialProviderConfig: "/opt/credentials/config.yaml",
		DisableDefaultRegistry:   true,
		SELinux:                  true,
		ResolvConf:               "/etc/resolv.upstream",

		ProtectKernelDefaults: true,

		KubeletArgs: []Arg{{"eviction-hard", "memory.available<1%,nodefs.available<5%"}},
	}
}

// TestEveryOption gives every option a value, once by each source, and wants
// all three to fill the same fields.
func TestEveryOption(t *testing.T) {
	want := &Server{
		ConfigFile: "/etc/kedge/config.yaml",
		Paths:      Paths{DataDir: "/data"},
		Logging:    Logging{Debug: true, Verbosity: 4, VModule: "reflector=4,kubelet*=2", File: "/var/log/kedge.log"},
		Network: Network{
			ClusterCIDRs:     ranges("10.0.0.0/12", "fd42::/56"),
			ServiceCIDRs:     ranges("10.96.0.0/12", "fd43::/112"),
			NodePorts:        NodePortRange{80, 32767},
			ClusterDNS:       addrs("10.96.0.53", "fd43::35"),
			ClusterDomain:    "k8s.example.com",
			DisableKubeProxy: true,

			FlannelBackend:       "wireguard-native",
			FlannelExternalIP:    true,
			FlannelIPv6Masq:      true,
			DisableNetworkPolicy: true,
			EgressSelectorMode:   "cluster",
		},
		ControlPlane: ControlPlane{
			BindAddress:            netip.MustParseAddr("192.0.2.1"),
			Port:                   7443,
			AdvertiseAddress:       netip.MustParseAddr("192.0.2.2"),
			TLSSANs:                []string{"kedge.example.com", "*.example.com", "192.0.2.3", "2001:db8::3"},
			DisableScheduler:       true,
			DisableCloudController: true,
			EnablePprof:            true,
			SupervisorMetrics:      true,
			APIServerArgs:          []Arg{{"feature-gates", "A=true,B=false"}, {"profiling", "true"}},
			ControllerManagerArgs:  []Arg{{"node-monitor-period", "2s"}},
		},
		Security:   Security{EncryptionProvider: "aescbc", AuditPolicyFile: "/etc/audit.yaml", AuditLogPath: "/var/log/audit.log", PodSecurityFile: "/etc/pod-security.yaml"},
		AddOns:     AddOns{Disabled: []string{"coredns"}, LocalStoragePath: "/volumes", DisableHelm: true},
		Images:     Images{EmbeddedRegistry: true, DefaultRegistry: "registry.example.com:5000/mirror"},
		Kubeconfig: Kubeconfig{Path: "/home/admin/config", Mode: 0o640, Group: "adm"},
		Join:       Join{Server: "https://kedge.example.com:6443", Token: "server:secret", AgentToken: "node:secret"},
		Etcd:       Etcd{ClusterInit: true, ExposeMetrics: true, Args: []Arg{{"quota-backend-bytes", "8000000000"}}},
		Datastore:  everyDatastore(),
		Snapshots:  everySnapshots(),
		Node:       everyNode(),
	}

	file, env, flags := sources(t, ServerOptions())
	check := func(t *testing.T, got *Server, err error, want Server) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, &want) {
			t.Errorf("got  %+v\nwant %+v", got, &want)
		}
	}
	t.Run("file", func(t *testing.T) {
		got, err := load(t, map[string]string{"config.yaml": file}, nil, nil)
		check(t, got, err, *want)
	})
	t.Run("environment", func(t *testing.T) {
		want := *want
		want.ControlPlane.APIServerArgs = nil
		got, err := load(t, nil, env, nil)
		check(t, got, err, want)
	})
	t.Run("flags", func(t *testing.T) {
		got, err := load(t, nil, nil, flags)
		check(t, got, err, *want)
	})
	t.Run("the others", func(t *testing.T) {
		got, err := load(t, nil, nil, Flags{
			"container-runtime-endpoint": {"/run/crio/crio.sock"},
			"kube-scheduler-arg":         {"v=1"},
			"kube-proxy-arg":             {"--v=2", "x=y=z"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if e := got.Node.RuntimeEndpoint; e != "unix:///run/crio/crio.sock" {
			t.Errorf("endpoint is %q", e)
		}
		if a := got.ControlPlane.SchedulerArgs; !reflect.DeepEqual(a, []Arg{{"v", "1"}}) {
			t.Errorf("kube-scheduler's arguments are %v", a)
		}
		if a := got.Node.KubeProxyArgs; !reflect.DeepEqual(a, []Arg{{"v", "2"}, {"x", "y=z"}}) {
			t.Errorf("kube-proxy's arguments are %v", a)
		}
	})
}

func TestPrecedence(t *testing.T) {
	files := map[string]string{
		"config.yaml":          "cluster-domain: file\ntls-san: [file-a, file-b]\n",
		"config.yaml.d/1.yaml": "cluster-domain: one\ntls-san: one\n",
		"config.yaml.d/2.yml":  "cluster-domain: two\ntls-san+: [two-a, two-b]\n",
	}
	env := []string{"KEDGE_CLUSTER_DOMAIN=env", "KEDGE_TLS_SAN=env-a, env-b,", "KEDGE_CLUSTER_DOMAIN=again"}
	flags := Flags{"cluster-domain": {"first", "flag"}, "tls-san": {"flag-a,flag-b", "flag-c"}}
	tests := []struct {
		name   string
		files  []string
		env    []string
		flags  Flags
		domain string
		sans   []string
	}{
		{"default", nil, nil, nil, "cluster.local", nil},
		{"file", []string{"config.yaml"}, nil, nil, "file", []string{"file-a", "file-b"}},
		{"a drop-in replaces", []string{"config.yaml", "config.yaml.d/1.yaml"}, nil, nil, "one", []string{"one"}},
		{"a drop-in appends to the file", []string{"config.yaml", "config.yaml.d/2.yml"}, nil, nil, "two", []string{"file-a", "file-b", "two-a", "two-b"}},
		{"a drop-in appends to another", []string{"config.yaml", "config.yaml.d/1.yaml", "config.yaml.d/2.yml"}, nil, nil, "two", []string{"one", "two-a", "two-b"}},
		{"drop-ins without a file", []string{"config.yaml.d/2.yml"}, nil, nil, "two", []string{"two-a", "two-b"}},
		{"environment", []string{"config.yaml", "config.yaml.d/2.yml"}, env, nil, "env", []string{"env-a", "env-b"}},
		{"an empty variable is unset", []string{"config.yaml"}, []string{"KEDGE_CLUSTER_DOMAIN=", "KEDGE_TLS_SAN="}, nil, "file", []string{"file-a", "file-b"}},
		{"an unknown variable is ignored", nil, []string{"KEDGE_PORT=tcp://10.43.0.1:443", "KEDGE_SERVICE_HOST=x"}, nil, "cluster.local", nil},
		{"flags", []string{"config.yaml", "config.yaml.d/2.yml"}, env, flags, "flag", []string{"flag-a", "flag-b", "flag-c"}},
		{"an empty flag empties a list", []string{"config.yaml"}, env, Flags{"tls-san": {""}}, "env", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			some := map[string]string{}
			for _, name := range tt.files {
				some[name] = files[name]
			}
			got, err := load(t, some, tt.env, tt.flags)
			if err != nil {
				t.Fatal(err)
			}
			if d := got.Network.ClusterDomain; d != tt.domain {
				t.Errorf("cluster domain is %q, want %q", d, tt.domain)
			}
			if s := got.ControlPlane.TLSSANs; !reflect.DeepEqual(s, tt.sans) {
				t.Errorf("SANs are %q, want %q", s, tt.sans)
			}
		})
	}
}

func TestAppend(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  []netip.Prefix
	}{
		{
			"to the default",
			map[string]string{"config.yaml": "cluster-cidr+: fd42::/56\nservice-cidr+: fd43::/112\n"},
			ranges("10.42.0.0/16", "fd42::/56"),
		},
		{
			"twice",
			map[string]string{
				"config.yaml":          "cluster-cidr: []\nservice-cidr+: fd43::/112\n",
				"config.yaml.d/1.yaml": "cluster-cidr+: fd42::/56\n",
				"config.yaml.d/2.yaml": "cluster-cidr+: 10.44.0.0/16\n",
			},
			ranges("fd42::/56", "10.44.0.0/16"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(t, tt.files, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r := got.Network.ClusterCIDRs; !reflect.DeepEqual(r, tt.want) {
				t.Errorf("ranges are %v, want %v", r, tt.want)
			}
			if dns := got.Network.ClusterDNS; !reflect.DeepEqual(dns, addrs("10.43.0.10", "fd43::a")) {
				t.Errorf("DNS addresses are %v", dns)
			}
		})
	}
}

func TestForms(t *testing.T) {
	tests := []struct {
		name, file string
		field      func(*Server) any
		want       any
	}{
		{"nothing", "", func(s *Server) any { return s.ControlPlane.Port }, uint16(6443)},
		{"only comments", "# none\n", func(s *Server) any { return s.ControlPlane.Port }, uint16(6443)},
		{"an empty document", "---\n", func(s *Server) any { return s.ControlPlane.Port }, uint16(6443)},
		{"a quoted number", "https-listen-port: '7443'", func(s *Server) any { return s.ControlPlane.Port }, uint16(7443)},
		{"a quoted bool", "debug: 'true'", func(s *Server) any { return s.Logging.Debug }, true},
		{"false", "debug: False", func(s *Server) any { return s.Logging.Debug }, false},
		{"a mode as a number", "write-kubeconfig-mode: 644", func(s *Server) any { return s.Kubeconfig.Mode }, fs.FileMode(0o644)},
		{"a mode with a zero", "write-kubeconfig-mode: 0640", func(s *Server) any { return s.Kubeconfig.Mode }, fs.FileMode(0o640)},
		{"a mode in YAML 1.2", "write-kubeconfig-mode: 0o640", func(s *Server) any { return s.Kubeconfig.Mode }, fs.FileMode(0o640)},
		{"a number as a name", "node-name: 007", func(s *Server) any { return s.Node.Name }, "007"},
		{"commas in one text", "cluster-cidr: 10.44.0.0/16, fd44::/56\nservice-cidr: 10.45.0.0/16,fd45::/112",
			func(s *Server) any { return s.Network.ClusterDNS }, addrs("10.45.0.10", "fd45::a")},
		{"an anchor", "kubelet-arg: &a [v=1]\nkube-proxy-arg: *a", func(s *Server) any { return s.Node.KubeProxyArgs }, []Arg{{"v", "1"}}},
		{"the last of equal labels", "node-label: [a=1, a=2]", func(s *Server) any { return s.Node.Labels }, map[string]string{"a": "2"}},
		{"flow style", "{node-ip: [192.0.2.1], debug: true}", func(s *Server) any { return s.Node.IPs }, addrs("192.0.2.1")},
		{"Windows line ends", "debug: true\r\nnode-name: a\r\n", func(s *Server) any { return s.Node.Name }, "a"},
		{"storage beside the data", "data-dir: /data", func(s *Server) any { return s.AddOns.LocalStoragePath }, "/data/storage"},
		{"an empty optional text", "log: ''", func(s *Server) any { return s.Logging.File }, ""},
		{"IPv6 only", "cluster-cidr: fd42::/56\nservice-cidr: fd43::/108\nnode-ip: 2001:db8::1",
			func(s *Server) any { return s.Network.ClusterDNS }, addrs("fd43::a")},
		{"a smaller share for each node", "cluster-cidr: 10.42.0.0/25\nkube-controller-manager-arg: node-cidr-mask-size=27",
			func(s *Server) any { return s.Network.ClusterCIDRs }, ranges("10.42.0.0/25")},
		{"only one DNS address", "cluster-cidr+: fd42::/56\nservice-cidr+: fd43::/112\ncluster-dns: fd43::35",
			func(s *Server) any { return s.Network.ClusterDNS }, addrs("fd43::35")},
		{"an empty endpoint", "container-runtime-endpoint: ''\nsnapshotter: native", func(s *Server) any { return s.Node.Snapshotter }, "native"},
		{"taints that differ in one part", "node-taint: [a=b:NoSchedule, a=b:NoExecute, c=b:NoExecute]", func(s *Server) any { return s.Node.Taints },
			[]Taint{{"a", "b", "NoSchedule"}, {"a", "b", "NoExecute"}, {"c", "b", "NoExecute"}}},
		{"the longest domain", "cluster-domain: " + strings.Repeat("a.", 126) + "a", func(s *Server) any { return len(s.Network.ClusterDomain) }, 253},
		{"a final comma", "vmodule: 'a=1,'", func(s *Server) any { return s.Logging.VModule }, "a=1,"},
		{"a server without a node", "disable-agent: true\nnode-name: a\nwith-node-id: true\nnode-ip: 192.0.2.1\nnode-external-ip: 192.0.2.2\nselinux: false",
			func(s *Server) any { return s.DisableAgent }, true},
		{"a switch that is off and a pod network of one's own", "flannel-backend: none\nflannel-ipv6-masq: false\nflannel-conf: ''",
			func(s *Server) any { return s.Network.FlannelBackend }, "none"},
		{"a token that looks like a number", "token: 0123", func(s *Server) any { return s.Join.Token }, Secret("0123")},
		{"no token files", "token-file: ''\nagent-token-file: ''\ntoken: t", func(s *Server) any { return s.Join }, Join{Token: "t"}},
		{"the endpoint with its scheme", "container-runtime-endpoint: unix:///run/x.sock", func(s *Server) any { return s.Node.RuntimeEndpoint }, "unix:///run/x.sock"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(t, map[string]string{"config.yaml": tt.file}, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if v := tt.field(got); !reflect.DeepEqual(v, tt.want) {
				t.Errorf("got %v, want %v", v, tt.want)
			}
		})
	}
}

func TestConfigFile(t *testing.T) {
	dir := tree(t, map[string]string{
		"flag.yaml":                   "node-name: flag\n",
		"flag.yaml.d/1.yaml":          "debug: true\n",
		"flag.yaml.d/.2.yaml":         "node-name: hidden\n",
		"flag.yaml.d/3.yaml.bak":      "node-name: backup\n",
		"flag.yaml.d/4.yaml/any.yaml": "node-name: nested\n",
		"env.yaml":                    "node-name: env\n",
		"default.yaml":                "node-name: default\n",
	})
	flag, env, byDefault := filepath.Join(dir, "flag.yaml"), filepath.Join(dir, "env.yaml"), filepath.Join(dir, "default.yaml")
	tests := []struct {
		name string
		env  []string
		flag []string
		want string
	}{
		{"default", nil, nil, "default"},
		{"environment", []string{"KEDGE_CONFIG=" + env}, nil, "env"},
		{"flag", []string{"KEDGE_CONFIG=" + env}, []string{flag}, "flag"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := loadServer(Flags{"config": tt.flag}, tt.env, byDefault, hostname)
			if err != nil {
				t.Fatal(err)
			}
			if got.Node.Name != tt.want {
				t.Errorf("read the file of %q, want that of %q", got.Node.Name, tt.want)
			}
			if got.Logging.Debug != (tt.want == "flag") {
				t.Errorf("drop-in files read: %v", got.Logging.Debug)
			}
		})
	}
}

func TestRelativePaths(t *testing.T) {
	dir := tree(t, map[string]string{"my.yaml": "log: kedge.log\n"})
	t.Chdir(dir)
	got, err := loadServer(Flags{"config": {"my.yaml"}, "data-dir": {"data/"}}, nil, "unused", hostname)
	if err != nil {
		t.Fatal(err)
	}
	for what, paths := range map[string][2]string{
		"data directory":     {got.Paths.DataDir, filepath.Join(dir, "data")},
		"configuration file": {got.ConfigFile, filepath.Join(dir, "my.yaml")},
		"log":                {got.Logging.File, filepath.Join(dir, "kedge.log")},
	} {
		if paths[0] != paths[1] {
			t.Errorf("%s is %s, want %s", what, paths[0], paths[1])
		}
	}
}

func TestHostname(t *testing.T) {
	for _, tt := range []struct {
		name string
		host string
		err  error
		want string
	}{
		{"unfit", "my_host", nil, `node-name: the host name does not fit: "my_host" is not a node name`},
		{"too long", strings.Repeat("a", 64), nil, "set --node-name"},
		{"unknown", "", errors.New("no /proc"), "node-name: read the host name: no /proc; set --node-name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "none")
			host := func() (string, error) { return tt.host, tt.err }
			if _, err := loadServer(nil, nil, file, host); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
			if _, err := loadServer(Flags{"node-name": {"a"}}, nil, file, host); err != nil {
				t.Errorf("with a name given: %v", err)
			}
		})
	}
}

func TestReservedLabels(t *testing.T) {
	for key, want := range map[string]bool{
		"a":                                   false,
		"kubernetes.io":                       false,
		"example.com/a":                       false,
		"notkubernetes.io/a":                  false,
		"kubernetes.io/arch":                  false,
		"node.kubernetes.io/pool":             false,
		"a.node.kubernetes.io/pool":           false,
		"kubelet.kubernetes.io/a":             false,
		"topology.kubernetes.io/region":       false,
		"kubernetes.io/role":                  true,
		"k8s.io/a":                            true,
		"a.k8s.io/b":                          true,
		"node-role.kubernetes.io/worker":      true,
		"node-restriction.kubernetes.io/a":    true,
		"topology.kubernetes.io/rack":         true,
		"a.node-restriction.kubernetes.io/a":  true,
		"nodexkubernetes.io.kubernetes.io/ok": true,
	} {
		if got := isReservedLabel(key); got != want {
			t.Errorf("%s is reserved: %v, want %v", key, got, want)
		}
	}
}

func TestPaths(t *testing.T) {
	p := Paths{DataDir: "/d"}
	for got, want := range map[string]string{
		p.Payload():    "/d/data",
		p.Storage():    "/d/storage",
		p.Server():     "/d/server",
		p.DB():         "/d/server/db",
		p.TLS():        "/d/server/tls",
		p.Token():      "/d/server/token",
		p.AgentToken(): "/d/server/agent-token",
		p.NodeToken():  "/d/server/node-token",
		p.Manifests():  "/d/server/manifests",
		p.Agent():      "/d/agent",
		p.AgentPKI():   "/d/agent/pki",
		p.AgentEtc():   "/d/agent/etc",
		p.Images():     "/d/agent/images",
		p.Containerd(): "/d/agent/containerd",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestStrings(t *testing.T) {
	if s := (NodePortRange{80, 100}).String(); s != "80-100" {
		t.Errorf("range is %q", s)
	}
	if s := (Arg{"a", "b=c"}).String(); s != "--a=b=c" {
		t.Errorf("argument is %q", s)
	}
}
