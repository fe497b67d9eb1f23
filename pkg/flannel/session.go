package flannel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/backend/hostgw"
	"github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/backend/wireguard"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// session is one registration of the node with a backend.
type session struct {
	manager   *manager
	addresses []netip.Addr // the node's
	router    *router      // nil: the backend makes its routes itself
	links     []int        // the interface to the other nodes, and the backend's devices

	end     context.CancelFunc // of run
	ended   chan struct{}
	release context.CancelFunc // of the registration
	work    sync.WaitGroup     // the backend's, until the registration ends
}

// register makes the backend's devices, tells the other nodes, and then lets
// pods have addresses. It replaces the session.
func (n *Network) register(ctx context.Context, view view) error {
	addresses := n.nodeIPs()
	external, err := externalInterface(n.config.Iface, addresses, familiesOf(n.config.ClusterCIDRs))
	if err != nil {
		return err
	}
	if n.session != nil {
		n.session.stop()
		// Now a wireguard backend removes its device, which it would make anew.
		n.session.release()
		n.session.work.Wait()
		n.session = nil
	}
	conf, err := withMTU(n.conf, external.Iface.MTU)
	if err != nil {
		return err
	}
	names, err := devices(conf)
	if err != nil {
		return err
	}
	if err := removeDevices(names); err != nil {
		return err
	}
	ranges := view.self.list()
	if n.config.CNIConf == "" {
		if err := removeStaleBridge(ranges, n.config.Log); err != nil {
			return err
		}
	}
	if err := keepRouterAdvertisements(external.IfaceName, conf.EnableIPv6); err != nil {
		return err
	}

	s := &session{
		manager: &manager{
			node: n.config.NodeName, client: n.client, nodes: n.nodes,
			conf: conf, self: view.self, external: n.config.ExternalIP,
		},
		addresses: addresses,
		links:     []int{external.Iface.Index},
		ended:     make(chan struct{}),
	}
	// Longer than ctx: a wireguard backend removes its device when this ends.
	registered, release := context.WithCancel(context.WithoutCancel(ctx))
	s.release = release
	network, err := s.registerWith(ctx, registered, external)
	if err != nil {
		release()
		return err
	}
	mtu := network.MTU()
	var indexes dual[int]
	for _, device := range []struct {
		name  string
		index *int
	}{{names.v4, &indexes.v4}, {names.v6, &indexes.v6}} {
		if device.name == "" {
			continue
		}
		link, err := netlink.LinkByName(device.name)
		if err == nil && link.Attrs().MTU != mtu {
			// flannel leaves a device as it finds it.
			err = netlink.LinkSetMTU(link, mtu)
		}
		if err != nil {
			release()
			return fmt.Errorf("device %s: %w", device.name, err)
		}
		*device.index = link.Attrs().Index
		s.links = append(s.links, link.Attrs().Index)
	}
	options, err := optionsOf(conf)
	if err != nil {
		release()
		return err
	}
	s.router = &router{
		backend: conf.BackendType, networks: networks(conf), link: external.Iface.Index,
		devices: indexes, direct: options.DirectRouting,
	}
	n.links.Store(&s.links)

	run, end := context.WithCancel(context.WithoutCancel(ctx))
	s.end = end
	if conf.BackendType == wireGuard {
		go func() {
			defer close(s.ended)
			network.Run(run)
		}()
	} else {
		close(s.ended)
	}
	n.session = s
	// A node that can't be reached must not keep this one from being Ready.
	if err := s.apply(view.peers); err != nil {
		n.config.Log.Warn("not all nodes can be reached by their pods yet", "error", err)
	}
	if err := n.config.installCNI(ranges, mtu); err != nil {
		return err
	}
	n.config.Log.Info("pod network is up", "backend", n.conf.BackendType, "interface", external.IfaceName, "mtu", mtu, "nodes", len(view.peers)+1)
	return nil
}

func (s *session) registerWith(ctx, registered context.Context, external *backend.ExternalInterface) (backend.Network, error) {
	backends := map[string]backend.BackendCtor{VXLAN: vxlan.New, HostGW: hostgw.New, wireGuard: wireguard.New}
	b, err := backends[s.manager.conf.BackendType](s.manager, external)
	if err != nil {
		return nil, err
	}
	// What ends ctx ends the registration as long as it isn't complete.
	unbind := context.AfterFunc(ctx, s.release)
	defer unbind()
	network, err := b.RegisterNetwork(registered, &s.work, s.manager.conf)
	switch {
	case err == nil:
		return network, nil
	case errors.Is(err, unix.EOPNOTSUPP) && s.manager.conf.BackendType == wireGuard:
		return nil, fmt.Errorf("this machine's kernel has no WireGuard, which flannel-backend=%s needs: "+
			"load the module (modprobe wireguard), use a kernel with it (5.6 or later), or choose another backend: %w", WireGuard, err)
	}
	return nil, fmt.Errorf("flannel backend %s: %w", s.manager.conf.BackendType, err)
}

// current says whether the session still is for this state of the node.
func (s *session) current(now self, addresses []netip.Addr) bool {
	if s == nil || s.manager.self != now || !slices.Equal(s.addresses, addresses) {
		return false
	}
	for i, index := range s.links {
		link, err := netlink.LinkByIndex(index)
		if err != nil {
			return false
		}
		// Devices that were set down have lost their routes. The interface that
		// they send by may be down for a while.
		if i > 0 && link.Attrs().Flags&net.FlagUp == 0 {
			return false
		}
	}
	return true
}

// apply brings the routes in line with the other nodes.
func (s *session) apply(peers map[string]peer) error {
	return s.router.apply(peers)
}

// stop ends what runs and leaves the devices and routes. flannel's loop may
// hang when it is told to end while it is told about a node; it then does
// nothing any more, and is not waited for.
func (s *session) stop() {
	s.end()
	select {
	case <-s.ended:
	case <-time.After(stopLimit):
	}
}
