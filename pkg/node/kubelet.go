// Package node runs what makes a machine a node, in this process: containerd,
// the kubelet, kube-proxy and the pod network.
package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"k8s.io/kubernetes/pkg/volume"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/kubeflag"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/probe"
)

// How long pods get to end when the machine goes down, and which part of that is
// for critical ones, after the others.
const (
	shutdownGrace         = 30 * time.Second
	shutdownGraceCritical = 10 * time.Second
)

// KubeletConfig is what the kubelet is told.
type KubeletConfig struct {
	Node           config.Node
	Addresses      []netip.Addr // the node's, primary family first
	ClusterDNS     []netip.Addr
	ClusterDomain  string
	ClientCA       string      // bundle that signs the kubelet's clients
	Serving        pki.KeyPair // for its own API
	Kubeconfig     string
	RuntimeSocket  string
	ResolvConf     string
	SystemdCgroups bool
	CloudProvider  bool
	Shutdown       bool   // end pods in order when the machine goes down
	Dir            string // of what the kubelet is given to read: static pods, volume plugins
	Profiling      bool
	// BeforeVolumes returns when the controllers in this process, if any, have
	// initialized their volume plugins. The CSI plugin keeps the node it works
	// for in a variable of its package, and the last one to initialize it must
	// be the kubelet.
	BeforeVolumes func(context.Context) error
}

// Kubelet is the kubelet as a component.
type Kubelet struct {
	config KubeletConfig
	server *options.KubeletServer
	run    component.Runner

	witness hostWitness
	plugins []volume.VolumePlugin
}

// NewKubelet checks the user's arguments.
func NewKubelet(c KubeletConfig) (*Kubelet, error) {
	flags := options.NewKubeletFlags()
	kc, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, err
	}
	c.configure(kc)

	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	fs.SetOutput(io.Discard) // where pflag tells that a flag is deprecated
	flags.AddFlags(fs)
	options.AddKubeletConfigFlags(fs, kc)
	args, err := mergeConfigFiles(kc, c.Node.KubeletArgs)
	if err != nil {
		return nil, err
	}
	if err := kubeflag.Set(fs, c.flags(), "kubelet-arg", args); err != nil {
		return nil, err
	}
	if err := options.ValidateKubeletFlags(flags); err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(kc.FeatureGates); err != nil {
		return nil, fmt.Errorf("--kubelet-arg feature-gates: %w", err)
	}
	if err := validation.ValidateKubeletConfiguration(kc, utilfeature.DefaultFeatureGate); err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	return &Kubelet{config: c, server: &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *kc}, witness: hostWitness{seen: make(chan struct{})}}, nil
}

// configure sets what has no flag, or is better said as a value.
func (c KubeletConfig) configure(kc *kubeletconfig.KubeletConfiguration) {
	kc.Authentication.Anonymous.Enabled = false
	kc.Authentication.Webhook.Enabled = true
	kc.Authentication.X509.ClientCAFile = c.ClientCA
	kc.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	kc.TLSCertFile, kc.TLSPrivateKeyFile = c.Serving.Cert, c.Serving.Key
	kc.ReadOnlyPort = 0
	kc.HealthzBindAddress = "127.0.0.1"

	kc.ClusterDomain = c.ClusterDomain
	kc.ClusterDNS = nil
	for _, address := range c.ClusterDNS {
		kc.ClusterDNS = append(kc.ClusterDNS, address.String())
	}
	kc.ResolverConfig = c.ResolvConf

	kc.ContainerRuntimeEndpoint = c.RuntimeSocket
	kc.ImageServiceEndpoint = c.RuntimeSocket
	kc.CgroupDriver = "cgroupfs"
	if c.SystemdCgroups {
		kc.CgroupDriver = "systemd"
	}
	// Kedge's rules are nftables; chains of iptables would serve nobody.
	kc.MakeIPTablesUtilChains = false
	kc.FailCgroupV1 = false
	kc.FailSwapOn = false
	kc.ProtectKernelDefaults = c.Node.ProtectKernelDefaults
	kc.SerializeImagePulls = false
	kc.StaticPodPath = c.staticPods()
	kc.VolumePluginDir = filepath.Join(c.Dir, "volume-plugins")
	kc.EnableProfilingHandler = c.Profiling
	kc.EnableDebugFlagsHandler = c.Profiling

	if c.Shutdown {
		kc.ShutdownGracePeriod.Duration = shutdownGrace
		kc.ShutdownGracePeriodCriticalPods.Duration = shutdownGraceCritical
	}

	// Small disks: the share of upstream's defaults would evict pods while
	// gigabytes are free.
	kc.EvictionHard = map[string]string{"memory.available": "100Mi", "nodefs.available": "5%", "nodefs.inodesFree": "5%", "imagefs.available": "5%"}
	kc.EvictionMinimumReclaim = map[string]string{"nodefs.available": "10%", "imagefs.available": "10%"}

	if c.Node.Profile == config.ProfileCIS {
		harden(kc)
	}
	for _, taint := range c.Node.Taints {
		kc.RegisterWithTaints = append(kc.RegisterWithTaints, v1.Taint{Key: taint.Key, Value: taint.Value, Effect: v1.TaintEffect(taint.Effect)})
	}
}

