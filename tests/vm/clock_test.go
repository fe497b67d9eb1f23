//go:build vm

package vm

import (
	"strings"
	"testing"
	"time"
)

// TestClock starts a server on a machine whose clock is years late, as that of a
// board without a battery is, and sets it under the running server.
func TestClock(t *testing.T) {
	n := newNode(t, Options{})
	n.execute("systemctl stop systemd-timesyncd 2>/dev/null || true; date --set='-2 years' && date +%Y")
	n.start()
	expired := func() string { return n.execute(Binary + " certificate check --output=json || true") }
	if out := expired(); strings.Contains(out, `"EXPIRED"`) {
		t.Fatalf("a certificate has expired already: %s", out)
	}
	before := n.kubectl("get", "node/"+n.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}`)

	begin := time.Now()
	n.execute("date --set='+2 years' && date +%Y")
	n.eventually("the server to start again", func() (bool, string) {
		log := n.log()
		return strings.Contains(log, "starting again"), lastLines(log, 10)
	})
	t.Logf("the server starts again after %s", since(begin))
	n.waitReady(begin)
	// What says Ready is of now.
	n.eventually("a heartbeat after the clock was set", func() (bool, string) {
		beat := n.kubectl("get", "node/"+n.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}`)
		return beat[:4] > before[:4], beat
	})
	if out := expired(); strings.Contains(out, `"EXPIRED"`) || !strings.Contains(out, `"OK"`) {
		t.Errorf("after the clock was set the certificates are: %s", out)
	}
}
