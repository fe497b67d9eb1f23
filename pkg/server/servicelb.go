package server

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/agent"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/servicelb"
)

// serviceLB gives Services of type LoadBalancer the addresses of nodes, as a
// component. Disabled, it takes those back that an earlier run gave.
type serviceLB struct {
	kubeconfig string
	disabled   bool
	reserved   map[servicelb.Port]string
	log        *slog.Logger
	run        component.Runner
}

func (*serviceLB) Name() string                     { return "servicelb" }
func (*serviceLB) Needs() []string                  { return []string{"apiserver"} }
func (l *serviceLB) Stop(ctx context.Context) error { return l.run.Stop(ctx) }
func (l *serviceLB) Failed() <-chan error           { return l.run.Failed() }

func (l *serviceLB) Start(context.Context) error {
	c, err := clientcmd.BuildConfigFromFlags("", l.kubeconfig)
	if err != nil {
		return err
	}
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.QPS = -1 // a node's end changes all Services at once
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return err
	}
	if l.disabled {
		l.run.Run(func(ctx context.Context) error {
			l.clear(ctx, client)
			<-ctx.Done()
			return nil
		})
		return nil
	}
	l.run.Run(servicelb.New(servicelb.Options{Client: client, Reserved: l.reserved, Log: l.log}).Run)
	return nil
}

// clearRetry is the pace at which taking addresses back is tried again. Right after
// its start the apiserver may not have read the roles yet.
const clearRetry = 2 * time.Second

func (l *serviceLB) clear(ctx context.Context, client kubernetes.Interface) {
	for {
		cleared, err := servicelb.Clear(ctx, client)
		if cleared > 0 {
			l.log.Info("took the addresses of Services back", "component", l.Name(), "services", cleared)
		}
		if err == nil {
			return
		}
		l.log.Debug("Services keep their addresses for now", "component", l.Name(), "err", err)
		select {
		case <-time.After(clearRetry):
		case <-ctx.Done():
			return
		}
	}
}

// reservedPorts are those that no Service may have on any node: without them a
// cluster breaks.
func reservedPorts(c *config.Server) map[servicelb.Port]string {
	ports := map[servicelb.Port]string{
		{Number: c.ControlPlane.Port, Protocol: corev1.ProtocolTCP}: "API server",
	}
	for _, p := range agent.Ports() {
		if p.Host == "" { // reached from other machines
			ports[servicelb.Port{Number: uint16(p.Number), Protocol: corev1.ProtocolTCP}] = p.Use
		}
	}
	for _, p := range hostcheck.PodNetworkPorts(c.Network.FlannelBackend, c.Network.ClusterCIDRs) {
		ports[servicelb.Port{Number: p.Number, Protocol: corev1.ProtocolUDP}] = "pod network"
	}
	return ports
}
