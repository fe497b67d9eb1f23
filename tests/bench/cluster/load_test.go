package cluster

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// dnsServer answers queries with a code, all but those whose number modulo is lost
// leaves 0.
func dnsServer(t *testing.T, code dnsmessage.RCode, lost uint16) Dial {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var message dnsmessage.Message
			if message.Unpack(buffer[:n]) != nil || (lost > 0 && message.ID%lost == 0) {
				continue
			}
			message.Response, message.RCode = true, code
			if answer, err := message.Pack(); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, conn.LocalAddr().String())
	}
}

func TestDNSLoad(t *testing.T) {
	load := DNSLoad{Rate: 200, For: 500 * time.Millisecond, WarmUp: 200 * time.Millisecond, Sockets: 3}
	for _, test := range []struct {
		name  string
		code  dnsmessage.RCode
		lost  uint16
		error string
	}{
		{"answers", dnsmessage.RCodeSuccess, 0, ""},
		{"no such name", dnsmessage.RCodeNameError, 0, ""},
		{"failures", dnsmessage.RCodeServerFailure, 0, "RCodeServerFailure"},
		{"some losses", dnsmessage.RCodeSuccess, 20, ""},
		{"many losses", dnsmessage.RCodeSuccess, 3, "not answered"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			took, err := load.Run(t.Context(), dnsServer(t, test.code, test.lost))
			if test.error != "" {
				if err == nil || !strings.Contains(err.Error(), test.error) {
					t.Errorf("error %v, want one with %q", err, test.error)
				}
				return
			}
			if err != nil || len(took) != 100 {
				t.Errorf("%d values, error %v; want 100", len(took), err)
			}
			for _, d := range took {
				if d <= 0 {
					t.Errorf("a query took %s", d)
				}
			}
		})
	}
}
