package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/knftables"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

const (
	bridgeName    = "cni0"
	masqueradeTag = "kedge-masquerade"
	moduleLimit   = 5 * time.Second
)

// NetworkConfig is what the pod network is told.
type NetworkConfig struct {
	NodeName     string
	ClusterCIDRs []netip.Prefix
	Kubeconfig   string
	CNIConfig    string // directory of the file for containerd
	Log          *slog.Logger
}

// Network is the pod network of one node as a component: a bridge with the
// node's pod range, and addresses of pods hidden behind the node's towards
// the outside.
type Network struct {
	config NetworkConfig
	ranges atomic.Pointer[[]netip.Prefix]
}

// NewNetwork makes the component.
func NewNetwork(c NetworkConfig) *Network { return &Network{config: c} }

func (*Network) Name() string    { return "network" }
func (*Network) Needs() []string { return []string{"apiserver", "kubelet"} }

// Start waits for the node's pod range, which the controller manager assigns,
// and configures the network with it.
func (n *Network) Start(ctx context.Context) error {
	if err := n.setSysctls(); err != nil {
		return err
	}
	if err := n.masquerade(ctx); err != nil {
		return err
	}
	cidrs, err := n.podCIDRs(ctx)
	if err != nil {
		return err
	}
	var ranges []netip.Prefix
	for _, cidr := range cidrs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			ranges = append(ranges, prefix)
		}
	}
	n.ranges.Store(&ranges)
	return n.writeCNIConfig(cidrs)
}

// PodCIDRs are the ranges of the pods on this node; nil before they are known.
func (n *Network) PodCIDRs() []netip.Prefix {
	if ranges := n.ranges.Load(); ranges != nil {
		return *ranges
	}
	return nil
}

// Stop leaves the network in place: pods go on while Kedge restarts.
func (n *Network) Stop(context.Context) error { return nil }

func (n *Network) setSysctls() error {
	settings := map[string]string{}
	for _, p := range n.config.ClusterCIDRs {
		if p.Addr().Is4() {
			settings["net/ipv4/ip_forward"] = "1"
			settings["net/bridge/bridge-nf-call-iptables"] = "1"
		} else {
			settings["net/ipv6/conf/all/forwarding"] = "1"
			settings["net/bridge/bridge-nf-call-ip6tables"] = "1"
		}
	}
	for name, value := range settings {
		if err := setSysctl(name, value); err != nil {
			return err
		}
	}
	return nil
}

// LoadModules loads the kernel modules that do not load themselves where they
// are needed. Where there are no modules they are built in, or what needs them
// says that they are missing.
func LoadModules(ctx context.Context) {
	for path, module := range map[string]string{
		"/proc/sys/net/bridge":                     "br_netfilter",
		"/proc/sys/net/netfilter/nf_conntrack_max": "nf_conntrack",
	} {
		if _, err := os.Stat(path); err == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, moduleLimit)
		_ = exec.CommandContext(ctx, "modprobe", module).Run()
		cancel()
	}
}

// setSysctl writes a sysctl only if it has another value: where /proc is
// read-only, the administrator may have set it already.
func setSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	old, err := os.ReadFile(path)
	if err != nil && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the kernel has no setting %s: load its module (for net/bridge: modprobe br_netfilter)", name)
	}
	if err == nil && string(old) == value+"\n" {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// masquerade keeps one table of Kedge's own, instead of a rule per pod.
func (n *Network) masquerade(ctx context.Context) error {
	for _, cidr := range n.config.ClusterCIDRs {
		family, word, multicast := knftables.IPv4Family, "ip", "224.0.0.0/4"
		if cidr.Addr().Is6() {
			family, word, multicast = knftables.IPv6Family, "ip6", "ff00::/8"
		}
		nft, err := knftables.New(family, masqueradeTag)
		if err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		tx := nft.NewTransaction()
		tx.Add(&knftables.Table{Comment: knftables.PtrTo("Kedge: pods reach the outside with the node's address")})
		chain := &knftables.Chain{
			Name:     "postrouting",
			Type:     knftables.PtrTo(knftables.NATType),
			Hook:     knftables.PtrTo(knftables.PostroutingHook),
			Priority: knftables.PtrTo(knftables.SNATPriority),
		}
		tx.Add(chain)
		tx.Flush(&knftables.Chain{Name: chain.Name})
		tx.Add(&knftables.Rule{Chain: chain.Name, Rule: knftables.Concat(
			word, "saddr", cidr.String(), word, "daddr", "!=", "{", cidr.String(), ",", multicast, "}", "masquerade fully-random")})
		if err := nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("nftables table %s: %w", masqueradeTag, err)
		}
	}
	return nil
}

// podCIDRs waits until the node exists and has its pod ranges.
func (n *Network) podCIDRs(ctx context.Context) ([]string, error) {
	config, err := clientcmd.BuildConfigFromFlags("", n.config.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	nodes := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector("metadata.name", n.config.NodeName))
	var cidrs []string
	_, err = watchtools.UntilWithSync(ctx, nodes, &v1.Node{}, nil, func(event watch.Event) (bool, error) {
		node, ok := event.Object.(*v1.Node)
		if !ok || event.Type == watch.Deleted {
			return false, nil
		}
		cidrs = node.Spec.PodCIDRs
		return len(cidrs) > 0 && hasAddress(node), nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the pod range of node %s: %w", n.config.NodeName, err)
	}
	return cidrs, nil
}

func hasAddress(node *v1.Node) bool {
	for _, address := range node.Status.Addresses {
		if address.Type == v1.NodeInternalIP {
			return true
		}
	}
	return false
}

type object = map[string]any

func (n *Network) writeCNIConfig(cidrs []string) error {
	var ranges []any
	var routes []any
	for _, cidr := range cidrs {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return fmt.Errorf("pod range %q of node %s: %w", cidr, n.config.NodeName, err)
		}
		ranges = append(ranges, []any{object{"subnet": prefix.String()}})
		if prefix.Addr().Is4() {
			routes = append(routes, object{"dst": "0.0.0.0/0"})
		} else {
			routes = append(routes, object{"dst": "::/0"})
		}
	}
	conf, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "kedge",
		"plugins": []any{
			object{
				"type": "bridge", "bridge": bridgeName,
				"isGateway": true, "forceAddress": true, "hairpinMode": true,
				"ipam": object{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			object{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
			object{"type": "bandwidth", "capabilities": object{"bandwidth": true}},
		},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.config.CNIConfig, 0o700); err != nil {
		return err
	}
	return n.installCNIConfig(append(conf, '\n'))
}

// installCNIConfig puts the file where containerd watches. containerd reloads
// when a file there is written or renamed, not when one appears, and complains
// when it finds none that is whole: so the file is written elsewhere, moved in
// under another name, and renamed.
func (n *Network) installCNIConfig(conf []byte) error {
	const name = "10-kedge.conflist"
	dir := n.config.CNIConfig
	staged := filepath.Join(filepath.Dir(dir), name)
	if err := atomicfile.Write(staged, conf, 0o600); err != nil {
		return err
	}
	arrived := filepath.Join(dir, name+".new")
	if err := os.Rename(staged, arrived); err != nil {
		return err
	}
	return os.Rename(arrived, filepath.Join(dir, name))
}
