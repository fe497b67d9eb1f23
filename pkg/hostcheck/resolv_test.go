package hostcheck

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestResolvConf(t *testing.T) {
	const (
		stub     = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
		upstream = "nameserver 192.168.1.1\nsearch lan\n"

		etc      = "/etc/resolv.conf"
		systemd  = "/run/systemd/resolve/resolv.conf"
		noStub   = "/run/NetworkManager/no-stub-resolv.conf"
		manager  = "/run/NetworkManager/resolv.conf"
		traditio = "/run/resolvconf/resolv.conf"
	)
	for _, c := range []struct {
		name     string
		files    map[string]string
		paths    []string
		path     string // "" for none
		content  string
		servers  string
		filtered bool
	}{
		{"plain", map[string]string{etc: upstream, systemd: "nameserver 9.9.9.9\n"}, nil, etc, upstream, "[192.168.1.1]", false},
		{"systemd-resolved", map[string]string{etc: stub, systemd: upstream}, nil, systemd, upstream, "[192.168.1.1]", false},
		{"systemd-resolved, by link", map[string]string{etc: "-> ../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf": stub, systemd: upstream}, nil, systemd, upstream, "[192.168.1.1]", false},
		{"NetworkManager with dnsmasq", map[string]string{etc: "nameserver 127.0.1.1\n", noStub: upstream, manager: stub}, nil, noStub, upstream, "[192.168.1.1]", false},
		{"NetworkManager", map[string]string{etc: "nameserver ::1\n", manager: upstream}, nil, manager, upstream, "[192.168.1.1]", false},
		{"resolvconf", map[string]string{traditio: upstream}, nil, traditio, upstream, "[192.168.1.1]", false},
		{"mixed", map[string]string{etc: "# mine\nnameserver 127.0.0.1\nsearch a b\nnameserver 10.0.0.2\nnameserver ::1\n\tnameserver  2001:db8::1 \noptions ndots:2"}, nil,
			etc, "# mine\nsearch a b\nnameserver 10.0.0.2\n\tnameserver  2001:db8::1 \noptions ndots:2", "[10.0.0.2 2001:db8::1]", true},
		{"this machine by other names", map[string]string{etc: "nameserver 0.0.0.0\nnameserver ::\nnameserver ::ffff:127.0.0.1\nnameserver 224.0.0.1\n"}, nil, "", "", "", false},
		{"link-local", map[string]string{etc: "nameserver fe80::1%eth0\nnameserver 169.254.169.253\n"}, nil, etc, "nameserver 169.254.169.253\n", "[169.254.169.253]", true},
		{"malformed", map[string]string{etc: "nameserver\nnameserver nonsense\n"}, nil, "", "", "", false},
		{"commented out", map[string]string{etc: "#nameserver 10.0.0.1\n; nameserver 10.0.0.2\n"}, nil, "", "", "", false},
		{"empty", map[string]string{etc: ""}, nil, "", "", "", false},
		{"loopback only, everywhere", map[string]string{etc: stub, systemd: stub, noStub: stub, manager: stub, traditio: stub}, nil, "", "", "", false},
		{"nothing there", nil, nil, "", "", "", false},
		{"the user's choice", map[string]string{etc: upstream, "/etc/mine": "nameserver 10.0.0.9\n"}, []string{"/etc/mine"}, "/etc/mine", "nameserver 10.0.0.9\n", "[10.0.0.9]", false},
		{"the user's choice, no good", map[string]string{etc: upstream, "/etc/mine": stub}, []string{"/etc/mine"}, "", "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, ok := machine(t, c.files).ResolvConf(nil, c.paths...)
			if !ok {
				if c.path != "" {
					t.Errorf("found none, want %s", c.path)
				}
				return
			}
			if r.Path != c.path || string(r.Content) != c.content || r.Filtered != c.filtered || fmt.Sprint(r.Nameservers) != c.servers {
				t.Errorf("got %+v\n%q", r, r.Content)
			}
		})
	}
}

func TestResolvConfOfFamily(t *testing.T) {
	const (
		v4   = "nameserver 192.168.1.1\n"
		v6   = "nameserver 2001:db8::1\n"
		pods = "10.42.0.0/16"
		six  = "fd42::/48"
	)
	for _, c := range []struct {
		name    string
		etc     string // resolv.conf
		systemd string // the one behind it
		pods    []string
		want    string // path, or the nameserver instead
	}{
		{"IPv4", v4, "", []string{pods}, "/etc/resolv.conf"},
		{"IPv4, with another that pods can't reach", v6 + v4, "", []string{pods}, "/etc/resolv.conf"},
		{"IPv4 without a nameserver", v6, "", []string{pods}, "8.8.8.8"},
		{"IPv6", v6, "", []string{six}, "/etc/resolv.conf"},
		{"IPv6 in another file", v4, v6, []string{six}, "/run/systemd/resolve/resolv.conf"},
		{"IPv6 without a nameserver", v4, "", []string{six}, "2001:4860:4860::8888"},
		{"IPv4 in IPv6 notation", "nameserver ::ffff:192.168.1.1\n", "", []string{six}, "2001:4860:4860::8888"},
		{"dual-stack", v6, "", []string{pods, six}, "/etc/resolv.conf"},
		{"dual-stack without a nameserver", "", "", []string{six, pods}, "8.8.8.8"},
		{"unknown", v6, "", nil, "/etc/resolv.conf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var pods []netip.Prefix
			for _, p := range c.pods {
				pods = append(pods, netip.MustParsePrefix(p))
			}
			h := machine(t, map[string]string{"/etc/resolv.conf": c.etc, "/run/systemd/resolve/resolv.conf": c.systemd})
			r, ok := h.ResolvConf(pods)
			got := r.Path
			if !ok {
				got = FallbackNameserver(pods).String()
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
