package hostcheck

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func TestListeners(t *testing.T) {
	const rest = " 00000000:00000000 00:00000000 00000000     0        0 "
	h := machine(t, map[string]string{
		"/proc/net/tcp": tcpHeading +
			"   0: 00000000:0016 00000000:0000 0A" + rest + "4711 1 0\n" + // 0.0.0.0:22
			"   1: 0100007F:0050 00000000:0000 0A" + rest + "4712 1 0\n" + // 127.0.0.1:80
			"   2: 010200C0:01BB 00000000:0000 0A" + rest + "4713 1 0\n" + // 192.0.2.1:443
			"   3: 020200C0:1F90 00000000:0000 0A" + rest + "4714 1 0\n" + // 192.0.2.2:8080
			"   4: 010200C0:2328 010200C0:0016 01" + rest + "4715 1 0\n", // connected
		"/proc/net/tcp6": tcpHeading +
			"   0: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A" + rest + "4716 1 0\n",
		"/proc/net/udp": tcpHeading +
			"   0: 3500007F:0035 00000000:0000 07" + rest + "4717 1 0\n" + // 127.0.0.53:53
			"   1: 00000000:2118 00000000:0000 07" + rest + "0 1 0\n" + // the kernel's vxlan
			"   2: 010200C0:9C40 020200C0:0035 01" + rest + "4718 1 0\n", // connected
		"/proc/net/sctp/eps": " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n" +
			"ffff8800 ffff8801 0   10  29   3868      0 4719 192.0.2.1 127.0.0.1 \n" +
			"ffff8800 ffff8801 0   10  29   3869      0 4720 192.0.2.2 \n",
		"/proc/7/comm": "sshd\n",
		"/proc/7/fd/3": "-> socket:[4711]",
	})
	got := []string{}
	for _, l := range h.Listeners([]netip.Addr{netip.MustParseAddr("192.0.2.1")}) {
		got = append(got, fmt.Sprintf("%s %d %q", l.Protocol, l.Port, h.Program(l)))
	}
	want := []string{`tcp 22 "sshd"`, `tcp 443 ""`, `udp 8472 ""`, `tcp 6443 ""`, `sctp 3868 ""`}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
