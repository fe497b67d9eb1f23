package cleanup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// interfaceNames are those of the pods' bridge, flannel's devices and those that
// limit the bandwidth of pods.
var interfaceNames = regexp.MustCompile(`^(cni0|flannel(-v6)?\.\d+|flannel-wg(-v6)?|bwp[0-9a-f]{8,12})$`)

func (m *Machine) interfaces() trace {
	return trace{
		kind: "network interfaces",
		find: func(context.Context) (names []string, err error) {
			links, err := links()
			for _, link := range links {
				names = append(names, link.Attrs().Name)
			}
			return names, err
		},
		remove: func(context.Context, []string) error {
			links, err := links()
			if err != nil {
				return err
			}
			var errs []error
			for _, link := range links {
				if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
					errs = append(errs, fmt.Errorf("remove %s: %w", link.Attrs().Name, err))
				}
			}
			return errors.Join(errs...)
		},
	}
}

// links are Kedge's network interfaces, the pods' ends of the bridge first.
func links() (found []netlink.Link, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var own []netlink.Link
	bridge := 0
	for _, link := range all {
		if interfaceNames.MatchString(link.Attrs().Name) {
			own = append(own, link)
		}
		if link.Attrs().Name == "cni0" {
			bridge = link.Attrs().Index
		}
	}
	for _, link := range all {
		if bridge != 0 && link.Attrs().MasterIndex == bridge && link.Type() == "veth" {
			found = append(found, link)
		}
	}
	return append(found, own...), nil
}

// podRange is the pods' range in a rule of the masquerade table.
var podRange = regexp.MustCompile(`ip6? saddr (?:!= )?([0-9a-f.:]+/\d+)`)

// routes are those to the pods of other nodes that need no device of flannel's.
// Which ranges are the pods' is seen in Kedge's own table.
func (m *Machine) routes() trace {
	find := func(ctx context.Context) (found []netlink.Route, err error) {
		for _, family := range []struct {
			name   string
			number int
		}{{"ip", unix.AF_INET}, {"ip6", unix.AF_INET6}} {
			rules, err := nft(ctx, "list", "table", family.name, "kedge-masquerade")
			if err != nil {
				continue // there is none
			}
			match := podRange.FindStringSubmatch(rules)
			if match == nil {
				continue
			}
			pods, err := netip.ParsePrefix(match[1])
			if err != nil {
				continue
			}
			routes, err := netlink.RouteList(nil, family.number)
			if err != nil {
				return nil, err
			}
			for _, route := range routes {
				if toPods(route, pods) {
					found = append(found, route)
				}
			}
		}
		return found, nil
	}
	return trace{
		kind: "routes",
		find: func(ctx context.Context) (names []string, err error) {
			routes, err := find(ctx)
			for _, route := range routes {
				names = append(names, route.Dst.String())
			}
			return names, err
		},
		remove: func(ctx context.Context, _ []string) error {
			routes, err := find(ctx)
			errs := []error{err}
			for _, route := range routes {
				if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
					errs = append(errs, fmt.Errorf("remove the route to %s: %w", route.Dst, err))
				}
			}
			return errors.Join(errs...)
		},
	}
}

func toPods(route netlink.Route, pods netip.Prefix) bool {
	if route.Dst == nil || route.Gw == nil || route.Protocol != unix.RTPROT_BOOT {
		return false
	}
	dst, ok := netip.AddrFromSlice(route.Dst.IP)
	bits, _ := route.Dst.Mask.Size()
	return ok && pods.Contains(dst.Unmap()) && bits >= pods.Bits()
}

// tableNames are of kube-proxy, of Kedge and of the CNI plugins.
var tableNames = []string{"kube-proxy", "kedge-masquerade", "kedge-netpol", "cni_hostport", "cni_plugins_masquerade"}

// tables are those of nftables.
func (m *Machine) tables() trace {
	return trace{
		kind: "firewall tables",
		find: func(ctx context.Context) ([]string, error) {
			out, err := nft(ctx, "list", "tables")
			return ownTables(out), err
		},
		remove: func(ctx context.Context, found []string) error {
			var errs []error
			for _, table := range found {
				_, err := nft(ctx, append([]string{"delete", "table"}, strings.Fields(table)...)...)
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}

// ownTables are Kedge's in the output of nft list tables, as "ip kube-proxy".
func ownTables(list string) (found []string) {
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "table" && slices.Contains(tableNames, f[2]) {
			found = append(found, f[1]+" "+f[2])
		}
	}
	return found
}

func nft(ctx context.Context, args ...string) (string, error) { return run(ctx, "nft", args...) }

func run(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
