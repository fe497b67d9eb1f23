package stock

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

// Paths on the host. What lasts is where Kedge's data are, so that both sides
// write to the same disk.
const (
	dataDir = "/var/lib/kedge/stock"
	logDir  = "/var/log/stock"
	pkiDir  = "/etc/kubernetes"
	cniDir  = "/etc/cni/net.d"

	nodeProgramDir = dataDir + "/bin"

	socket = "/run/containerd/containerd.sock"

	etcdConfig       = pkiDir + "/etcd.json"
	kubeletConfig    = pkiDir + "/kubelet.yaml"
	kubeProxyConfig  = pkiDir + "/kube-proxy.yaml"
	containerdConfig = pkiDir + "/containerd.toml"
)

const (
	etcdURL     = "https://127.0.0.1:2379"
	etcdPeerURL = "http://localhost:2380" // etcd's default
)

const pauseImage = "kedge.io/pause:1"

type object = map[string]any

// nodePrograms are those that run on every node.
var nodePrograms = []string{"containerd", "kube-proxy", "kubelet"}

// commands are the stack's programs with their arguments, in the order of their
// start.
func (s *Stack) commands() [][]string {
	if s.cluster == s {
		return s.allCommands()
	}
	return slices.DeleteFunc(s.allCommands(), func(command []string) bool { return !slices.Contains(nodePrograms, command[0]) })
}

// allCommands have kubeadm's flags, with upstream's defaults in all that they
// don't say.
func (s *Stack) allCommands() [][]string {
	p := pki.NewLayout(pkiDir)
	serving, kubelet, etcd, proxy := p.Serving("kube-apiserver"), p.Client("kube-apiserver"), p.Client("etcd"), p.Client("front-proxy")
	return [][]string{
		{"etcd", etcdConfig},
		{"containerd", "--config=" + containerdConfig},
		{"kube-apiserver",
			"--advertise-address=" + s.host.Address.String(),
			"--allow-privileged",
			"--authorization-mode=Node,RBAC",
			"--client-ca-file=" + p.ClientCA().Cert,
			"--enable-admission-plugins=NodeRestriction",
			"--enable-bootstrap-token-auth",
			"--etcd-cafile=" + p.ServerCA().Cert,
			"--etcd-certfile=" + etcd.Cert,
			"--etcd-keyfile=" + etcd.Key,
			"--etcd-servers=" + etcdURL,
			"--kubelet-client-certificate=" + kubelet.Cert,
			"--kubelet-client-key=" + kubelet.Key,
			"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
			"--proxy-client-cert-file=" + proxy.Cert,
			"--proxy-client-key-file=" + proxy.Key,
			"--requestheader-allowed-names=front-proxy-client",
			"--requestheader-client-ca-file=" + p.RequestHeaderCA().Cert,
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--requestheader-group-headers=X-Remote-Group",
			"--requestheader-username-headers=X-Remote-User",
			"--secure-port=6443",
			"--service-account-issuer=https://kubernetes.default.svc." + cluster.Domain,
			"--service-account-key-file=" + p.ServiceKey(),
			"--service-account-signing-key-file=" + p.ServiceKey(),
			"--service-cluster-ip-range=" + cluster.ServiceRange,
			"--tls-cert-file=" + serving.Cert,
			"--tls-private-key-file=" + serving.Key,
		},
		{"kube-controller-manager",
			"--allocate-node-cidrs",
			"--authentication-kubeconfig=" + p.Kubeconfig("kube-controller-manager"),
			"--authorization-kubeconfig=" + p.Kubeconfig("kube-controller-manager"),
			"--bind-address=127.0.0.1",
			"--client-ca-file=" + p.ClientCA().Cert,
			"--cluster-cidr=" + cluster.PodRange,
			"--cluster-name=kubernetes",
			"--cluster-signing-cert-file=" + p.ClientCA().Cert,
			"--cluster-signing-key-file=" + p.ClientCA().Key,
			"--controllers=*,bootstrapsigner,tokencleaner",
			"--kubeconfig=" + p.Kubeconfig("kube-controller-manager"),
			"--leader-elect",
			"--requestheader-client-ca-file=" + p.RequestHeaderCA().Cert,
			"--root-ca-file=" + p.ServerCA().Cert,
			"--service-account-private-key-file=" + p.ServiceKey(),
			"--service-cluster-ip-range=" + cluster.ServiceRange,
			"--use-service-account-credentials",
		},
		{"kube-scheduler",
			"--authentication-kubeconfig=" + p.Kubeconfig("kube-scheduler"),
			"--authorization-kubeconfig=" + p.Kubeconfig("kube-scheduler"),
			"--bind-address=127.0.0.1",
			"--kubeconfig=" + p.Kubeconfig("kube-scheduler"),
			"--leader-elect",
		},
		{"kube-proxy", "--config=" + kubeProxyConfig},
		{"kubelet",
			"--config=" + kubeletConfig,
			"--hostname-override=" + s.host.Name,
			"--kubeconfig=" + p.Kubeconfig("kubelet"),
			"--node-ip=" + s.host.Address.String(),
		},
	}
}

