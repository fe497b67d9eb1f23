package flannel

import (
	"maps"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestPlan(t *testing.T) {
	near, far := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("203.0.113.1")
	p := func(backend, pods string, public netip.Addr, data string) peer {
		return peer{backend: backend, ranges: dual[netip.Prefix]{v4: netip.MustParsePrefix(pods)},
			public: dual[netip.Addr]{v4: public}, data: dual[string]{v4: data}}
	}
	vtep := func(mac string) string { return `{"VNI":1,"VtepMAC":"` + mac + `"}` }
	const link, device = 2, 5
	first, second := netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("10.42.2.0/24")
	mac1, mac2 := hardwareAddr("\x02\x00\x00\x00\x00\x01"), hardwareAddr("\x02\x00\x00\x00\x00\x02")
	overVXLAN := map[string]peer{
		"near": p("vxlan", "10.42.1.0/24", near, vtep("02:00:00:00:00:01")),
		"far":  p("vxlan", "10.42.2.0/24", far, vtep("02:00:00:00:00:02")),
	}
	for _, test := range []struct {
		name   string
		router router
		peers  map[string]peer
		want   plan
		wrong  string
	}{
		{
			name: "vxlan", router: router{backend: VXLAN, link: link}, peers: overVXLAN,
			want: plan{
				routes:     map[netip.Prefix]path{first: {first.Addr(), device}, second: {second.Addr(), device}},
				neighbours: map[netip.Addr]hardwareAddr{first.Addr(): mac1, second.Addr(): mac2},
				forwarding: map[hardwareAddr]netip.Addr{mac1: near, mac2: far},
			},
		}, {
			name: "vxlan with direct routing", router: router{backend: VXLAN, link: link, direct: true}, peers: overVXLAN,
			want: plan{
				routes:     map[netip.Prefix]path{first: {near, link}, second: {second.Addr(), device}},
				neighbours: map[netip.Addr]hardwareAddr{second.Addr(): mac2},
				forwarding: map[hardwareAddr]netip.Addr{mac2: far},
			},
		}, {
			name: "host-gw among others", router: router{backend: HostGW, link: link},
			peers: map[string]peer{"a": p("host-gw", "10.42.1.0/24", near, "null"), "b": overVXLAN["far"]},
			want:  plan{routes: map[netip.Prefix]path{first: {near, link}}},
		}, {
			name: "wireguard makes its own", router: router{backend: wireGuard, link: link},
			peers: map[string]peer{"a": p("wireguard", "10.42.1.0/24", near, "{}")},
		}, {
			name: "one node says nonsense", router: router{backend: VXLAN, link: link},
			peers: map[string]peer{"near": overVXLAN["near"], "bad": p("vxlan", "10.42.3.0/24", far, "null")},
			want: plan{
				routes:     map[netip.Prefix]path{first: {first.Addr(), device}},
				neighbours: map[netip.Addr]hardwareAddr{first.Addr(): mac1},
				forwarding: map[hardwareAddr]netip.Addr{mac1: near},
			},
			wrong: "node bad",
		},
	} {
		got, err := test.router.plan(test.peers, func(p *peer) (netip.Prefix, netip.Addr, string) { return p.ranges.v4, p.public.v4, p.data.v4 },
			device, func(a netip.Addr) bool { return a == near })
		if (err != nil) != (test.wrong != "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.wrong)
		}
		if !maps.Equal(got.routes, test.want.routes) || !maps.Equal(got.neighbours, test.want.neighbours) || !maps.Equal(got.forwarding, test.want.forwarding) {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestOurs(t *testing.T) {
	network := netip.MustParsePrefix("10.42.0.0/16")
	made := netlink.Route{Gw: netip.MustParseAddr("192.0.2.1").AsSlice(), Protocol: unix.RTPROT_BOOT, Type: unix.RTN_UNICAST}
	to := func(dst string, change ...func(*netlink.Route)) netlink.Route {
		r := made
		r.Dst = ipNet(netip.MustParsePrefix(dst))
		for _, f := range change {
			f(&r)
		}
		return r
	}
	for _, test := range []struct {
		name  string
		route netlink.Route
		want  bool
	}{
		{"another node's pods", to("10.42.1.0/24"), true},
		{"all pods", to("10.42.0.0/16"), true},
		{"the default", made, false},
		{"elsewhere", to("10.43.1.0/24"), false},
		{"a wider range", to("10.0.0.0/8"), false},
		{"the bridge", to("10.42.1.0/24", func(r *netlink.Route) { r.Gw = nil }), false},
		{"a routing daemon's", to("10.42.1.0/24", func(r *netlink.Route) { r.Protocol = unix.RTPROT_BIRD }), false},
		{"a hole", to("10.42.1.0/24", func(r *netlink.Route) { r.Type = unix.RTN_BLACKHOLE }), false},
	} {
		if got := ours(test.route, network); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}

func TestDeletesTable(t *testing.T) {
	message := func(kind uint16, table string) syscall.NetlinkMessage {
		data := []byte{unix.NFPROTO_IPV4, 0, 0, 0, byte(4 + len(table) + 1), 0, unix.NFTA_TABLE_NAME, 0}
		data = append(data, table...)
		for data = append(data, 0); len(data)%4 != 0; {
			data = append(data, 0)
		}
		return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | kind}, Data: data}
	}
	for _, test := range []struct {
		name    string
		message syscall.NetlinkMessage
		want    bool
	}{
		{"ours", message(unix.NFT_MSG_DELTABLE, tableName), true},
		{"another", message(unix.NFT_MSG_DELTABLE, "kube-proxy"), false},
		{"ours is made", message(unix.NFT_MSG_NEWTABLE, tableName), false},
		{"too short", syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE}}, false},
	} {
		if got := deletesTable(test.message); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}
