package server

import (
	"context"
	"errors"

	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/datastore"
)

var errNoMembers = errors.New("this server keeps the cluster's state elsewhere than in embedded etcd, which alone has members")

// handleMembers answers the commands about the members of etcd, if there is one.
func handleMembers(commands *control.Server, etcd *datastore.Etcd) {
	control.Handle(commands, control.ListMembers, func(ctx context.Context, _ control.None) ([]datastore.MemberState, error) {
		if etcd == nil {
			return nil, errNoMembers
		}
		return etcd.MemberStates(ctx)
	})
	control.Handle(commands, control.RemoveMember, func(ctx context.Context, member control.Named) (datastore.MemberState, error) {
		if etcd == nil {
			return datastore.MemberState{}, errNoMembers
		}
		return etcd.RemoveMember(ctx, member.Name)
	})
}
