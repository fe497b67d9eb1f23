//go:build e2e

package e2e

import (
	"os"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

func TestHostFirewallPlay(t *testing.T) {
	if os.Getenv("PLAY") == "" {
		t.Skip()
	}
	bed := testbed.New(t)
	for _, n := range []string{"node", "agent-1", "beside"} {
		h := newHost(t, bed, n)
		t.Log(n, h.Path("/"), h.Address)
	}
	time.Sleep(100 * time.Minute)
}
