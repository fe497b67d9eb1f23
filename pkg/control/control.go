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
	// RotateCA replaces the cluster's authorities, on servers, and restarts the
	// server. Its request is Succession, its answer Rotated.
	RotateCA = "rotate-ca"
	// EncryptSecrets begins a change of the keys of Secrets, on servers. Its
	// request is Encrypt, its answer Encryption.
	EncryptSecrets = "encrypt-secrets"
	// EncryptionStatus asks how a change of keys goes. Its answer is Encryption.
	EncryptionStatus = "encryption-status"
	// ListMembers lists the members of embedded etcd, on servers. Its answer is a
	// list of datastore.MemberState.
	ListMembers = "list-members"
	// RemoveMember removes a member from embedded etcd, on servers. Its request is
	// Named, its answer the datastore.MemberState that it was.
	RemoveMember = "remove-member"
)

// None is a request without parameters.
type None struct{}

// Named is a request about something by its name.
type Named struct {
	Name string `json:"name"`
}

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

// Succession asks for new authorities.
type Succession struct {
	Dir    string `json:"dir,omitempty"` // with the user's; empty: they are made
	Force  bool   `json:"force,omitempty"`
	Retire bool   `json:"retire,omitempty"` // end the trust in the old ones instead
}

// Encrypt asks for a change of the keys of Secrets.
type Encrypt struct {
	Change string `json:"change"` // enable, disable, prepare, rotate, rotate-keys, reencrypt
}

// Encryption is how Secrets are encrypted in the datastore.
type Encryption struct {
	Enabled bool            `json:"enabled"`
	Stage   string          `json:"stage"`
	Keys    []EncryptionKey `json:"keys"`
	// Running says that Secrets are being written again: Done of Total.
	Running bool   `json:"running"`
	Done    int    `json:"done"`
	Total   int    `json:"total"`
	Error   string `json:"error,omitempty"` // with which the last run ended
}

// EncryptionKey is a key, without its secret.
type EncryptionKey struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Active bool   `json:"active"` // writes with it
}

// failure is the body of an answer that is not 200.
type failure struct {
	Message string `json:"message"`
}

func path(command string) string { return "/v1/" + command }
