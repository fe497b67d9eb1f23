package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/probe"
)

// APIServerConfig is what the apiserver is told.
type APIServerConfig struct {
	BindAddress      netip.Addr
	Port             uint16
	AdvertiseAddress netip.Addr
	ServiceCIDRs     []netip.Prefix
	NodePorts        config.NodePortRange
	ClusterDomain    string
	Datastore        string // etcd endpoint URL
	DatastoreTLS     datastore.TLS
	Several          bool // there may be other apiservers
	PKI              pki.Layout
	ConfigDir        string // for files made from this configuration
	EncryptionConfig string // file of the keys of Secrets
	Hardening        Hardening
	Profiling        bool
	ExtraArgs        []config.Arg
	// Front is called once the certificates are there; what it returns wraps the
	// apiserver's whole chain of handlers.
	Front func() (func(http.Handler) http.Handler, error)
	// Dial reaches kubelets, webhooks and aggregated APIs; nil: directly.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// APIServer is kube-apiserver as a component.
type APIServer struct {
	config  APIServerConfig
	options *options.ServerRunOptions
	secrets secretsStore
	run     component.Runner
	self    *rest.Config  // the apiserver's client of itself
	ready   chan struct{} // closed: /readyz has said so
}

// shutdownTimeout is how long requests may go on when the apiserver stops.
const shutdownTimeout = time.Second

// anonymousHealth lets the unauthenticated ask for the apiserver's health and
// for nothing else.
const anonymousHealth = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /healthz
  - path: /livez
  - path: /readyz
`

// NewAPIServer checks the configuration and the user's arguments.
func NewAPIServer(c APIServerConfig) (*APIServer, error) {
	if err := c.checkFiles(); err != nil {
		return nil, err
	}
	o := options.NewServerRunOptions()
	sets := o.Flags()
	if err := setFlags(&sets, c.flags(), "kube-apiserver-arg", c.ExtraArgs); err != nil {
		return nil, err
	}
	return &APIServer{config: c, options: o, secrets: secretsStore{file: c.EncryptionConfig}, ready: make(chan struct{})}, nil
}

// LocalURL is how this process reaches an apiserver bound to address and port.
func LocalURL(bind netip.Addr, port uint16) string {
	host := bind
	if bind.IsUnspecified() {
		host = netip.MustParseAddr("127.0.0.1")
		if bind.Is6() {
			host = netip.IPv6Loopback()
		}
	}
	return "https://" + netip.AddrPortFrom(host, port).String()
}

func (c APIServerConfig) authenticationConfig() string { return c.ConfigDir + "/authentication.yaml" }

// ownAuthentication says whether the user's arguments leave authentication to
// Kedge's configuration file, which upstream lets nobody combine with flags
// for OpenID Connect.
func (c APIServerConfig) ownAuthentication() bool {
	for _, arg := range c.ExtraArgs {
		if strings.HasPrefix(arg.Name, "oidc-") || arg.Name == "authentication-config" || arg.Name == "anonymous-auth" {
			return false
		}
	}
	return true
}

// OwnEncryption says whether the keys of Secrets are Kedge's, not those of a file
// that the user's arguments name.
func (c APIServerConfig) OwnEncryption() bool {
	return !slices.ContainsFunc(c.ExtraArgs, func(arg config.Arg) bool { return arg.Name == "encryption-provider-config" })
}

func (c APIServerConfig) flags() map[string]string {
	p := c.PKI
	serving, kubelet, proxy := p.Serving("kube-apiserver"), p.Client("kube-apiserver-kubelet"), p.Client("auth-proxy")
	flags := map[string]string{
		"advertise-address":  c.AdvertiseAddress.String(),
		"allow-privileged":   "true",
		"authorization-mode": "Node,RBAC",
		"bind-address":       c.BindAddress.String(),
		// Aggregated APIs and webhooks are called by the addresses of their ready
		// pods: these serve, whether or not kube-proxy knows of them already, and also
		// where only Dial reaches pods.
		"enable-aggregator-routing":   "true",
		"secure-port":                 strconv.Itoa(int(c.Port)),
		"client-ca-file":              p.ClientCA().Cert,
		"enable-admission-plugins":    "NodeRestriction",
		"enable-bootstrap-token-auth": "true",
		// One server: leases that tell several apart would only be written,
		// every ten seconds.
		"endpoint-reconciler-type":           "master-count",
		"etcd-servers":                       c.Datastore,
		"kubelet-certificate-authority":      p.ServerCA().Cert,
		"kubelet-client-certificate":         kubelet.Cert,
		"kubelet-client-key":                 kubelet.Key,
		"kubelet-preferred-address-types":    "InternalIP,ExternalIP,Hostname",
		"profiling":                          strconv.FormatBool(c.Profiling),
		"proxy-client-cert-file":             proxy.Cert,
		"proxy-client-key-file":              proxy.Key,
		"requestheader-allowed-names":        "system:auth-proxy",
		"requestheader-client-ca-file":       p.RequestHeaderCA().Cert,
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-username-headers":     "X-Remote-User",
		"service-account-issuer":             "https://kubernetes.default.svc." + c.ClusterDomain,
		"service-account-key-file":           p.ServiceKey(),
		"service-account-signing-key-file":   p.ServiceKey(),
		"service-cluster-ip-range":           joinPrefixes(c.ServiceCIDRs),
		"service-node-port-range":            c.NodePorts.String(),
		"tls-cert-file":                      serving.Cert,
		"tls-private-key-file":               serving.Key,
		// WatchList needs watch progress requests, which kine answers slowly
		// (see datastore). APIServerIdentity writes a lease every ten seconds
		// for the sake of other apiservers, as the interoperability proxy needs it.
		"feature-gates": "WatchList=false,WatchListClient=false,APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false",
		// Counting every resource in the datastore each minute keeps an idle
		// machine awake for two metrics.
		"etcd-count-metric-poll-period": "0",
		"etcd-db-metric-poll-interval":  "0",
	}
	for name, file := range map[string]string{
		"etcd-cafile":   c.DatastoreTLS.CA,
		"etcd-certfile": c.DatastoreTLS.Client.Cert,
		"etcd-keyfile":  c.DatastoreTLS.Client.Key,
	} {
		if file != "" {
			flags[name] = file
		}
	}
	if c.Several {
		flags["endpoint-reconciler-type"] = "lease"
	}
	maps.Copy(flags, c.hardeningFlags())
	if c.OwnEncryption() {
		flags["encryption-provider-config"] = c.EncryptionConfig
		flags["encryption-provider-config-automatic-reload"] = "true"
	}
	if c.ownAuthentication() {
		flags["authentication-config"] = c.authenticationConfig()
	} else {
		flags["anonymous-auth"] = "false"
	}
	return flags
}

func (*APIServer) Name() string    { return "apiserver" }
func (*APIServer) Needs() []string { return []string{"listener"} }

// Start builds the server chain as upstream's own command does, and serves.
func (a *APIServer) Start(ctx context.Context) error {
	if a.config.ownAuthentication() {
		if _, err := atomicfile.Update(a.config.authenticationConfig(), []byte(anonymousHealth), 0o600); err != nil {
			return err
		}
	}
	if err := a.config.writeHardening(); err != nil {
		return err
	}
	// The loopback client's own warnings tell nobody anything.
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	registry := a.options.GenericServerRunOptions.ComponentGlobalsRegistry
	if gate, ok := registry.FeatureGateFor(basecompatibility.DefaultKubeComponent).(featuregate.MutableFeatureGate); ok {
		gate.AddMetrics()
	}
	registry.AddMetrics()

	life := a.run.Context()
	completed, err := a.options.Complete(life)
	if err != nil {
		return err
	}
	if errs := completed.Validate(); len(errs) != 0 {
		return fmt.Errorf("configuration: %w", utilerrors.NewAggregate(errs))
	}
	chain, err := app.NewConfig(completed)
	if err != nil {
		return err
	}
	if dial := a.config.Dial; dial != nil {
		// What upstream does with an egress selector, without its proxy processes.
		chain.KubeAPIs.KubeletClientConfig.Lookup = func(egressselector.NetworkContext) (utilnet.DialFunc, error) { return dial, nil }
		chain.KubeAPIs.ControlPlane.ProxyTransport.DialContext = dial
	}
	kube := chain.KubeAPIs.ControlPlane.Generic
	kube.SkipOpenAPIInstallation = true // see openAPI
	kube.DisabledPostStartHooks.Insert(upstreamBootstrapHooks...)
	if a.config.OwnEncryption() {
		if err := a.secrets.takeOver(kube); err != nil {
			return err
		}
	}
	completeChain, err := chain.Complete()
	if err != nil {
		return err
	}
	server, err := app.CreateServerChain(completeChain)
	if err != nil {
		return err
	}
	// The aggregator delegates to the server of the built-in APIs.
	builtIn, ok := server.GenericAPIServer.NextDelegate().(*genericapiserver.GenericAPIServer)
	if !ok {
		return fmt.Errorf("the aggregator delegates to a %T", server.GenericAPIServer.NextDelegate())
	}
	serveOpenAPI(builtIn, kube.OpenAPIConfig, kube.OpenAPIV3Config)
	loopback := server.GenericAPIServer.LoopbackClientConfig
	err = server.GenericAPIServer.AddPostStartHook("kedge/bootstrap-policy", func(hook genericapiserver.PostStartHookContext) error {
		return bootstrapPolicy(hook, loopback)
	})
	if err != nil {
		return err
	}
	if a.config.OwnEncryption() {
		if err := a.secrets.connect(loopback); err != nil {
			return err
		}
	}
	nodeMetrics, err := newNodeMetrics(loopback)
	if err != nil {
		return err
	}
	server.GenericAPIServer.Handler.NonGoRestfulMux.UnlistedHandlePrefix(nodeMetricsPrefix, nodeMetrics)
	handler := server.GenericAPIServer.Handler
	handler.FullHandlerChain = a.onceReady(handler.FullHandlerChain)
	if a.config.Front != nil {
		front, err := a.config.Front()
		if err != nil {
			return err
		}
		handler.FullHandlerChain = front(handler.FullHandlerChain)
	}
	// The time that requests under way are given.
	server.GenericAPIServer.ShutdownTimeout = shutdownTimeout
	prepared, err := server.PrepareRun()
	if err != nil {
		return err
	}
	a.self = server.GenericAPIServer.LoopbackClientConfig
	a.run.Run(prepared.Run)
	return nil
}

// Ready waits for /readyz, which covers every post-start hook. The user's arguments may
// keep it from those that nobody knows.
func (a *APIServer) Ready(ctx context.Context) error {
	client, err := rest.HTTPClientFor(a.self)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	if err := probe.WaitWith(ctx, client, a.self.Host+"/readyz"); err != nil {
		return err
	}
	close(a.ready)
	return nil
}

// Stop refuses new requests and lets those under way end. Watches of clients
// elsewhere, CoreDNS for one, would keep upstream's shutdown waiting: the end
// of the process cuts them off.
func (a *APIServer) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*shutdownTimeout)
	defer cancel()
	if err := a.run.Stop(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func (a *APIServer) Failed() <-chan error { return a.run.Failed() }

func joinPrefixes(prefixes []netip.Prefix) string {
	out := make([]string, len(prefixes))
	for i, p := range prefixes {
		out[i] = p.String()
	}
	return strings.Join(out, ",")
}
