package controlplane

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/probe"
)

const controllerManagerPort = 10257

// ControllerManagerConfig is what the controller manager is told.
type ControllerManagerConfig struct {
	ClusterCIDRs  []netip.Prefix
	ServiceCIDRs  []netip.Prefix
	PKI           pki.Layout
	VolumePlugins string // directory of FlexVolume plugins
	CloudProvider bool   // nodes are initialized by a cloud controller
	Profiling     bool
	ExtraArgs     []config.Arg
}

// ControllerManager is kube-controller-manager as a component.
type ControllerManager struct {
	options *options.KubeControllerManagerOptions
	url     string
	ca      string
	run     component.Runner
}

// NewControllerManager checks the user's arguments.
func NewControllerManager(c ControllerManagerConfig) (*ControllerManager, error) {
	o, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	sets := o.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	o.ParsedFlags = &sets
	if err := setFlags(&sets, c.flags(), "kube-controller-manager-arg", c.ExtraArgs); err != nil {
		return nil, err
	}
	return &ControllerManager{
		options: o,
		url:     "https://127.0.0.1:" + strconv.Itoa(o.SecureServing.BindPort) + "/healthz",
		ca:      c.PKI.ServerCA().Cert,
	}, nil
}

func (c ControllerManagerConfig) flags() map[string]string {
	p := c.PKI
	serving, kubeconfig := p.Serving("kube-controller-manager"), p.Kubeconfig("kube-controller-manager")
	flags := map[string]string{
		"allocate-node-cidrs":       "true",
		"authentication-kubeconfig": kubeconfig,
		"authorization-kubeconfig":  kubeconfig,
		"bind-address":              "127.0.0.1",
		"cluster-cidr":              joinPrefixes(c.ClusterCIDRs),
		"cluster-signing-kube-apiserver-client-cert-file": p.Signing(p.ClientCA()),
		"cluster-signing-kube-apiserver-client-key-file":  p.ClientCA().Key,
		"cluster-signing-kubelet-client-cert-file":        p.Signing(p.ClientCA()),
		"cluster-signing-kubelet-client-key-file":         p.ClientCA().Key,
		"cluster-signing-kubelet-serving-cert-file":       p.Signing(p.ServerCA()),
		"cluster-signing-kubelet-serving-key-file":        p.ServerCA().Key,
		"cluster-signing-legacy-unknown-cert-file":        p.Signing(p.ServerCA()),
		"cluster-signing-legacy-unknown-key-file":         p.ServerCA().Key,
		"configure-cloud-routes":                          "false",
		"controllers":                                     "*,bootstrapsigner,tokencleaner",
		"flex-volume-plugin-dir":                          c.VolumePlugins,
		// At 20 requests a second, upstream's default, making some 40 service
		// accounts and their tokens takes the first start four seconds. The
		// apiserver's own priority and fairness is the limit that counts.
		"kube-api-qps":                     "300",
		"kube-api-burst":                   "600",
		"kubeconfig":                       kubeconfig,
		"leader-elect":                     "false", // one server: a lock would only be written, every two seconds
		"profiling":                        strconv.FormatBool(c.Profiling),
		"root-ca-file":                     p.ServerCA().Cert,
		"secure-port":                      strconv.Itoa(controllerManagerPort),
		"service-account-private-key-file": p.ServiceKey(),
		"service-cluster-ip-range":         joinPrefixes(c.ServiceCIDRs),
		"tls-cert-file":                    serving.Cert,
		"tls-private-key-file":             serving.Key,
		"use-service-account-credentials":  "true",
	}
	if c.CloudProvider {
		flags["cloud-provider"] = "external"
	}
	return flags
}

func (*ControllerManager) Name() string    { return "controller-manager" }
func (*ControllerManager) Needs() []string { return []string{"apiserver"} }

func (m *ControllerManager) Start(ctx context.Context) error {
	c, err := m.options.Config(m.run.Context(), app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return err
	}
	m.run.Run(func(ctx context.Context) error { return app.Run(ctx, c.Complete()) })
	return nil
}

func (m *ControllerManager) Ready(ctx context.Context) error { return probe.Wait(ctx, m.url, m.ca) }

// Built waits until every controller is made: then each has its health check.
func (m *ControllerManager) Built(ctx context.Context) error {
	return probe.WaitFor(ctx, m.url+"?verbose", m.ca, func(body string) error {
		if !strings.Contains(body, "-controller ok") {
			return errors.New("the controllers are being made")
		}
		return nil
	})
}

func (m *ControllerManager) Stop(ctx context.Context) error { return m.run.Stop(ctx) }
func (m *ControllerManager) Failed() <-chan error           { return m.run.Failed() }
