package datastore

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
)

type fakeLeadership struct {
	leader             types.ID
	changed, committed chan struct{}
}

func (f *fakeLeadership) Leader() types.ID                         { return f.leader }
func (f *fakeLeadership) LeaderChangedNotify() <-chan struct{}     { return f.changed }
func (f *fakeLeadership) FirstCommitInTermNotify() <-chan struct{} { return f.committed }

func TestLostWrites(t *testing.T) {
	for name, test := range map[string]struct {
		leader             types.ID
		changes, commits   bool
		answered, wantLost bool
	}{
		"the leader stays":              {leader: 1, commits: true},
		"a new leader has no quorum":    {leader: 1, changes: true},
		"there was no leader":           {changes: true, commits: true},
		"a new leader":                  {leader: 1, changes: true, commits: true, wantLost: true},
		"a new leader that it got to":   {leader: 1, changes: true, commits: true, answered: true},
		"the leader stays and answers":  {leader: 1, answered: true},
		"nobody leads, and then one is": {answered: true, changes: true, commits: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeLeadership{test.leader, make(chan struct{}), make(chan struct{})}
			ctx, cancel := context.WithTimeout(t.Context(), 4*passedOnLimit)
			defer cancel()
			answer, err := untilLost(ctx, f, &etcdserverpb.PutRequest{}, func(ctx context.Context, _ any) (any, error) {
				if test.changes {
					close(f.changed)
				}
				if test.commits {
					close(f.committed)
				}
				if test.answered {
					return "answer", nil
				}
				<-ctx.Done()
				return nil, ctx.Err()
			})
			switch {
			case test.answered:
				if answer != "answer" || err != nil {
					t.Errorf("it is answered with %v, error %v", answer, err)
				}
			case errors.Is(err, rpctypes.ErrGRPCTimeoutDueToLeaderFail) != test.wantLost:
				t.Errorf("it is lost: want %v, error %v", test.wantLost, err)
			case !test.wantLost && ctx.Err() == nil:
				t.Error("it was ended early")
			}
		})
	}
}

// TestWritesKeepTheirError wants a write's own error to be passed on.
func TestWritesKeepTheirError(t *testing.T) {
	f := &fakeLeadership{1, make(chan struct{}), make(chan struct{})}
	close(f.changed)
	close(f.committed)
	_, err := untilLost(t.Context(), f, &etcdserverpb.PutRequest{}, func(context.Context, any) (any, error) {
		return nil, rpctypes.ErrGRPCNoSpace
	})
	if !errors.Is(err, rpctypes.ErrGRPCNoSpace) {
		t.Error(err)
	}
}

func TestIsWrite(t *testing.T) {
	for request, want := range map[any]bool{
		&etcdserverpb.TxnRequest{}:        true,
		&etcdserverpb.LeaseGrantRequest{}: true,
		&etcdserverpb.RangeRequest{}:      false,
		&etcdserverpb.SnapshotRequest{}:   false,
	} {
		if isWrite(request) != want {
			t.Errorf("%T is a write: want %v", request, want)
		}
	}
}
