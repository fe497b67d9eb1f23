package datastore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// MemberState is how a member of the cluster's etcd is, as seen from one of them.
type MemberState struct {
	Name    string `json:"name"` // empty: it has not started yet
	ID      string `json:"id"`
	Address string `json:"address"`
	Learner bool   `json:"learner"` // it has no vote yet
	Leader  bool   `json:"leader"`
	Self    bool   `json:"self"`    // the one that was asked
	Answers bool   `json:"answers"` // it accepts connections
}

// Label is what a member is called where it may have no name.
func (m MemberState) Label() string {
	if m.Name == "" {
		return m.ID
	}
	return m.Name
}

func labels(members []MemberState) string {
	list := make([]string, len(members))
	for i, m := range members {
		list[i] = m.Label()
	}
	return strings.Join(list, ", ")
}

// MemberStates are all members of the cluster's etcd, by their names.
func (e *Etcd) MemberStates(ctx context.Context) ([]MemberState, error) {
	etcd := e.current.Load()
	if etcd == nil {
		return nil, errNotRunning
	}
	server := etcd.Server
	members := server.Cluster().Members()
	states := make([]MemberState, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		states[i] = MemberState{
			Name: m.Name, ID: m.ID.String(), Learner: m.IsLearner, Leader: m.ID == server.Leader(), Self: m.ID == server.MemberID(),
		}
		if len(m.PeerURLs) > 0 { // Kedge gives each one
			states[i].Address = hostOf(m.PeerURLs[0])
		}
		asking.Go(func() {
			states[i].Answers = states[i].Self || slices.ContainsFunc(m.PeerURLs, func(peer string) bool { return answers(ctx, peer) })
		})
	}
	asking.Wait()
	slices.SortFunc(states, func(a, b MemberState) int { return strings.Compare(a.Label(), b.Label()) })
	return states, nil
}

// RemoveMember removes a member that runs no more, by its name, its ID, or the name
// of its node.
func (e *Etcd) RemoveMember(ctx context.Context, name string) (MemberState, error) {
	members, err := e.MemberStates(ctx)
	if err != nil {
		return MemberState{}, err
	}
	m, err := removable(members, name)
	if err != nil {
		return m, err
	}
	id, err := types.IDFromString(m.ID)
	if err != nil {
		return m, err
	}
	server := e.etcd.Server
	ctx, cancel := context.WithTimeout(ctx, server.Cfg.ReqTimeout())
	defer cancel()
	if _, err := server.RemoveMember(ctx, uint64(id)); err != nil {
		return m, fmt.Errorf("remove the member %s: %w", m.Label(), err)
	}
	e.log.Info("removed a member from etcd, as it was asked for", "member", m.Name, "id", m.ID)
	return m, nil
}

// removable finds the member that is to be removed, and says why it can't be.
func removable(members []MemberState, name string) (MemberState, error) {
	var found, left []MemberState
	for _, m := range members {
		if name != "" && (m.Name == name || m.ID == name || MemberOf(m.Name, name)) {
			found = append(found, m)
		} else {
			left = append(left, m)
		}
	}
	switch len(found) {
	case 0:
		return MemberState{}, fmt.Errorf("etcd has no member %q, but %s", name, labels(members))
	case 1:
	default:
		return MemberState{}, fmt.Errorf("node %s has several members of etcd: say which, %s", name, labels(found))
	}
	m := found[0]
	switch {
	case m.Self:
		return m, errors.New("that is the member of this very server: to take it out, stop it and say this on another server")
	case m.Answers:
		return m, fmt.Errorf("the member %s still runs at %s: stop that server first", m.Label(), m.Address)
	}
	return m, keepsQuorum(left, m)
}

// keepsQuorum says which members must answer before one can be removed.
func keepsQuorum(left []MemberState, removed MemberState) error {
	var voters int
	var silent []MemberState
	for _, m := range left {
		if m.Learner {
			continue
		}
		voters++
		if !m.Answers {
			silent = append(silent, m)
		}
	}
	answering := voters - len(silent)
	if quorum := voters/2 + 1; answering < quorum {
		return fmt.Errorf("etcd would have no quorum without the member %s: of the %d others %d must answer, and %s don't: start their servers first; if they are lost for good, go on with kedge server --cluster-reset",
			removed.Label(), voters, quorum, labels(silent))
	}
	// The others agree on it while it still counts.
	if !removed.Learner && answering < (voters+1)/2+1 {
		return fmt.Errorf("etcd has no quorum, which removing a member takes: of the members %s none answers: start their servers first; if they are lost for good, go on with kedge server --cluster-reset",
			labels(append(silent, removed)))
	}
	return nil
}
