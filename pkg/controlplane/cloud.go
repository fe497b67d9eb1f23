package controlplane

import (
	"context"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	cloudprovider "k8s.io/cloud-provider"
	cloudproviderapi "k8s.io/cloud-provider/api"
	"k8s.io/cloud-provider/controllers/node"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

// providerName is the scheme of spec.providerID of Kedge's nodes.
const providerName = "kedge"

// addressRefresh is how often node addresses are compared; what a node says
// anew of itself is acted on at once.
const addressRefresh = 5 * time.Minute

// CloudController runs upstream's cloud node controller with Kedge's own
// provider: a node's addresses are those its kubelet was given, and the taint
// that keeps pods off an uninitialized node is removed.
type CloudController struct {
	kubeconfig string
	run        component.Runner
}

// NewCloudController makes the component.
func NewCloudController(layout pki.Layout) *CloudController {
	return &CloudController{kubeconfig: layout.Kubeconfig("cloud-controller")}
}

func (*CloudController) Name() string    { return "cloud-controller" }
func (*CloudController) Needs() []string { return []string{"apiserver"} }

func (c *CloudController) Start(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	controller, err := node.NewCloudNodeController(factory.Core().V1().Nodes(), client, provider{}, addressRefresh, 1, 1)
	if err != nil {
		return err
	}
	refresh := make(chan struct{}, 1)
	_, err = factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, now any) {
			before, okBefore := old.(*v1.Node)
			after, okAfter := now.(*v1.Node)
			if okBefore && okAfter && saysOther(before, after) {
				select {
				case refresh <- struct{}{}:
				default:
				}
			}
		},
	})
	if err != nil {
		return err
	}
	c.run.Run(func(ctx context.Context) error {
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-refresh:
					// What fails here is done at the next regular refresh.
					_ = controller.UpdateNodeStatus(ctx)
				}
			}
		}()
		factory.Start(ctx.Done())
		defer factory.Shutdown()
		controller.RunWithContext(ctx, controllersmetrics.NewControllerManagerMetrics("cloud-controller"))
		return nil
	})
	return nil
}

func (c *CloudController) Stop(ctx context.Context) error { return c.run.Stop(ctx) }
func (c *CloudController) Failed() <-chan error           { return c.run.Failed() }

// saidAddress is an annotation and the kind of addresses in it.
type saidAddress struct {
	annotation string
	kind       v1.NodeAddressType
}

// saidAddresses are the annotations in which nodes say what they are reached as.
var saidAddresses = []saidAddress{
	{cloudproviderapi.AnnotationAlphaProvidedIPAddr, v1.NodeInternalIP},
	{join.ExternalIPAnnotation, v1.NodeExternalIP},
	{join.InternalDNSAnnotation, v1.NodeInternalDNS},
	{join.ExternalDNSAnnotation, v1.NodeExternalDNS},
}

// saysOther tells whether a node says other addresses of itself than before.
func saysOther(old, now *v1.Node) bool {
	return slices.ContainsFunc(saidAddresses, func(s saidAddress) bool {
		return old.Annotations[s.annotation] != now.Annotations[s.annotation]
	})
}

// provider is the cloud of machines that Kedge runs on: it knows nodes by
// what they say of themselves.
type provider struct{}

func (provider) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}
func (provider) LoadBalancer() (cloudprovider.LoadBalancer, bool)                  { return nil, false }
func (provider) Instances() (cloudprovider.Instances, bool)                        { return nil, false }
func (p provider) InstancesV2() (cloudprovider.InstancesV2, bool)                  { return p, true }
func (provider) Zones() (cloudprovider.Zones, bool)                                { return nil, false }
func (provider) Clusters() (cloudprovider.Clusters, bool)                          { return nil, false }
func (provider) Routes() (cloudprovider.Routes, bool)                              { return nil, false }
func (provider) ProviderName() string                                              { return providerName }
func (provider) HasClusterID() bool                                                { return true }

// InstanceExists is always true: an administrator deletes nodes, not Kedge.
func (provider) InstanceExists(context.Context, *v1.Node) (bool, error) { return true, nil }

// InstanceShutdown is unknown to Kedge: a silent node is NotReady.
func (provider) InstanceShutdown(context.Context, *v1.Node) (bool, error) { return false, nil }

func (provider) InstanceMetadata(_ context.Context, n *v1.Node) (*cloudprovider.InstanceMetadata, error) {
	metadata := &cloudprovider.InstanceMetadata{
		ProviderID:   providerName + "://" + n.Name,
		InstanceType: providerName,
	}
	hostname := n.Name
	for _, a := range n.Status.Addresses {
		if a.Type == v1.NodeHostName {
			hostname = a.Address
		}
	}
	for _, said := range saidAddresses {
		for _, address := range said.of(n) {
			metadata.NodeAddresses = append(metadata.NodeAddresses, v1.NodeAddress{Type: said.kind, Address: address})
		}
	}
	metadata.NodeAddresses = append(metadata.NodeAddresses, v1.NodeAddress{Type: v1.NodeHostName, Address: hostname})
	return metadata, nil
}

// of are the addresses of the kind that a node has. One that is its internal one
// too, as IPv6 addresses often are, stands aside for others: upstream takes it for
// the only one of its kind.
func (s saidAddress) of(n *v1.Node) []string {
	list := func(annotation string) []string {
		return strings.FieldsFunc(n.Annotations[annotation], func(r rune) bool { return r == ',' })
	}
	said, internal := list(s.annotation), list(cloudproviderapi.AnnotationAlphaProvidedIPAddr)
	others := slices.DeleteFunc(slices.Clone(said), func(a string) bool { return slices.Contains(internal, a) })
	if s.kind == v1.NodeInternalIP || len(others) == 0 {
		return said
	}
	return others
}
