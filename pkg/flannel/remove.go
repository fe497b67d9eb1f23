package flannel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// allocations is where host-local keeps which pod has which address.
	allocations = "/var/lib/cni/networks/" + networkName
	// wireGuardKey is where flannel keeps the node's key.
	wireGuardKey = "/run/flannel/wgkey"
)

// Remove removes the pod network from the machine, for killall and uninstall,
// when no pod is left. Of the configuration it uses ClusterCIDRs, to know the
// routes to the pods of other nodes, and CNIConfig.
func Remove(ctx context.Context, c Config) error {
	errs := []error{removeTraces(ctx, c)}
	if link, err := netlink.LinkByName(Bridge); err == nil {
		errs = append(errs, removeLink(link))
	}
	return errors.Join(append(errs, os.RemoveAll(allocations), removeFile(wireGuardKey))...)
}

// Forget removes the CNI configuration in the directory if the network that it
// describes is not there, as after a reboot: the node must not look ready before
// the network is up again.
func Forget(cniConfig string) error {
	if _, err := net.InterfaceByName(Bridge); err == nil {
		return nil
	}
	return removeFile(filepath.Join(cniConfig, cniFile))
}

// removeTraces removes what a backend made, and the CNI configuration.
func removeTraces(ctx context.Context, c Config) error {
	errs := []error{removeDevices(dual[string]{}), removeTables(ctx)}
	for _, cidr := range c.ClusterCIDRs {
		family := unix.AF_INET
		if cidr.Addr().Is6() {
			family = unix.AF_INET6
		}
		errs = append(errs, applyRoutes(family, cidr, 0, nil))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// Last: where it is, there may be more to remove.
	return removeFile(filepath.Join(c.CNIConfig, cniFile))
}

func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

var deviceName = regexp.MustCompile(`^flannel((-v6)?\.\d+|-wg|-wg-v6)$`)

// removeDevices removes the devices that flannel made, except those to keep.
func removeDevices(keep dual[string]) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list the network interfaces: %w", err)
	}
	var errs []error
	for _, link := range links {
		name, kind := link.Attrs().Name, link.Type()
		if (kind == "vxlan" || kind == "wireguard") && deviceName.MatchString(name) && name != keep.v4 && name != keep.v6 {
			errs = append(errs, removeLink(link))
		}
	}
	return errors.Join(errs...)
}

// removeStaleBridge removes the pods' bridge when it has an address of another
// range: the node was registered anew. The bridge plugin makes it again.
func removeStaleBridge(ranges []netip.Prefix, log *slog.Logger) error {
	link, err := netlink.LinkByName(Bridge)
	if err != nil {
		return nil //nolint:nilerr // there is none yet
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", Bridge, err)
	}
	for _, address := range addresses {
		a := toAddr(address.IP)
		if a.IsLinkLocalUnicast() || inAny(ranges, a) {
			continue
		}
		log.Warn("the node has another pod range than before: pods that still run lose their network; delete them",
			"bridge", Bridge, "had", a, "range", ranges)
		return removeLink(link)
	}
	return nil
}

func inAny(ranges []netip.Prefix, a netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

func removeLink(link netlink.Link) error {
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove network interface %s: %w", link.Attrs().Name, err)
	}
	return nil
}
