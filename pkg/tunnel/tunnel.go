// Package tunnel lets servers reach nodes that only the node itself can reach
// out from: behind NAT, or behind a firewall that lets nothing in.
//
// Each agent keeps a websocket open to each server, on the servers' one port.
// Inside it the roles are turned round: the agent serves HTTP/2, and the server
// asks it to CONNECT to an address, once per connection of the apiserver's to
// a kubelet. HTTP/2 gives each of these streams its own flow control, so that a
// slow reader holds up nobody else, and tells a refused address and a failed
// dial from an open connection. Any other request is for the agent itself.
//
//	apiserver ─▶ Server.Dialer ═ websocket on 6443 ═▶ Client ─▶ kubelet, pods
//
// A server is trusted with what [Access] allows and nothing else; a node is the
// one that its client certificate names.
package tunnel

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Path is where servers take tunnels.
const Path = "/v1-kedge/connect"

// Mode says what the apiserver reaches through tunnels.
type Mode string

// The modes, each reaching what the one before it does and more.
const (
	Disabled Mode = "disabled" // nothing: all is dialed directly
	Agent    Mode = "agent"    // kubelets
	Pod      Mode = "pod"      // pods too
	Cluster  Mode = "cluster"  // any port of a node too: endpoints in the host's network
)

// ParseMode reads the value of --egress-selector-mode.
func ParseMode(text string) (Mode, error) {
	switch m := Mode(text); m {
	case Disabled, Agent, Pod, Cluster:
		return m, nil
	}
	modes := []string{string(Disabled), string(Agent), string(Pod), string(Cluster)}
	return "", fmt.Errorf("unknown egress selector mode %q: it is one of %s", text, strings.Join(modes, ", "))
}

func (m Mode) pods() bool { return m == Pod || m == Cluster }

// timing holds the limits, which tests shorten.
type timing struct {
	handshake   time.Duration // a websocket's opening, from the dial on
	tunnelDial  time.Duration // a dial through a tunnel
	targetDial  time.Duration // the agent's part of it, shorter: its answer says more than a timeout
	directDial  time.Duration // a dial past the tunnel
	serverIdle  time.Duration // silence after which a server pings
	agentIdle   time.Duration // silence after which an agent pings
	pingTimeout time.Duration // silence after a ping that ends a tunnel
	linger      time.Duration // how long a closed stream may take to end at the other side
	backoffMin  time.Duration
	backoffMax  time.Duration
	stable      time.Duration // a tunnel that lasts this long makes the next retry fast again
	patience    time.Duration // how long a first connection may fail without a word
}

// defaultTiming has servers ping an idle tunnel every 10 s, which keeps NAT
// tables (30 s and more) fresh and notices a dead node after 15 s. An agent
// waits a little longer, so that it only pings when the server's pings stop,
// and notices a dead server after 17 s. An idle tunnel costs two small packets
// in 10 s.
var defaultTiming = timing{
	handshake:   10 * time.Second,
	tunnelDial:  8 * time.Second,
	targetDial:  6 * time.Second,
	directDial:  10 * time.Second,
	serverIdle:  10 * time.Second,
	agentIdle:   12 * time.Second,
	pingTimeout: 5 * time.Second,
	linger:      2 * time.Second,
	backoffMin:  200 * time.Millisecond,
	backoffMax:  15 * time.Second,
	stable:      10 * time.Second,
	patience:    10 * time.Second,
}

const (
	// maxStreams is how many connections one tunnel carries at a time; more wait.
	maxStreams = 1000
	// downloadWindow and uploadWindow are how much of a stream may wait for a
	// slow reader, at the server and at the agent. They bound the memory of a
	// stream, and its speed to a window per round trip.
	downloadWindow = 1 << 20
	uploadWindow   = 256 << 10
	// tunnelWindow is how much of all streams may wait together: more than all
	// of them can, so that slow readers do not hold up the others.
	tunnelWindow = 1 << 30
)

// http2Only is HTTP/2 without TLS: that is outside of the websocket.
func http2Only() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}
