package datastore

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"google.golang.org/grpc"
)

// passedOnLimit is how long a write that was sent to a former leader may take once
// the new one has committed something: the former may have passed it on.
const passedOnLimit = 500 * time.Millisecond

// leadership is what a member knows of its leader.
type leadership interface {
	Leader() types.ID
	LeaderChangedNotify() <-chan struct{}
	FirstCommitInTermNotify() <-chan struct{}
}

// endLostWrites ends writes that were on their way to a leader when another one took
// its place. Nobody answers them, and etcd lets clients wait for nine seconds: a
// leader drops what comes while it hands over, or is gone with it.
func (e *Etcd) endLostWrites(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	etcd := e.current.Load()
	if etcd == nil || !isWrite(request) {
		return handle(ctx, request)
	}
	return untilLost(ctx, etcd.Server, request, handle)
}

// isWrite says whether a request goes to the leader. A transaction may only read,
// which takes no time.
func isWrite(request any) bool {
	switch request.(type) {
	case *etcdserverpb.PutRequest, *etcdserverpb.DeleteRangeRequest, *etcdserverpb.TxnRequest, *etcdserverpb.CompactionRequest,
		*etcdserverpb.LeaseGrantRequest, *etcdserverpb.LeaseRevokeRequest:
		return true
	}
	return false
}

// untilLost has a write done, and ends it when it is lost.
func untilLost(ctx context.Context, l leadership, request any, handle grpc.UnaryHandler) (any, error) {
	changed, committed := l.LeaderChangedNotify(), l.FirstCommitInTermNotify()
	if l.Leader() == 0 {
		return handle(ctx, request) // it waits here for a leader
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for _, event := range []<-chan struct{}{changed, committed} {
			select {
			case <-event:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(passedOnLimit):
			cancel(rpctypes.ErrGRPCTimeoutDueToLeaderFail)
		case <-ctx.Done():
		}
	}()
	answer, err := handle(ctx, request)
	if err != nil && context.Cause(ctx) == rpctypes.ErrGRPCTimeoutDueToLeaderFail { //nolint:errorlint // it is the very one
		err = rpctypes.ErrGRPCTimeoutDueToLeaderFail
	}
	return answer, err
}
