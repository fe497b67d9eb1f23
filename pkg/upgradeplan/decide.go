package upgradeplan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/pkg/install"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// deadline is how long a node may take, unless the Plan says otherwise.
const deadline = 15 * time.Minute

// oldestAgent is how many minor versions an agent may be behind the servers; see
// https://kubernetes.io/releases/version-skew-policy/.
const oldestAgent = 3

// member is a node of the cluster.
type member struct {
	name    string
	labels  map[string]string
	version string
	server  bool
	ready   bool

	assignment *Assignment // nil: none
	report     *Report     // nil: none
}

// busy says whether the node has an assignment that it has not ended.
func (m *member) busy() bool { return m.assignment != nil && !m.report.final(m.assignment) }

// begun says whether the node has taken up its assignment.
func (m *member) begun() bool { return m.report != nil && m.report.ID == m.assignment.ID }

// target is a Plan whose version is known.
type target struct {
	*Plan
	version, hash, id string
}

// decision is what comes next for a Plan.
type decision struct {
	assign   []*member // get the assignment
	finish   []*member // have the version, and get the label
	applying []string
	status   Condition // Complete
	again    bool      // look again in a while
}

// reasons of Complete.
const (
	reasonComplete = "Complete"
	reasonApplying = "Applying"
	reasonWaiting  = "Waiting"
	reasonFailed   = "Failed"
	reasonDeadline = "DeadlineExceeded"
	reasonSkew     = "VersionSkew"
)

// decide says what comes next for a Plan among others in a cluster. own is the
// version of the server that decides.
func decide(t target, plans []*Plan, nodes []*member, own string, now time.Time) decision {
	d := decision{status: Condition{Type: complete, Status: "False"}}
	label := labelPrefix + t.Name
	var todo []*member
	for _, m := range nodes {
		mine := m.assignment != nil && m.assignment.ID == t.id
		switch {
		case mine && m.busy():
			d.applying = append(d.applying, m.name)
			if limit := t.limit(); limit > 0 && now.Sub(m.assignment.Since) > limit {
				d.fail(reasonDeadline, fmt.Sprintf("node %s has not ended within %s; on it look at %s", m.name, limit, logHint))
			}
		case mine && m.report.State == failed:
			d.fail(reasonFailed, fmt.Sprintf("node %s: %s", m.name, m.report.Message))
		case mine:
			d.finish = append(d.finish, m)
		case !t.Spec.selects(m.labels) || m.labels[label] == t.hash:
		case m.version == t.version && !m.busy():
			d.finish = append(d.finish, m)
		default:
			todo = append(todo, m)
		}
	}
	for _, m := range todo {
		if err := install.Follows(m.version, t.version); err != nil {
			d.fail(reasonSkew, fmt.Sprintf("node %s: %v", m.name, err))
		}
		for _, agent := range nodes {
			if m.server && !agent.server && version.MinorsBehind(agent.version, t.version) > oldestAgent {
				d.fail(reasonSkew, fmt.Sprintf("node %s runs %s, which is too old for servers of %s: upgrade it first", agent.name, agent.version, t.version))
			}
		}
	}
	slices.SortFunc(todo, func(a, b *member) int {
		if a.server != b.server && a.server {
			return -1
		} else if a.server != b.server {
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	if d.status.Reason != "" { // it has failed: what has begun goes on, nothing else does
		return d
	}
	waits := t.waits(plans, nodes, now)
	for _, m := range todo {
		if len(d.applying) >= int(max(t.Spec.Concurrency, 1)) {
			break
		}
		if why := cmp.Or(waits, m.waits(t.version, nodes, own)); why != "" {
			d.status.Message = cmp.Or(d.status.Message, why)
			d.again = true
			continue
		}
		d.assign = append(d.assign, m)
		d.applying = append(d.applying, m.name)
		m.assignment, m.report = &Assignment{ID: t.id}, nil // for those after it
	}
	switch {
	case len(d.applying) > 0:
		d.again = true // for the deadline
		d.status.Reason, d.status.Message = reasonApplying, strings.Join(d.applying, ", ")+": to "+t.version
	case len(todo) > 0:
		d.status.Reason = reasonWaiting
	default:
		d.status.Status, d.status.Reason = "True", reasonComplete
	}
	return d
}

func (d *decision) fail(reason, message string) {
	if d.status.Reason == "" {
		d.status.Reason, d.status.Message = reason, message
	}
}

// limit is how long a node may take; 0: for ever.
func (t *target) limit() time.Duration {
	if s := t.Spec.JobActiveDeadlineSecs; s != nil {
		return time.Duration(*s) * time.Second
	}
	return deadline
}

// waits says why no node can begin; empty: one can.
func (t *target) waits(plans []*Plan, nodes []*member, now time.Time) string {
	if p := t.Spec.Prepare; p != nil && !completed(plans, t.Namespace, p.Args[1]) {
		return "waiting for the Plan " + p.Args[1]
	}
	if w := t.Spec.Window; w != nil {
		if in, err := w.contains(now); err != nil || !in {
			return "waiting for the time window"
		}
	}
	if t.Spec.Exclusive {
		for _, other := range plans {
			if other.UID != t.UID && other.Spec.Exclusive && len(other.Status.Applying) > 0 {
				return "waiting for the Plan " + other.Name + ", which is exclusive too"
			}
		}
	}
	if delay := t.Spec.PostCompleteDelay; delay != nil {
		for _, m := range nodes {
			if m.report != nil && m.report.ID == t.id && m.report.State == done && now.Sub(m.report.Since) < delay.Duration {
				return "waiting for " + delay.Duration.String() + " after node " + m.name
			}
		}
	}
	return ""
}

func completed(plans []*Plan, namespace, name string) bool {
	i := slices.IndexFunc(plans, func(p *Plan) bool { return p.Namespace == namespace && p.Name == name })
	if i < 0 {
		return false
	}
	c := plans[i].Status.condition(complete)
	return c != nil && c.Status == "True"
}

func (s *Status) condition(kind string) *Condition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// waits says why this node can't begin; empty: it can.
func (m *member) waits(to string, nodes []*member, own string) string {
	if m.busy() {
		return fmt.Sprintf("waiting for node %s, which carries out the Plan %s", m.name, m.assignment.Plan)
	}
	if !m.ready {
		return "waiting for node " + m.name + " to be Ready"
	}
	for _, other := range nodes {
		switch {
		case !other.server || other == m:
		case m.server && other.busy():
			return "waiting for server " + other.name + ": they are upgraded one after the other"
		case m.server && !other.ready:
			return "waiting for server " + other.name + " to be Ready: only one may be away"
		case !m.server && version.Newer(to, other.version):
			return "waiting for server " + other.name + ", which runs " + other.version + ": agents come after the servers"
		}
	}
	if !m.server && version.Newer(to, own) {
		return "waiting for the servers, of which one runs " + own + ": agents come after them"
	}
	return ""
}