func (c KubeletConfig) staticPods() string { return filepath.Join(c.Dir, "pod-manifests") }

func (c KubeletConfig) flags() map[string]string {
	addresses := make([]string, len(c.Addresses))
	for i, a := range c.Addresses {
		addresses[i] = a.String()
	}
	var labels []string
	for key, value := range c.Node.Labels {
		labels = append(labels, key+"="+value)
	}
	flags := map[string]string{
		"hostname-override": c.Node.Name,
		"kubeconfig":        c.Kubeconfig,
		"node-ip":           strings.Join(addresses, ","),
		"node-labels":       strings.Join(labels, ","),
		"root-dir":          config.KubeletDir,
	}
	if c.Node.CredentialProviderConfig != "" {
		flags["image-credential-provider-bin-dir"] = c.Node.CredentialProviderBinDir
		flags["image-credential-provider-config"] = c.Node.CredentialProviderConfig
	}
	if c.CloudProvider {
		flags["cloud-provider"] = "external"
	}
	return flags
}

func (*Kubelet) Name() string { return "kubelet" }

// Needs has the kubelet be made while the apiserver is, where that is in this
// process too.
func (*Kubelet) Needs() []string { return []string{"listener", "containerd"} }

// startLimit has room for the start of the apiserver, and then of the kubelet.
const startLimit = 2 * component.DefaultStartLimit

// Limits implements component.Limiter.
func (*Kubelet) Limits() (start, stop time.Duration) { return startLimit, 0 }

func (k *Kubelet) Start(context.Context) error {
	for _, dir := range []string{k.config.staticPods(), k.server.VolumePluginDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	life := k.run.Context()
	deps, err := app.UnsecuredDependencies(life, k.server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return err
	}
	k.plugins = deps.VolumePlugins
	deps.VolumePlugins = slices.Concat(k.plugins, []volume.VolumePlugin{&k.witness})
	if k.config.BeforeVolumes != nil {
		deps.DynamicPluginProber = patientProber{deps.DynamicPluginProber, life, k.config.BeforeVolumes}
	}
	k.run.Run(func(ctx context.Context) error { return app.Run(ctx, k.server, deps, utilfeature.DefaultFeatureGate) })
	return nil
}

// patientProber waits before it is initialized, which is what the kubelet does
// right before it initializes its volume plugins.
type patientProber struct {
	volume.DynamicPluginProber
	ctx  context.Context
	wait func(context.Context) error
}

func (p patientProber) Init() error {
	ctx, cancel := context.WithTimeout(p.ctx, startLimit)
	defer cancel()
	if err := p.wait(ctx); err != nil {
		return err
	}
	return p.DynamicPluginProber.Init()
}

// Ready waits for the kubelet's own health endpoint.
func (k *Kubelet) Ready(ctx context.Context) error {
	if k.server.HealthzPort == 0 {
		return nil
	}
	url := "http://" + net.JoinHostPort(k.server.HealthzBindAddress, strconv.Itoa(int(k.server.HealthzPort))) + "/healthz"
	return probe.Wait(ctx, url, "")
}

func (k *Kubelet) Stop(ctx context.Context) error { return k.run.Stop(ctx) }
func (k *Kubelet) Failed() <-chan error           { return k.run.Failed() }
