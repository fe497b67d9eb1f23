package node

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/kubernetes/cmd/kube-proxy/app"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/kubeflag"
	"github.com/kedge-k8s/kedge/pkg/probe"
)

const proxyHealthAddress = "127.0.0.1:10256"

// KubeProxyConfig is what kube-proxy is told.
type KubeProxyConfig struct {
	NodeName     string
	ClusterCIDRs []netip.Prefix
	Kubeconfig   string
	// SetConntrack says that this machine lets kube-proxy size the connection
	// table; in a network namespace that is not the first it may not.
	SetConntrack bool
	Profiling    bool
	ExtraArgs    []config.Arg
}

// KubeProxy is kube-proxy, in nftables mode, as a component.
type KubeProxy struct {
	options *app.Options
	run     component.Runner
}

// NewKubeProxy checks the user's arguments.
func NewKubeProxy(c KubeProxyConfig) (*KubeProxy, error) {
	o := app.NewOptions()
	fs := pflag.NewFlagSet("kube-proxy", pflag.ContinueOnError)
	o.AddFlags(fs)
	if err := kubeflag.Set(fs, c.flags(), "kube-proxy-arg", c.ExtraArgs); err != nil {
		return nil, err
	}
	if err := o.Complete(fs); err != nil {
		return nil, fmt.Errorf("kube-proxy: %w", err)
	}
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("kube-proxy: %w", err)
	}
	return &KubeProxy{options: o}, nil
}

func (c KubeProxyConfig) flags() map[string]string {
	cidrs := make([]string, len(c.ClusterCIDRs))
	everywhere := make([]string, len(c.ClusterCIDRs))
	for i, p := range c.ClusterCIDRs {
		cidrs[i] = p.String()
		everywhere[i] = "0.0.0.0/0"
		if p.Addr().Is6() {
			everywhere[i] = "::/0"
		}
	}
	flags := map[string]string{
		"cluster-cidr":         strings.Join(cidrs, ","),
		"healthz-bind-address": proxyHealthAddress,
		"hostname-override":    c.NodeName,
		"kubeconfig":           c.Kubeconfig,
		// A NodePort answers on every address of the node, as users of other
		// distributions know it; nftables mode alone would take the first.
		"nodeport-addresses": strings.Join(everywhere, ","),
		"profiling":          strconv.FormatBool(c.Profiling),
		"proxy-mode":         "nftables",
	}
	if !c.SetConntrack {
		flags["conntrack-max-per-core"] = "0"
	}
	return flags
}

func (*KubeProxy) Name() string { return "kube-proxy" }

// Needs the network, because kube-proxy looks up its own Node when it starts,
// and one without an address only each second: the network waits for it.
func (*KubeProxy) Needs() []string { return []string{"apiserver", "network"} }

func (p *KubeProxy) Start(context.Context) error {
	p.run.Run(p.options.Run)
	return nil
}

// Ready waits until the first rules are written.
func (p *KubeProxy) Ready(ctx context.Context) error {
	return probe.Wait(ctx, "http://"+proxyHealthAddress+"/healthz", "")
}

// Stop leaves the rules in place: pods go on talking while Kedge restarts.
// kube-proxy does not return when its context ends, so it is not waited for.
func (p *KubeProxy) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_ = p.run.Stop(ctx)
	return nil
}

func (p *KubeProxy) Failed() <-chan error { return p.run.Failed() }
