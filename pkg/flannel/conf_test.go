package flannel

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestNetConf(t *testing.T) {
	const v4, v6 = "10.42.0.0/16", "fd00:42::/56"
	for _, test := range []struct {
		name    string
		config  Config
		file    string // empty: none
		backend string
		options string // of the backend, for an interface with an MTU of 1500
		devices dual[string]
		wrong   string // in the error
	}{
		{
			name:    "IPv4",
			config:  Config{Backend: VXLAN, ClusterCIDRs: prefixes(v4)},
			backend: "vxlan", options: `{"Type":"vxlan"}`, devices: dual[string]{"flannel.1", ""},
		}, {
			name:    "dual stack",
			config:  Config{Backend: VXLAN, ClusterCIDRs: prefixes(v4, v6)},
			backend: "vxlan", options: `{"MTU":1480,"Type":"vxlan"}`, devices: dual[string]{"flannel.1", "flannel-v6.1"},
		}, {
			name:    "IPv6",
			config:  Config{Backend: VXLAN, ClusterCIDRs: prefixes(v6)},
			backend: "vxlan", options: `{"MTU":1480,"Type":"vxlan"}`, devices: dual[string]{"", "flannel-v6.1"},
		}, {
			name:    "host-gw",
			config:  Config{Backend: HostGW, ClusterCIDRs: prefixes(v4, v6)},
			backend: "host-gw", options: `{"Type":"host-gw"}`,
		}, {
			name:    "wireguard",
			config:  Config{Backend: WireGuard, ClusterCIDRs: prefixes(v4, v6)},
			backend: "wireguard", options: `{"Type":"wireguard-native"}`, devices: dual[string]{"flannel-wg", "flannel-wg-v6"},
		}, {
			name:    "file",
			config:  Config{Backend: HostGW, ClusterCIDRs: prefixes(v4, v6)},
			file:    `{"Network": "10.0.0.0/8", "Backend": {"Type": "VXLAN", "VNI": 7, "Port": 4789, "mtu": 9000}}`,
			backend: "vxlan", options: `{"Port":4789,"Type":"VXLAN","VNI":7,"mtu":9000}`, devices: dual[string]{"flannel.7", "flannel-v6.7"},
		}, {
			name:    "file without a backend",
			config:  Config{Backend: HostGW, ClusterCIDRs: prefixes(v4)},
			file:    `{"Network": "10.42.0.0/16"}`,
			backend: "host-gw", options: `{"Type":"host-gw"}`,
		}, {
			name:    "wireguard with one device",
			config:  Config{ClusterCIDRs: prefixes(v4, v6)},
			file:    `{"Backend": {"Type": "wireguard", "Mode": "auto"}}`,
			backend: "wireguard", options: `{"Mode":"auto","Type":"wireguard"}`, devices: dual[string]{"flannel-wg", "flannel-wg"},
		}, {
			name:    "wireguard with one device for IPv6",
			config:  Config{ClusterCIDRs: prefixes(v6)},
			file:    `{"Backend": {"Type": "wireguard", "Mode": "ipv4"}}`,
			backend: "wireguard", options: `{"Mode":"ipv4","Type":"wireguard"}`, devices: dual[string]{"flannel-wg", "flannel-wg"},
		}, {
			name:   "no JSON",
			config: Config{Backend: VXLAN, ClusterCIDRs: prefixes(v4)}, file: "Network: 10.42.0.0/16", wrong: "net-conf.json",
		}, {
			name:   "unknown backend",
			config: Config{ClusterCIDRs: prefixes(v4)}, file: `{"Backend": {"Type": "udp"}}`, wrong: `unknown backend "udp"`,
		}, {
			name:   "other network",
			config: Config{Backend: VXLAN, ClusterCIDRs: prefixes(v4)}, file: `{"Network": "10.43.0.0/16"}`,
			wrong: "network 10.43.0.0/16 does not contain the cluster's pod range 10.42.0.0/16",
		}, {
			name:   "smaller network",
			config: Config{Backend: VXLAN, ClusterCIDRs: prefixes(v4)}, file: `{"Network": "10.42.0.0/17"}`, wrong: "does not contain",
		}, {
			name:   "host-gw to external addresses",
			config: Config{Backend: HostGW, ExternalIP: true, ClusterCIDRs: prefixes(v4)}, wrong: "can't be used with external ones",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.file != "" {
				test.config.Conf = filepath.Join(t.TempDir(), "net-conf.json")
				if err := os.WriteFile(test.config.Conf, []byte(test.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			conf, err := test.config.netConf()
			if test.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), test.wrong) {
					t.Fatalf("error %v, want one with %q", err, test.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if conf, err = withMTU(conf, 1500); err != nil {
				t.Fatal(err)
			}
			names, err := devices(conf)
			if err != nil {
				t.Fatal(err)
			}
			if conf.BackendType != test.backend || string(conf.Backend) != test.options || names != test.devices {
				t.Errorf("backend %s with %s and devices %q, want %s with %s and %q",
					conf.BackendType, conf.Backend, names, test.backend, test.options, test.devices)
			}
			families := familiesOf(test.config.ClusterCIDRs)
			if conf.EnableIPv4 != families.v4 || conf.EnableIPv6 != families.v6 {
				t.Errorf("IPv4 %t, IPv6 %t, want %t", conf.EnableIPv4, conf.EnableIPv6, families)
			}
			for _, cidr := range test.config.ClusterCIDRs {
				all := networks(conf)
				if got := all.of(cidr.Addr()); !got.Contains(cidr.Addr()) {
					t.Errorf("the network is %s, without %s", got, cidr)
				}
			}
		})
	}
}

func TestConflist(t *testing.T) {
	const want = `{
  "cniVersion": "1.0.0",
  "name": "kedge",
  "plugins": [
    {
      "bridge": "cni0",
      "forceAddress": true,
      "hairpinMode": true,
      "ipam": {
        "ranges": [
          [
            {
              "subnet": "fd00:42:0:1::/64"
            }
          ],
          [
            {
              "subnet": "10.42.1.0/24"
            }
          ]
        ],
        "routes": [
          {
            "dst": "::/0"
          },
          {
            "dst": "0.0.0.0/0"
          }
        ],
        "type": "host-local"
      },
      "isGateway": true,
      "mtu": 1430,
      "type": "bridge"
    },
    {
      "backend": "nftables",
      "capabilities": {
        "portMappings": true
      },
      "type": "portmap"
    },
    {
      "capabilities": {
        "bandwidth": true
      },
      "type": "bandwidth"
    },
    {
      "socket": "/run/gate.sock",
      "type": "kedge-gate"
    }
  ]
}
`
	got, err := conflist(prefixes("fd00:42:0:1::/64", "10.42.1.0/24"), 1430, "/run/gate.sock")
	if err != nil || string(got) != want {
		t.Errorf("error %v and\n%s\nwant\n%s", err, got, want)
	}
}

func TestInstallCNI(t *testing.T) {
	dir := t.TempDir()
	user := filepath.Join(dir, "user.conflist")
	c := Config{CNIConfig: filepath.Join(dir, "cni", "net.d")}
	installed := func() string {
		t.Helper()
		entries, err := os.ReadDir(c.CNIConfig)
		if err != nil || len(entries) != 1 {
			t.Fatalf("error %v and the files %v", err, entries)
		}
		text, err := os.ReadFile(filepath.Join(c.CNIConfig, cniFile))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if err := c.installCNI(prefixes("10.42.1.0/24"), 1450); err != nil {
		t.Fatal(err)
	}
	if text := installed(); !json.Valid([]byte(text)) || !strings.Contains(text, `"mtu": 1450`) {
		t.Errorf("installed\n%s", text)
	}

	c.CNIConf = user
	for _, test := range []struct{ text, wrong string }{
		{`{"name": "mine", "plugins": [{"type": "ptp"}]}`, ""},
		{`{"name": "mine", "type": "bridge"}`, "has a name and plugins"},
		{`{"name": "mine", "plugins": [{"type": "ptp"}, {}]}`, "plugin 2 has no type"},
		{`{"name": "mine"`, "user.conflist"},
	} {
		if err := os.WriteFile(user, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := c.installCNI(prefixes("10.42.1.0/24"), 1450)
		switch {
		case test.wrong == "" && (err != nil || installed() != test.text):
			t.Errorf("%s: error %v, installed %s", test.text, err, installed())
		case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)):
			t.Errorf("%s: error %v, want one with %q", test.text, err, test.wrong)
		}
	}
}

func TestMasqueradeRules(t *testing.T) {
	const tunnel4 = `ip saddr != 10.42.0.0/16 oifname "flannel*" masquerade fully-random`
	const tunnel6 = `ip6 saddr != fd00:42::/56 oifname "flannel*" masquerade fully-random`
	for _, test := range []struct {
		cidr     string
		ipv6Masq bool
		want     []string
	}{
		{"10.42.0.0/16", false, []string{"ip saddr 10.42.0.0/16 ip daddr != { 10.42.0.0/16 , 224.0.0.0/4 } masquerade fully-random", tunnel4}},
		{"fd00:42::/56", true, []string{"ip6 saddr fd00:42::/56 ip6 daddr != { fd00:42::/56 , ff00::/8 } masquerade fully-random", tunnel6}},
		{"fd00:42::/56", false, []string{tunnel6}},
	} {
		got := masqueradeRules(netip.MustParsePrefix(test.cidr), test.ipv6Masq)
		if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
			t.Errorf("%s, masquerading IPv6 %t: %q, want %q", test.cidr, test.ipv6Masq, got, test.want)
		}
	}
}
