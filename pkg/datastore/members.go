package datastore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/join"
)

// Members are all members of the cluster's etcd, as this one knows them.
func (e *Etcd) Members() join.Members {
	cluster := e.etcd.Server.Cluster()
	return join.Members{Cluster: cluster.ID().String(), List: toMembers(cluster.Members())}
}

// Others is how many members there are besides this one.
func (e *Etcd) Others() int { return len(e.Members().List) - 1 }

func toMembers(members []*membership.Member) []join.Member {
	list := make([]join.Member, len(members))
	for i, m := range members {
		list[i] = join.Member{ID: uint64(m.ID), Name: m.Name, Peers: m.PeerURLs}
	}
	return list
}

// AddMember makes a place for a node's new member as a learner, and removes what
// the node's earlier ones have left. It returns all members. A machine that was
// copied, or its configuration, does not take the place of one that runs.
func (e *Etcd) AddMember(ctx context.Context, m join.NewMember) ([]join.Member, error) {
	server := e.etcd.Server
	for _, old := range server.Cluster().Members() {
		if !MemberOf(old.Name, m.Node) && !slices.Contains(old.PeerURLs, m.Peer) {
			continue
		}
		for _, peer := range old.PeerURLs {
			if old.ID == server.MemberID() || answers(ctx, peer) {
				return nil, join.Deny(fmt.Errorf("a server runs at %s as member %s: give this one a --node-name, an --advertise-address and a %s of its own; or, to replace that one, stop it or delete its node", hostOf(peer), old.Name, config.NodePasswordFile))
			}
		}
		e.log.Info("removing the former member of a server that joins again", "member", old.Name, "id", old.ID)
		if _, err := server.RemoveMember(ctx, uint64(old.ID)); err != nil {
			return nil, explain("remove the former member "+old.Name, err)
		}
	}
	urls, err := types.NewURLs([]string{m.Peer})
	if err != nil {
		return nil, fmt.Errorf("address of the new member: %w", err)
	}
	now := time.Now()
	added := membership.NewMemberAsLearner("", urls, "", &now)
	members, err := server.AddMember(ctx, *added)
	if err != nil {
		what := "add the member " + m.Name
		if silent := e.silent(ctx); len(silent) > 0 {
			what += " while others don't answer: " + strings.Join(silent, ", ")
		}
		return nil, explain(what, err)
	}
	e.log.Info("added a member to etcd, which catches up", "member", m.Name, "id", added.ID, "peer", m.Peer)
	return toMembers(members), nil
}

// Promote makes a learner that has caught up a full member.
func (e *Etcd) Promote(ctx context.Context, id uint64) error {
	_, err := e.etcd.Server.PromoteMember(ctx, id)
	if err == nil {
		e.log.Info("a server is now a full member of etcd", "id", types.ID(id))
	}
	if errors.Is(err, membership.ErrMemberNotLearner) {
		return nil // it has been promoted already
	}
	return explain("promote the member", err)
}

// removal is how often and when the removal of a member is tried: etcd refuses it
// while others are away, so that the quorum is not lost. It takes eight minutes.
var removal = wait.Backoff{Duration: time.Second, Factor: 2, Steps: 10}

// RemoveNode removes the members that a node has when it leaves the cluster, and
// none that it gets later.
func (e *Etcd) RemoveNode(ctx context.Context, node string) error {
	server := e.etcd.Server
	for _, m := range server.Cluster().Members() {
		if !MemberOf(m.Name, node) || m.ID == server.MemberID() {
			continue
		}
		var last error
		err := wait.ExponentialBackoffWithContext(ctx, removal, func(ctx context.Context) (bool, error) {
			ctx, cancel := context.WithTimeout(ctx, server.Cfg.ReqTimeout())
			defer cancel()
			_, last = server.RemoveMember(ctx, uint64(m.ID))
			return last == nil || errors.Is(last, membership.ErrIDRemoved) || errors.Is(last, membership.ErrIDNotFound), nil
		})
		switch {
		case err != nil:
			return explain("remove the member "+m.Name, errors.Join(last, ctx.Err()))
		case last == nil: // else another server was faster
			e.log.Info("removed the member of a deleted node from etcd", "member", m.Name, "id", m.ID)
		}
	}
	return nil
}

// tellAddress has the other members reach this one where it is now. Until they
// hear of it, it reaches them.
func (e *Etcd) tellAddress(ctx context.Context) {
	server := e.etcd.Server
	m := server.Cluster().Member(server.MemberID())
	if m == nil || slices.Equal(m.PeerURLs, []string{e.peer()}) {
		return
	}
	before := m.PeerURLs
	m.PeerURLs = []string{e.peer()}
	ctx, cancel := context.WithTimeout(ctx, server.Cfg.ReqTimeout())
	defer cancel()
	if _, err := server.UpdateMember(ctx, *m); err != nil {
		e.log.Warn("the other servers know this one by another address; it is tried again at the next start", "known", before, "address", e.peer(), "err", err)
		return
	}
	e.log.Info("told the other servers the new address of this one", "before", before, "address", e.peer())
}

// MemberName is the name of this server's member.
func (e *Etcd) MemberName() string { return e.etcd.Config().Name }

// explain wraps an error of etcd that goes away by itself so that it is tried
// again.
func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, passing := range []error{
		etcderrors.ErrLearnerNotReady, etcderrors.ErrUnhealthy, etcderrors.ErrNotEnoughStartedMembers, etcderrors.ErrTimeout,
		etcderrors.ErrNoLeader, membership.ErrTooManyLearners,
	} {
		if errors.Is(err, passing) {
			return fmt.Errorf("%s: %w: %w", what, join.ErrNotYet, err)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Get returns the value of a key, or nil.
func (e *Etcd) Get(ctx context.Context, key string) ([]byte, error) {
	r, err := e.etcd.Server.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(key)})
	if err != nil || len(r.Kvs) == 0 {
		return nil, err
	}
	return r.Kvs[0].Value, nil
}

// Put writes a key.
func (e *Etcd) Put(ctx context.Context, key string, value []byte) error {
	_, err := e.etcd.Server.Put(ctx, &etcdserverpb.PutRequest{Key: []byte(key), Value: value})
	return err
}