// writeConfigs writes the files that the commands name.
func (s *Stack) writeConfigs() error {
	p := pki.NewLayout(pkiDir)
	etcd := p.Serving("etcd")
	for path, content := range map[string]object{
		etcdConfig: {
			"name":                  s.host.Name,
			"data-dir":              dataDir + "/etcd",
			"initial-cluster":       s.host.Name + "=" + etcdPeerURL,
			"listen-client-urls":    etcdURL,
			"advertise-client-urls": etcdURL,
			"client-transport-security": object{
				"cert-file":        etcd.Cert,
				"key-file":         etcd.Key,
				"client-cert-auth": true,
				"trusted-ca-file":  p.ClientCA().Cert,
			},
			"snapshot-count":                 10000,
			"watch-progress-notify-interval": 5 * time.Second,
			"feature-gates":                  "InitialCorruptCheck=true",
		},
		kubeletConfig: {
			"apiVersion": "kubelet.config.k8s.io/v1beta1",
			"kind":       "KubeletConfiguration",
			"authentication": object{
				"anonymous": object{"enabled": false},
				"webhook":   object{"enabled": true},
				"x509":      object{"clientCAFile": p.ClientCA().Cert},
			},
			"authorization":            object{"mode": "Webhook"},
			"cgroupDriver":             "cgroupfs",
			"clusterDNS":               []string{cluster.DNSAddress},
			"clusterDomain":            cluster.Domain,
			"containerRuntimeEndpoint": "unix://" + socket,
			"healthzBindAddress":       "127.0.0.1",
			"staticPodPath":            pkiDir + "/manifests",
			"tlsCertFile":              p.Serving("kubelet").Cert,
			"tlsPrivateKeyFile":        p.Serving("kubelet").Key,
			// What the machine may have, and Kedge's settings for it: they
			// decide whether pods run, not how fast.
			"failCgroupV1": false,
			"failSwapOn":   false,
			"evictionHard": object{"memory.available": "100Mi", "nodefs.available": "5%", "nodefs.inodesFree": "5%", "imagefs.available": "5%"},
		},
		kubeProxyConfig: {
			"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
			"kind":             "KubeProxyConfiguration",
			"clientConnection": object{"kubeconfig": p.Kubeconfig("kube-proxy")},
			"clusterCIDR":      cluster.PodRange,
			"hostnameOverride": s.host.Name,
			"mode":             "nftables",
			// In a network namespace it can't be set.
			"conntrack": object{"maxPerCore": 0},
		},
		// Kedge's own network, which it writes once it knows the node's range.
		cniDir + "/10-bench.conflist": {
			"cniVersion": "1.0.0",
			"name":       "bench",
			"plugins": []object{
				{
					"type": "bridge", "bridge": "cni0",
					"isGateway": true, "forceAddress": true, "hairpinMode": true,
					"ipam": object{
						"type":   "host-local",
						"ranges": [][]object{{{"subnet": s.podRange()}}},
						"routes": []object{{"dst": "0.0.0.0/0"}},
					},
				},
				{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
				{"type": "bandwidth", "capabilities": object{"bandwidth": true}},
			},
		},
	} {
		text, err := json.MarshalIndent(content, "", "  ") // is YAML, too
		if err != nil {
			return err
		}
		if err := s.writeFile(path, text); err != nil {
			return err
		}
	}
	return s.writeFile(containerdConfig, []byte(fmt.Sprintf(`version = 3
root = %q
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = %q
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = %t
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [%q]
conf_dir = %q
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = %q
`, dataDir+"/containerd", pauseImage, !hostcheck.Host{}.HasCapability(unix.CAP_SYS_RESOURCE),
		s.programs.Runtime, cniDir, filepath.Join(s.programs.Runtime, "runc"))))
}

// podRange is the one that the controller manager gives to the first, or the
// second node of a cluster.
func (s *Stack) podRange() string {
	if s.cluster == s {
		return cluster.NodePodRange
	}
	return cluster.SecondNodePodRange
}

func (s *Stack) writeFile(path string, content []byte) error {
	path = s.host.Path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}
