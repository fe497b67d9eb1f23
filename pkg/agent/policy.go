package agent

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/knftables"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/flannel"
	"github.com/kedge-k8s/kedge/pkg/netpol"
	"github.com/kedge-k8s/kedge/pkg/podgate"
)

// networkPolicy enforces network policies on the node's pods, as a component.
// What it has set up stays when it stops: policies hold while Kedge restarts.
type networkPolicy struct {
	node       string
	kubeconfig string
	gate       string // socket at which new pods wait
	log        *slog.Logger
	run        component.Runner
}

func (*networkPolicy) Name() string                     { return "network-policy" }
func (*networkPolicy) Needs() []string                  { return []string{"apiserver"} }
func (p *networkPolicy) Stop(ctx context.Context) error { return p.run.Stop(ctx) }
func (p *networkPolicy) Failed() <-chan error           { return p.run.Failed() }

func (p *networkPolicy) Start(context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", p.kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	nft, err := policyTable()
	if err != nil {
		return err
	}
	controller := netpol.New(netpol.Options{Client: client, NodeName: p.node, NFT: nft, Bridge: flannel.Bridge, Log: p.log})
	gate := &podgate.Gate{Socket: p.gate, Log: p.log, Admit: func(ctx context.Context, pod podgate.Pod) error {
		return controller.Admit(ctx, types.UID(pod.UID), pod.Addresses)
	}}
	if err := gate.Listen(); err != nil {
		return fmt.Errorf("open the gate for pods: %w", err)
	}
	p.run.Run(func(ctx context.Context) error {
		parts, ctx := errgroup.WithContext(ctx)
		parts.Go(func() error { return controller.Run(ctx) })
		parts.Go(func() error { return gate.Run(ctx) })
		return parts.Wait()
	})
	return nil
}

func policyTable() (knftables.Interface, error) {
	nft, err := knftables.New(knftables.InetFamily, netpol.TableName)
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return nft, nil
}

// noNetworkPolicy removes what an earlier run has set up, as a component.
type noNetworkPolicy struct{}

func (noNetworkPolicy) Name() string               { return "network-policy" }
func (noNetworkPolicy) Needs() []string            { return nil }
func (noNetworkPolicy) Stop(context.Context) error { return nil }

func (noNetworkPolicy) Start(ctx context.Context) error {
	nft, err := policyTable()
	if err != nil {
		return err
	}
	return netpol.Remove(ctx, nft)
}
