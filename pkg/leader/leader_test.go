package leader

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kedge-k8s/kedge/pkg/component"
)

// TestLease holds the lease as long as the parts run, whether it can be renewed
// or not, and gives it back when they have stopped.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var running, broken atomic.Bool
		emptied := false
		client.PrependReactor("update", "leases", func(action clienttesting.Action) (bool, runtime.Object, error) {
			lease := action.(clienttesting.UpdateAction).GetObject().(*coordinationv1.Lease)
			if holder := lease.Spec.HolderIdentity; holder == nil || *holder == "" {
				emptied = true
				if running.Load() {
					t.Error("the lease is given up while the parts run")
				}
			} else if broken.Load() {
				return true, nil, errors.New("no quorum")
			}
			return false, nil, nil
		})
		l := &Leader{Identity: "server-1", Parts: []component.Component{&part{running: &running}}, Log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.lead(ctx, client) }()
		time.Sleep(time.Minute)
		if !running.Load() {
			t.Fatal("the parts do not run")
		}
		broken.Store(true)
		time.Sleep(time.Minute)
		broken.Store(false)
		time.Sleep(time.Minute)
		lease, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, leaseName, metav1.GetOptions{})
		if err != nil || *lease.Spec.HolderIdentity != "server-1" || time.Since(lease.Spec.RenewTime.Time) > renewDeadline {
			t.Errorf("the lease is %v, error %v", lease, err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if running.Load() || !emptied {
			t.Errorf("stopped: the parts run: %v, the lease is given back: %v", running.Load(), emptied)
		}
	})
}

// part is a component that says whether it runs.
type part struct{ running *atomic.Bool }

func (*part) Name() string                  { return "part" }
func (*part) Needs() []string               { return []string{"apiserver"} }
func (p *part) Start(context.Context) error { p.running.Store(true); return nil }
func (p *part) Stop(context.Context) error  { p.running.Store(false); return nil }
