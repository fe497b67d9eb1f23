package upgradeplan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kedge-k8s/kedge/pkg/drain"
)

// Annotations of a node.
const (
	// assignmentAnnotation is what the node is to do; the controller writes it.
	assignmentAnnotation = "upgrade.kedge.io/assignment"
	// reportAnnotation is how that went; the node writes it.
	reportAnnotation = "upgrade.kedge.io/report"
)

// Assignment is an upgrade that a node is to carry out.
type Assignment struct {
	ID      string         `json:"id"`   // of this form of this Plan
	Plan    string         `json:"plan"` // namespace/name
	Version string         `json:"version"`
	Cordon  bool           `json:"cordon,omitempty"`
	Drain   *drain.Options `json:"drain,omitempty"`
	Since   time.Time      `json:"since"`
}

// States of a Report.
const (
	running = "running"
	done    = "done"
	failed  = "failed"
)

// Report is what a node says of an Assignment.
type Report struct {
	ID      string    `json:"id"` // of the assignment
	State   string    `json:"state"`
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"since"`
}

// final says whether the report ends an assignment.
func (r *Report) final(a *Assignment) bool {
	return r != nil && a != nil && r.ID == a.ID && r.State != running
}

// parse reads an annotation; nil: there is none that can be read.
func parse[T any](annotations map[string]string, key string) *T {
	text, found := annotations[key]
	if !found {
		return nil
	}
	var v T
	if json.Unmarshal([]byte(text), &v) != nil {
		return nil
	}
	return &v
}

// hash tells forms of a Plan apart, as a label's value may.
func (p *Plan) hash(version string) (string, error) {
	spec, err := json.Marshal(p.Spec)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum224(fmt.Appendf(nil, "%s\n%s", version, spec))
	return hex.EncodeToString(sum[:]), nil
}

// id tells forms of a Plan apart, those of an earlier one of the same name too: a
// Plan that is made again is tried again.
func (p *Plan) id(hash string) string { return string(p.UID) + "." + hash[:16] }
