package flannel

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet"
)

// wireGuard is what flannel calls the backend wireguard-native.
const wireGuard = "wireguard"

// Bytes that vxlan puts before a packet. flannel subtracts those for IPv4.
const (
	vxlanOverhead4 = 50
	vxlanOverhead6 = 70
)

type object = map[string]any

// netConf is the network's configuration in flannel's form: the user's file, or
// the backend with flannel's defaults. The IP families are the cluster's.
func (c Config) netConf() (*subnet.Config, error) {
	var conf *subnet.Config
	var err error
	if c.Conf == "" {
		conf, err = parseNetConf(object{"Backend": object{"Type": c.Backend}}, c.ClusterCIDRs)
		if err != nil {
			return nil, fmt.Errorf("flannel backend: %w", err)
		}
	} else {
		text, err := os.ReadFile(c.Conf)
		if err != nil {
			return nil, err
		}
		user := object{}
		if err := json.Unmarshal(text, &user); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Conf, err)
		}
		if user["Backend"] == nil {
			user["Backend"] = object{"Type": c.Backend}
		}
		if conf, err = parseNetConf(user, c.ClusterCIDRs); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Conf, err)
		}
	}
	if conf.BackendType == HostGW && c.ExternalIP {
		return nil, fmt.Errorf("flannel backend %s sends packets to the other nodes' own addresses: it can't be used with external ones; use %s or %s",
			HostGW, WireGuard, VXLAN)
	}
	return conf, nil
}

func parseNetConf(text object, cidrs []netip.Prefix) (*subnet.Config, error) {
	encoded, err := json.Marshal(text)
	if err != nil {
		return nil, err
	}
	conf, err := subnet.ParseConfig(string(encoded))
	if err != nil {
		return nil, err
	}
	conf.EnableIPv4, conf.EnableIPv6 = false, false
	for _, cidr := range cidrs {
		var network netip.Prefix
		if cidr.Addr().Is4() {
			conf.EnableIPv4 = true
			if conf.Network.Empty() {
				conf.Network = ip.FromIPNet(ipNet(cidr))
			}
			network = toPrefix(conf.Network.ToIPNet())
		} else {
			conf.EnableIPv6 = true
			if conf.IPv6Network.Empty() {
				conf.IPv6Network = ip.FromIP6Net(ipNet(cidr))
			}
			network = toPrefix(conf.IPv6Network.ToIPNet())
		}
		if !network.Contains(cidr.Addr()) || network.Bits() > cidr.Bits() {
			return nil, fmt.Errorf("network %s does not contain the cluster's pod range %s", network, cidr)
		}
	}
	switch kind := strings.ToLower(conf.BackendType); kind {
	case VXLAN, HostGW, wireGuard:
		conf.BackendType = kind
	case WireGuard:
		conf.BackendType = wireGuard
	default:
		return nil, fmt.Errorf("unknown backend %q: there are %s, %s and %s", conf.BackendType, VXLAN, HostGW, WireGuard)
	}
	return conf, nil
}

// networks are the ranges of all pods.
func networks(conf *subnet.Config) (n dual[netip.Prefix]) {
	if conf.EnableIPv4 {
		n.v4 = toPrefix(conf.Network.ToIPNet())
	}
	if conf.EnableIPv6 {
		n.v6 = toPrefix(conf.IPv6Network.ToIPNet())
	}
	return n
}

// withMTU is the configuration for an interface. flannel knows the overhead of
// vxlan over IPv4 only. Pods have one MTU for both families.
func withMTU(conf *subnet.Config, mtu int) (*subnet.Config, error) {
	if conf.BackendType != VXLAN || !conf.EnableIPv6 {
		return conf, nil
	}
	options := map[string]json.RawMessage{}
	if err := json.Unmarshal(conf.Backend, &options); err != nil {
		return nil, err
	}
	for name := range options {
		if strings.EqualFold(name, "mtu") {
			return conf, nil // the user's
		}
	}
	var err error
	if options["MTU"], err = json.Marshal(mtu - (vxlanOverhead6 - vxlanOverhead4)); err != nil {
		return nil, err
	}
	changed := *conf
	if changed.Backend, err = json.Marshal(options); err != nil {
		return nil, err
	}
	return &changed, nil
}

// backendOptions are those that decide about devices and routes.
type backendOptions struct {
	VNI           int
	DirectRouting bool
	Mode          string
}

func optionsOf(conf *subnet.Config) (backendOptions, error) {
	options := backendOptions{VNI: 1, Mode: "separate"}
	if err := json.Unmarshal(conf.Backend, &options); err != nil {
		return options, fmt.Errorf("options of the backend: %w", err)
	}
	return options, nil
}

// devices are the names flannel gives to what the configuration asks for.
func devices(conf *subnet.Config) (names dual[string], err error) {
	options, err := optionsOf(conf)
	if err != nil {
		return names, err
	}
	switch conf.BackendType {
	case VXLAN:
		names = dual[string]{fmt.Sprintf("flannel.%d", options.VNI), fmt.Sprintf("flannel-v6.%d", options.VNI)}
	case wireGuard:
		names = dual[string]{"flannel-wg", "flannel-wg-v6"}
		if options.Mode != "separate" {
			names.v6 = names.v4
		}
	}
	if !conf.EnableIPv4 && names.v4 != names.v6 {
		names.v4 = ""
	}
	if !conf.EnableIPv6 {
		names.v6 = ""
	}
	return names, nil
}
