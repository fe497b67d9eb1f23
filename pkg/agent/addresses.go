package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/node"
)

// addressQuiet is how long the machine's addresses must have stopped changing
// before the node's is looked at: a lease that is renewed may take it away for a
// moment.
const addressQuiet = 3 * time.Second

// addressWatch notices when the machine gets another address, as a component.
// Too much is built on a node's address for the parts to be told one by one:
// Kedge starts again, in the same process, and pods keep running.
type addressWatch struct {
	node     *Node
	families []netip.Prefix // ranges of the IP families that the node has addresses of
	run      component.Runner
}

func (*addressWatch) Name() string                     { return "addresses" }
func (*addressWatch) Needs() []string                  { return nil }
func (w *addressWatch) Stop(ctx context.Context) error { return w.run.Stop(ctx) }
func (w *addressWatch) Failed() <-chan error           { return w.run.Failed() }

// Start subscribes to the kernel's news of addresses and routes.
func (w *addressWatch) Start(context.Context) error {
	life := w.run.Context()
	addresses := make(chan netlink.AddrUpdate, 64)
	routes := make(chan netlink.RouteUpdate, 64)
	if err := netlink.AddrSubscribe(addresses, life.Done()); err != nil {
		return fmt.Errorf("follow the machine's addresses: %w", err)
	}
	if err := netlink.RouteSubscribe(routes, life.Done()); err != nil {
		return fmt.Errorf("follow the machine's routes: %w", err)
	}
	w.run.Run(func(ctx context.Context) error {
		quiet := time.NewTimer(addressQuiet)
		for {
			select {
			case <-ctx.Done():
				return nil
			case _, open := <-addresses:
				if !open {
					addresses = nil
				}
				quiet.Reset(addressQuiet)
			case _, open := <-routes:
				if !open {
					routes = nil
				}
				quiet.Reset(addressQuiet)
			case <-quiet.C:
				if err := w.look(); err != nil {
					return err
				}
			}
		}
	})
	return nil
}

// look returns an error if the node's address is another one. A machine that has
// none at the moment waits for one.
func (w *addressWatch) look() error {
	now, err := node.Addresses(w.families)
	if err != nil || slices.Equal(now, w.node.addresses) {
		return nil //nolint:nilerr // see above
	}
	return fmt.Errorf("the node's address was %s and is %s: %w", w.node.addresses, now, component.ErrRestart)
}
