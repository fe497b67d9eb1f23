// Command hollow runs many nodes of a cluster in one process: upstream's kubelet
// and kube-proxy with a machine, a container runtime, mounts and a packet filter
// that are none. Beside them each node watches all nodes, as the pod network of a
// Kedge agent does.
//
// Towards the API a hollow node is a node: it has its own connections, and the
// identities of a kubelet, a kube-proxy and an agent, by impersonation from a
// kubeconfig that may do so. What it lacks of an agent is the tunnel.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sys/unix"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	kubeletapp "k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	kubeletutil "k8s.io/kubernetes/pkg/kubelet/util"
	proxykubemark "k8s.io/kubernetes/pkg/proxy/kubemark"
	"k8s.io/kubernetes/pkg/util/oom"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/downwardapi"
	"k8s.io/kubernetes/pkg/volume/emptydir"
	"k8s.io/kubernetes/pkg/volume/projected"
	"k8s.io/kubernetes/pkg/volume/secret"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/mount-utils"

	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hollow:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("hollow", flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "`file` of an administrator")
	server := flags.String("server", "", "`URL` of the API server, instead of the kubeconfig's")
	count := flags.Int("nodes", 1, "how many nodes to run")
	first := flags.String("address", "", "`IP` of the first node; this machine has it and those after it")
	dir := flags.String("dir", "", "`directory` for the kubelets' files")
	image := flags.String("image", "", "image that the nodes have")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags(*server, *kubeconfig)
	if err != nil {
		return err
	}
	address, err := netip.ParseAddr(*first)
	if err != nil {
		return fmt.Errorf("-address: %w", err)
	}
	// Errors go to standard error all the same; of the rest there is too much.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	registered := newKubeletCollectors()
	for i := range *count {
		n := node{name: fmt.Sprintf("hollow-%d", i+1), address: address, dir: *dir, image: *image, config: config}
		if err := n.start(ctx); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
		if err := registered.unregister(ctx); err != nil {
			return err
		}
		address = address.Next()
	}
	<-ctx.Done()
	return nil
}

// node is one hollow node.
type node struct {
	name    string
	address netip.Addr
	dir     string // of all nodes' files
	image   string
	config  *rest.Config // the administrator's
}

// start starts the parts of the node, which run as long as the process.
func (n node) start(ctx context.Context) error {
	if err := n.startKubelet(ctx); err != nil {
		return err
	}
	if err := n.startProxy(); err != nil {
		return err
	}
	agent, err := clientset.NewForConfig(n.as(join.AgentUser(n.name), join.AgentGroup))
	if err != nil {
		return err
	}
	go watchNodes(ctx, agent.CoreV1().RESTClient())
	return nil
}

// as makes the configuration of a client with an identity and a connection of its
// own.
func (n node) as(user string, groups ...string) *rest.Config {
	c := rest.CopyConfig(n.config)
	c.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	c.ContentType = "application/vnd.kubernetes.protobuf"
	// Clients share connections unless their dialers differ.
	c.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	// The kubelet's defaults, for requests and for events.
	c.QPS, c.Burst = 50, 100
	return c
}

func (n node) startKubelet(ctx context.Context) error {
	config := n.as("system:node:"+n.name, "system:nodes")
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return err
	}
	eventClient, err := clientset.NewForConfig(config)
	if err != nil {
		return err
	}
	config.QPS = -1
	heartbeats, err := clientset.NewForConfig(config)
	if err != nil {
		return err
	}
	flags := options.NewKubeletFlags()
	kc, err := options.NewKubeletConfiguration()
	if err != nil {
		return err
	}
	flags.HostnameOverride, flags.NodeIP, flags.CloudProvider = n.name, n.address.String(), "external"
	flags.NodeLabels = map[string]string{"hollow": "true"}
	flags.RootDirectory = filepath.Join(n.dir, n.name)
	kc.PodLogsDir = filepath.Join(flags.RootDirectory, "logs")
	kc.ClusterDNS, kc.ClusterDomain = []string{cluster.DNSAddress}, cluster.Domain
	kc.CgroupsPerQOS, kc.EnforceNodeAllocatable = false, nil
	kc.EnableServer, kc.ReadOnlyPort = false, 0 // all would want the same port
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	kc.MaxOpenFiles = int64(limit.Max) // of the process, and so of all nodes

	return kubeletapp.RunKubelet(ctx, &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *kc}, &kubelet.Dependencies{
		KubeClient:           client,
		HeartbeatClient:      heartbeats,
		EventClient:          eventClient.CoreV1(),
		CAdvisorInterface:    machine{n.name},
		ContainerManager:     cm.NewStubContainerManager(),
		RemoteRuntimeService: newContainerRuntime(n.name),
		RemoteImageService:   images{name: n.image},
		Mounter:              mount.NewFakeMounter(nil),
		HostUtil:             hostutil.NewFakeHostUtil(nil),
		Subpather:            &subpath.FakeSubpath{},
		OOMAdjuster:          oom.NewFakeOOMAdjuster(),
		// Those that the pods have. The CSI plugin keeps its node in a variable of
		// its package: there can't be several in a process.
		VolumePlugins: slices.Concat(
			configmap.ProbeVolumePlugins(), downwardapi.ProbeVolumePlugins(), emptydir.ProbeVolumePlugins(),
			projected.ProbeVolumePlugins(), secret.ProbeVolumePlugins()),
		TracerProvider:            noop.NewTracerProvider(),
		PodStartupLatencyTracker:  kubeletutil.NewPodStartupLatencyTracker(),
		NodeStartupLatencyTracker: kubeletutil.NewNodeStartupLatencyTracker(),
	})
}

func (n node) startProxy() error {
	client, err := clientset.NewForConfig(n.as("system:kube-proxy"))
	if err != nil {
		return err
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	recorder := broadcaster.NewRecorder(legacyscheme.Scheme, "kube-proxy")
	proxy := proxykubemark.NewHollowProxy(n.name, client, client.CoreV1(), broadcaster, recorder)
	go func() {
		if err := proxy.Run(); err != nil {
			klog.ErrorS(err, "kube-proxy ended", "node", n.name)
		}
	}()
	return nil
}

// watchNodes reads what there is to know about nodes and keeps nothing of it.
func watchNodes(ctx context.Context, client rest.Interface) {
	for ctx.Err() == nil {
		if err := watchOnce(ctx, client); err != nil && !errors.Is(err, context.Canceled) {
			klog.ErrorS(err, "watch nodes")
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func watchOnce(ctx context.Context, client rest.Interface) error {
	stream, err := client.Get().Resource("nodes").Param("watch", "true").Stream(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	_, err = io.Copy(io.Discard, stream)
	return err
}
