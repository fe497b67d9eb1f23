package agent

import (
	"context"
	"net"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/loadbalancer"
)

// AllPorts are what an agent listens on.
func AllPorts(c config.Node) []hostcheck.Port { return append(Ports(), balancerPort(c)) }

// balancerPort is where the node's load balancer listens.
func balancerPort(c config.Node) hostcheck.Port {
	return hostcheck.Port{Host: "127.0.0.1", Number: int(c.LBPort), Use: "load balancer for the API", Option: "--lb-server-port"}
}

// balancerComponent is the node's load balancer as a component.
type balancerComponent struct {
	balancer *loadbalancer.Balancer
	run      component.Runner
}

func (*balancerComponent) Name() string                     { return "load-balancer" }
func (*balancerComponent) Needs() []string                  { return nil }
func (b *balancerComponent) Stop(ctx context.Context) error { return b.run.Stop(ctx) }
func (b *balancerComponent) Failed() <-chan error           { return b.run.Failed() }

func (b *balancerComponent) Start(context.Context) error {
	b.run.Run(b.balancer.Run)
	return nil
}

// Servers learns which servers the cluster has, as a component: from the
// endpoints of the Service kubernetes, which every apiserver keeps itself in.
type Servers struct {
	kubeconfig string
	learn      []func([]string)
	run        component.Runner
}

// NewServers makes the component, which passes each list on to all of learn.
func NewServers(kubeconfig string, learn ...func([]string)) *Servers {
	return &Servers{kubeconfig: kubeconfig, learn: learn}
}

// Learn adds somebody to pass lists on to, before Start.
func (s *Servers) Learn(learn func([]string)) { s.learn = append(s.learn, learn) }

func (*Servers) Name() string                     { return "servers" }
func (*Servers) Needs() []string                  { return []string{"apiserver"} }
func (s *Servers) Stop(ctx context.Context) error { return s.run.Stop(ctx) }
func (s *Servers) Failed() <-chan error           { return s.run.Failed() }

// Start begins to follow them.
func (s *Servers) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(metav1.NamespaceDefault),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = discoveryv1.LabelServiceName + "=kubernetes" }))
	endpoints := factory.Discovery().V1().EndpointSlices()
	informer := endpoints.Informer()
	changed := func(any) {
		found, err := endpoints.Lister().List(labels.Everything())
		if err == nil && informer.HasSynced() {
			s.tell(found)
		}
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: changed,
	})
	if err != nil {
		return err
	}
	s.run.Run(func(ctx context.Context) error {
		factory.Start(ctx.Done())
		<-ctx.Done()
		factory.Shutdown()
		return nil
	})
	return nil
}

// tell passes the servers on. An empty list says that all have left in order: the
// known ones are still the best guess.
func (s *Servers) tell(found []*discoveryv1.EndpointSlice) {
	var list []string
	for _, slice := range found {
		for _, port := range slice.Ports {
			if port.Port == nil {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				for _, address := range endpoint.Addresses {
					list = append(list, net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	if len(list) == 0 {
		return
	}
	slices.Sort(list)
	for _, learn := range s.learn {
		learn(list)
	}
}
