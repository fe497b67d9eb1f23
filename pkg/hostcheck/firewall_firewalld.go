package hostcheck

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

const (
	firewalldName = "org.fedoraproject.FirewallD1"
	firewalldPath = dbus.ObjectPath("/org/fedoraproject/FirewallD1")
	systemBus     = "/run/dbus/system_bus_socket"

	// trusted is the zone of firewalld that lets everything pass.
	trusted = "trusted"
	// bridge is what all packets of the node's pods come through.
	bridge = "cni0"
)

// asker asks a running firewalld. Methods are named as on its D-Bus object.
type asker interface {
	ask(ctx context.Context, method string, answer any, args ...any) error
}

// firewalldBus asks over D-Bus, as firewall-cmd does, which takes a Python
// interpreter half a second.
type firewalldBus struct{ object dbus.BusObject }

func (b firewalldBus) ask(ctx context.Context, method string, answer any, args ...any) error {
	err := b.object.CallWithContext(ctx, firewalldName+method, dbus.FlagNoAutoStart, args...).Store(answer)
	if err != nil {
		return fmt.Errorf("ask firewalld for %s: %w", method[1:], err)
	}
	return nil
}

// firewalld returns nil if it doesn't run.
func (h Host) firewalld(ctx context.Context, t Traffic) (*Firewall, error) {
	if !h.exists(systemBus) {
		return nil, nil
	}
	bus, err := dbus.Connect("unix:path="+systemBus, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to D-Bus: %w", err)
	}
	defer func() { _ = bus.Close() }()
	var running bool
	if err := bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, firewalldName).Store(&running); err != nil {
		return nil, fmt.Errorf("ask D-Bus for firewalld: %w", err)
	}
	if !running {
		return nil, nil
	}
	commands, err := firewalldCommands(ctx, firewalldBus{bus.Object(firewalldName, firewalldPath)}, t, interfacesOf(t.Node))
	if err != nil {
		return nil, err
	}
	return &Firewall{Name: "firewalld", Commands: commands}, nil
}

// interfacesOf are the network interfaces with the addresses.
func interfacesOf(addresses []netip.Addr) []string {
	all, err := HostInterfaces(OwnInterface)
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range all {
		if slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return slices.Contains(addresses, p.Addr()) }) {
			names = append(names, i.Name)
		}
	}
	return names
}

// firewalldCommands returns what opens firewalld: the ports in the zones of the
// interfaces, and the pods' ranges as trusted sources. Services need nothing:
// their addresses are replaced before firewalld sees a packet.
func firewalldCommands(ctx context.Context, f asker, t Traffic, interfaces []string) ([]string, error) {
	var sources, trustedInterfaces []string
	if err := f.ask(ctx, ".zone.getSources", &sources, trusted); err != nil {
		return nil, err
	}
	if err := f.ask(ctx, ".zone.getInterfaces", &trustedInterfaces, trusted); err != nil {
		return nil, err
	}
	var trustedRanges []netip.Prefix
	for _, s := range sources {
		if p, ok := parsePrefix(s); ok {
			trustedRanges = append(trustedRanges, p)
		}
	}

	var commands []string
	if !slices.ContainsFunc(trustedRanges, t.nodesIn) {
		zones, err := zonesOf(ctx, f, interfaces)
		if err != nil {
			return nil, err
		}
		for _, z := range zones {
			var add string
			for _, p := range t.Ports {
				open, err := z.lets(ctx, f, p)
				if err != nil {
					return nil, err
				}
				if !open {
					add += fmt.Sprintf(" --add-port=%d/%s", p.Number, p.Protocol)
				}
			}
			if add != "" {
				commands = append(commands, "firewall-cmd --permanent"+z.option+add)
			}
		}
	}
	var add string
	for _, pods := range t.Pods {
		if !slices.Contains(trustedInterfaces, bridge) &&
			!slices.ContainsFunc(trustedRanges, func(p netip.Prefix) bool { return covers(p, pods) }) {
			add += " --add-source=" + pods.String()
		}
	}
	if add != "" {
		commands = append(commands, "firewall-cmd --permanent --zone="+trusted+add)
	}
	if len(commands) > 0 {
		commands = append(commands, "firewall-cmd --reload")
	}
	return commands, nil
}

type firewalldZone struct {
	name   string
	option string // what names it in a command; empty for the default
}

// zonesOf returns the zones that packets from the interfaces are judged by.
func zonesOf(ctx context.Context, f asker, interfaces []string) ([]firewalldZone, error) {
	var standard string
	if err := f.ask(ctx, ".getDefaultZone", &standard); err != nil {
		return nil, err
	}
	if len(interfaces) == 0 {
		return []firewalldZone{{name: standard}}, nil
	}
	var zones []firewalldZone
	for _, i := range interfaces {
		var name string
		if err := f.ask(ctx, ".zone.getZoneOfInterface", &name, i); err != nil {
			return nil, err
		}
		z := firewalldZone{name: name, option: " --zone=" + name}
		if name == "" || name == standard {
			z = firewalldZone{name: standard}
		}
		if z.name != trusted && !slices.Contains(zones, z) {
			zones = append(zones, z)
		}
	}
	return zones, nil
}

// lets says whether a zone lets a port pass: by itself, as one of a service, or
// by a rule that names it, for whomever the administrator means it.
func (z firewalldZone) lets(ctx context.Context, f asker, p FirewallPort) (bool, error) {
	number := strconv.Itoa(int(p.Number))
	var open bool
	if err := f.ask(ctx, ".zone.queryPort", &open, z.name, number, p.Protocol); err != nil || open {
		return open, err
	}
	var rules []string
	if err := f.ask(ctx, ".zone.getRichRules", &rules, z.name); err != nil {
		return false, err
	}
	for _, rule := range rules {
		if strings.Contains(rule, `port="`+number+`" protocol="`+p.Protocol+`"`) && strings.Contains(rule, "accept") {
			return true, nil
		}
	}
	var services []string
	if err := f.ask(ctx, ".zone.getServices", &services, z.name); err != nil {
		return false, err
	}
	for _, service := range services {
		var settings map[string]dbus.Variant
		if err := f.ask(ctx, ".getServiceSettings2", &settings, service); err != nil {
			return false, err
		}
		ports, _ := settings["ports"].Value().([][]any) // of number and protocol
		for _, port := range ports {
			if slices.Equal(port, []any{number, p.Protocol}) {
				return true, nil
			}
		}
	}
	return false, nil
}
