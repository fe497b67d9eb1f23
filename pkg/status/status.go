// Package status finds out how Kedge is on this machine, and how the cluster is as
// far as this machine may see it, and says so on one screen: what runs, and what
// is wrong, in words with what to do.
package status

import (
	"time"

	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

// State says whether Kedge runs on this machine.
type State string

// The states.
const (
	Running  State = "running"
	Starting State = "starting" // or stopping: a process that does not answer yet
	Stopped  State = "stopped"
)

// Report is how Kedge is on a machine. What could not be found out, or is not for
// this machine to know, is left out.
type Report struct {
	State   State      `json:"state"`
	Role    string     `json:"role,omitempty"` // server or agent; empty: neither has run here
	Version string     `json:"version"`        // of what runs, or of this program
	Node    string     `json:"node,omitempty"`
	PID     int        `json:"pid,omitempty"`
	Started *time.Time `json:"started,omitempty"`

	Datastore    *Datastore            `json:"datastore,omitempty"`
	Memory       *Memory               `json:"memory,omitempty"`
	Certificates *Certificates         `json:"certificates,omitempty"`
	Snapshot     *Snapshot             `json:"snapshot,omitempty"`
	Servers      []control.ServerState `json:"servers,omitempty"` // as an agent's load balancer knows them
	Nodes        []Node                `json:"nodes,omitempty"`
	Pods         *Pods                 `json:"pods,omitempty"`
	AddOns       []AddOn               `json:"addOns,omitempty"`

	// Problems are what is wrong, the most important first.
	Problems []Problem `json:"problems"`

	Taken time.Time `json:"taken"`
}

// Datastore is where a server keeps the cluster's state.
type Datastore struct {
	Kind  string `json:"kind"`
	Dir   string `json:"dir,omitempty"`
	Bytes uint64 `json:"bytes,omitempty"` // of the files in Dir
}

// Memory is what Kedge's process and the machine use, in bytes.
type Memory struct {
	Process   uint64 `json:"process,omitempty"` // resident
	Private   uint64 `json:"private,omitempty"` // the part of it that is no file's
	Total     uint64 `json:"total"`             // of the machine
	Available uint64 `json:"available"`         // on the machine, as the kernel reckons
}

// Certificates says which of the machine's certificates ends first.
type Certificates struct {
	Count int       `json:"count"`
	Next  pki.Entry `json:"next"`
}

// Snapshot is the last one of the datastore.
type Snapshot struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Bytes   int64     `json:"bytes,omitempty"`
	Message string    `json:"message,omitempty"` // what is wrong with it
}

// Node is a node of the cluster.
type Node struct {
	Name    string    `json:"name"`
	Status  string    `json:"status"` // Ready or NotReady, and SchedulingDisabled
	Ready   bool      `json:"ready"`
	Roles   string    `json:"roles,omitempty"`
	Version string    `json:"version"`
	Address string    `json:"address,omitempty"`
	Created time.Time `json:"created"`
	Pods    int       `json:"pods"` // that have not ended
	MaxPods int64     `json:"maxPods,omitempty"`
}

// Pods counts the cluster's pods, or on an agent those of its node.
type Pods struct {
	Ready    int `json:"ready"`
	Starting int `json:"starting"` // not ready, and nothing seems to be wrong
	Wrong    int `json:"wrong"`
	Ended    int `json:"ended"`
}

// AddOn is an add-on that comes with Kedge, or a manifest of the user's that is
// not applied.
type AddOn struct {
	Name    string `json:"name"`
	State   string `json:"state"` // ready, starting, skipped or failed
	Message string `json:"message,omitempty"`
}

// The states of an add-on.
const (
	addOnReady    = "ready"
	addOnStarting = "starting"
	addOnSkipped  = "skipped"
	addOnFailed   = "failed"
)

// Problem is something that is wrong.
type Problem struct {
	What string `json:"what"`
	Do   string `json:"do"`
	Pod  string `json:"pod,omitempty"` // namespace/name of the one it is about
}

// Exit codes of a command that shows a Report.
const (
	CodeWell       = 0
	CodeWrong      = 1
	CodeNotRunning = 2
)

// Code is the exit code for the report.
func (r *Report) Code() int {
	switch {
	case r.State != Running:
		return CodeNotRunning
	case len(r.Problems) > 0:
		return CodeWrong
	}
	return CodeWell
}

func (r *Report) wrong(what, do string) {
	r.Problems = append(r.Problems, Problem{What: what, Do: do})
}
