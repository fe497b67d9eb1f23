package servicelb

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// ReportAnnotation holds a node's [Report].
const ReportAnnotation = "kedge.io/service-ports"

// Report is what a node says of the ports that Services want, and of itself.
type Report struct {
	// Free are the ports that no program of the machine listens on.
	Free []Port `json:"free,omitempty"`
	// Used are the other ports, with the program that listens, if it is known.
	Used map[Port]string `json:"used,omitempty"`
	// Elsewhere are the node's external addresses that the machine itself doesn't
	// have: a router in front of it turns them into the node's internal one.
	Elsewhere []netip.Addr `json:"elsewhere,omitempty"`
}

// reportOf reads a node's report; there may be none yet.
func reportOf(n *corev1.Node) (Report, error) {
	var r Report
	text := n.Annotations[ReportAnnotation]
	if text == "" {
		return r, nil
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return Report{}, fmt.Errorf("annotation %s of node %s: %w", ReportAnnotation, n.Name, err)
	}
	return r, nil
}

func (r Report) says(p Port) (used bool, by string, said bool) {
	if by, used = r.Used[p]; used {
		return true, by, true
	}
	return false, "", slices.Contains(r.Free, p)
}
