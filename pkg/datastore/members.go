package datastore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"

	"github.com/kedge-k8s/kedge/pkg/join"
)

// Members are all members of the cluster's etcd, as this one knows them.
func (e *Etcd) Members() []join.Member { return toMembers(e.etcd.Server.Cluster().Members()) }

// Others is how many members there are besides this one.
func (e *Etcd) Others() int { return len(e.Members()) - 1 }

func toMembers(members []*membership.Member) []join.Member {
	list := make([]join.Member, len(members))
	for i, m := range members {
		list[i] = join.Member{ID: uint64(m.ID), Name: m.Name, Peers: m.PeerURLs, Learner: m.IsLearner}
	}
	return list
}

// AddMember makes a place for a node's new member as a learner, and removes what
// the node's earlier ones have left. It returns all members.
func (e *Etcd) AddMember(ctx context.Context, m join.NewMember) ([]join.Member, error) {
	server := e.etcd.Server
	for _, old := range server.Cluster().Members() {
		if !MemberOf(old.Name, m.Node) && !slices.Contains(old.PeerURLs, m.Peer) {
			continue
		}
		if old.ID == server.MemberID() {
			return nil, fmt.Errorf("the node %s at %s is this server itself", m.Node, m.Peer)
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
		return nil, explain("add the member "+m.Name, err)
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

// RemoveNode removes the members of a node that has left the cluster.
func (e *Etcd) RemoveNode(ctx context.Context, node string) error {
	for _, m := range e.etcd.Server.Cluster().Members() {
		if !MemberOf(m.Name, node) || m.ID == e.etcd.Server.MemberID() {
			continue
		}
		_, err := e.etcd.Server.RemoveMember(ctx, uint64(m.ID))
		switch {
		case errors.Is(err, membership.ErrIDRemoved), errors.Is(err, membership.ErrIDNotFound):
			continue // another server was faster
		case err != nil:
			return explain("remove the member "+m.Name, err)
		}
		e.log.Info("removed the member of a deleted node from etcd", "member", m.Name, "id", m.ID)
	}
	return nil
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
