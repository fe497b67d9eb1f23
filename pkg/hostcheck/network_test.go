package hostcheck

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func prefixes(s ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, x := range s {
		p = append(p, netip.MustParsePrefix(x))
	}
	return p
}

func TestCheckRanges(t *testing.T) {
	eth0 := Interface{"eth0", prefixes("10.42.3.7/24", "2001:db8:42::7/64")}
	lan := Interface{"lan0", prefixes("192.168.1.5/24")}
	vpn := Interface{"vpn0", prefixes("10.1.2.3/8")}
	lone := Interface{"ens4", prefixes("10.43.0.2/32")}
	pods, services := prefixes("10.42.0.0/16"), prefixes("10.43.0.0/16")
	for _, c := range []struct {
		name           string
		pods, services []netip.Prefix
		host           []Interface
		want           string
	}{
		{"apart", pods, services, []Interface{lan}, ""},
		{"no interfaces", pods, services, nil, ""},
		{"no ranges", nil, nil, []Interface{lan, eth0}, ""},
		{"pods", pods, services, []Interface{lan, eth0},
			"pod range 10.42.0.0/16 overlaps 10.42.3.0/24, the network of this machine's interface eth0 (10.42.3.7/24): choose another range with --cluster-cidr=10.44.0.0/16"},
		{"services, with a host route", pods, services, []Interface{lone},
			"service range 10.43.0.0/16 overlaps 10.43.0.2/32, the network of this machine's interface ens4 (10.43.0.2/32): choose another range with --service-cidr=10.44.0.0/16"},
		{"a wide network", pods, services, []Interface{vpn},
			"pod range 10.42.0.0/16 overlaps 10.0.0.0/8, the network of this machine's interface vpn0 (10.1.2.3/8): choose another range with --cluster-cidr=172.18.0.0/16"},
		{"a range inside the host's network", prefixes("192.168.1.128/25"), nil, []Interface{lan},
			"pod range 192.168.1.128/25 overlaps 192.168.1.0/24, the network of this machine's interface lan0 (192.168.1.5/24): choose another range with --cluster-cidr=10.42.0.0/25"},
		{"a range larger than examples", prefixes("10.0.0.0/9"), nil, []Interface{eth0},
			"pod range 10.0.0.0/9 overlaps 10.42.3.0/24, the network of this machine's interface eth0 (10.42.3.7/24): choose another range with --cluster-cidr"},
		{"IPv6", append(pods, prefixes("2001:db8:42::/56")...), services, []Interface{{"eth0", prefixes("2001:db8:42::7/64")}},
			"pod range 2001:db8:42::/56 overlaps 2001:db8:42::/64, the network of this machine's interface eth0 (2001:db8:42::7/64): choose another range with --cluster-cidr"},
		{"each other", pods, prefixes("10.42.128.0/20"), nil,
			"pod range 10.42.0.0/16 overlaps service range 10.42.128.0/20: choose another with --cluster-cidr or --service-cidr"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := CheckRanges(c.pods, c.services, c.host); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestOwnInterface(t *testing.T) {
	for name, want := range map[string]bool{
		"cni0": true, "flannel.1": true, "flannel-v6.1": true, "flannel-wg": true, "veth12ab": true,
		"kube-bridge": true, "kube-ipvs0": true, "nodelocaldns": true,
		"eth0": false, "enp3s0": false, "wlan0": false, "docker0": false, "br-lan": false, "virbr0": false,
	} {
		if got := OwnInterface(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestHostInterfaces(t *testing.T) {
	all, err := HostInterfaces(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		real, err := net.InterfaceByName(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		if real.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
			t.Errorf("%s is %v", i.Name, real.Flags)
		}
		if len(i.Addresses) == 0 {
			t.Errorf("%s has no addresses", i.Name)
		}
		for _, a := range i.Addresses {
			if a.Addr().IsLoopback() || a.Addr().IsLinkLocalUnicast() {
				t.Errorf("%s has %v", i.Name, a)
			}
		}
	}
	// The address this machine sends from must be among them.
	conn, err := net.Dial("udp", "192.0.2.1:9") // sends nothing
	if err == nil {
		own := netip.MustParseAddrPort(conn.LocalAddr().String()).Addr()
		if err := CheckRanges([]netip.Prefix{netip.PrefixFrom(own, 32)}, nil, all); err == nil || !strings.Contains(err.Error(), own.String()) {
			t.Errorf("a range around this machine's own %v: %v", own, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}

	none, err := HostInterfaces(func(string) bool { return true })
	if err != nil || len(none) != 0 {
		t.Errorf("with all skipped: %v, %v", none, err)
	}
}

func TestServerFinding(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if f := serverFinding(t.Context(), address); f.Level != OK {
		t.Errorf("a server that answers gives %+v", f)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if f := serverFinding(t.Context(), address); f.Level != Failure || !strings.Contains(f.Detail, address) || f.Fix == "" {
		t.Errorf("a server that is away gives %+v", f)
	}
}
