// Package control is how a command of Kedge asks the Kedge that runs on the same
// machine to do something: HTTP with JSON over a Unix socket that root alone may
// open. The process registers commands by name with [Handle], another calls them
// with [Call].
package control

import (
	"net/netip"
	"time"
)

// Socket is the name of the socket in the directory of what a reboot may clear.
const Socket = "kedge.sock"

// Commands, and what they answer.
const (
	// RotateCertificates replaces the keys and certificates of this machine,
	// but for those of authorities. Its answer is Rotated.
	RotateCertificates = "rotate-certificates"
	// RotateTokens replaces the cluster's own tokens, on servers. Its answer is
	// Rotated.
	RotateTokens = "rotate-tokens"
	// Describe says what runs here. Its answer is Description.
	Describe = "describe"
)

// None is a request without parameters.
type None struct{}

// Rotated lists the files that hold something new.
type Rotated struct {
	Files []string `json:"files"`
}

// Description is what a running Kedge says of itself.
type Description struct {
	Role    string    `json:"role"` // server or agent
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Node    string    `json:"node,omitempty"` // its name; empty: it runs none
	DataDir string    `json:"dataDir"`
	// Kubeconfig is one to ask the cluster with, as far as this machine may.
	Kubeconfig string `json:"kubeconfig"`
	// Certificates are the directories of this machine's.
	Certificates []string  `json:"certificates"`
	Datastore    Datastore `json:"datastore,omitzero"`
	Network      Network   `json:"network"`
	// Servers are those that an agent's load balancer knows.
	Servers []ServerState `json:"servers,omitempty"`
}

// Datastore is where a server keeps the cluster's state.
type Datastore struct {
	Kind string `json:"kind"`
	Dir  string `json:"dir,omitempty"` // that it is kept in, if that is on this machine
}

// Network is what a node has to know of the cluster's network.
type Network struct {
	PodCIDRs     []netip.Prefix `json:"podCIDRs"`
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
	DNS          []netip.Addr   `json:"dns"`
	Domain       string         `json:"domain"`
	Backend      string         `json:"backend"`
	// Ports are the TCP ports that others reach on this machine.
	Ports []uint16 `json:"ports,omitempty"`
}

// ServerState is how a server is, as the load balancer of an agent has found it.
type ServerState struct {
	Address     string `json:"address"`
	State       string `json:"state"` // idle, healthy, suspect or failed
	Connections int    `json:"connections"`
	Error       string `json:"error,omitempty"`
}

// failure is the body of an answer that is not 200.
type failure struct {
	Message string `json:"message"`
}

func path(command string) string { return "/v1/" + command }
