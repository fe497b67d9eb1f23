// Package leader runs what only one of several servers may run.
package leader

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/kedge-k8s/kedge/pkg/component"
)

// The lease that one of several servers holds, and its times: those of
// Kubernetes' own components.
const (
	leaseName     = "kedge"
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	leaseRetry    = 2 * time.Second
)

const (
	rolesInterval = 100 * time.Millisecond
	rolesLimit    = time.Minute
)

// Leader runs, as a component, what only one of several servers may run: the
// controllers, the scheduler and Kedge's own. All of them follow one lease, so
// that an idle cluster renews one, and a server that does not lead has their
// memory free.
type Leader struct {
	Kubeconfig string
	Identity   string // of this server
	Parts      []component.Component
	Started    func(context.Context) error // called once the parts run; may be nil
	Log        *slog.Logger

	run component.Runner
}

func (*Leader) Name() string                        { return "leader" }
func (*Leader) Needs() []string                     { return []string{"apiserver"} }
func (*Leader) Limits() (start, stop time.Duration) { return 0, stopLimit }
func (l *Leader) Stop(ctx context.Context) error    { return l.run.Stop(ctx) }
func (l *Leader) Failed() <-chan error              { return l.run.Failed() }

func (l *Leader) Start(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.Timeout = renewDeadline / 2
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	// Right after its start the apiserver may not have read the roles yet.
	err = wait.PollUntilContextTimeout(ctx, rolesInterval, rolesLimit, true, func(ctx context.Context) (bool, error) {
		_, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{Limit: 1})
		if apierrors.IsForbidden(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("read leases: %w", err)
	}
	l.run.Run(func(ctx context.Context) error { return l.lead(ctx, client) })
	return nil
}

// lead waits for the lease, then runs the parts until ctx ends, one of them
// fails, or another server leads.
func (l *Leader) lead(ctx context.Context, client kubernetes.Interface) error {
	electing, release := context.WithCancel(context.WithoutCancel(ctx))
	acquired, other := make(chan struct{}, 1), make(chan string, 1)
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Name: leaseName, Namespace: metav1.NamespaceSystem},
		Client:     client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: l.Identity},
	}
	elector, err := l.elector(lock, acquired, other)
	if err != nil {
		release()
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// A lease that could not be renewed is tried for again. While most servers
		// are gone nobody else gets it, nor does anything this server's controllers
		// write; what it runs goes on.
		for electing.Err() == nil {
			elector.Run(electing)
		}
	}()
	defer func() {
		release()
		<-ended
		if elector.IsLeader() {
			l.giveBack(lock)
		}
	}()

	select {
	case <-acquired:
	case <-ctx.Done():
		return nil
	}
	select {
	case <-other: // who led before
	default:
	}
	l.Log.Info("this server leads: it runs the controllers and the scheduler", "component", l.Name())
	manager, err := component.NewManager(l.Log, append(l.Parts, component.Nothing("apiserver"))...)
	if err != nil {
		return err
	}
	defer l.stop(manager)
	starting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lost := make(chan error, 1)
	go func() {
		for {
			select {
			case id := <-other:
				err := fmt.Errorf("server %s leads now: %w", id, component.ErrRestart)
				lost <- err
				cancel(err)
				return
			case <-starting.Done():
				return
			}
		}
	}()
	if err := manager.Start(starting); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if l.Started != nil {
		if err := l.Started(starting); err != nil && starting.Err() == nil {
			l.Log.Warn("volumes of CSI drivers may not work on this node until Kedge is restarted", "component", l.Name(), "err", err)
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-lost:
		return err
	case err := <-manager.Failures():
		return err
	}
}

// How long the parts may take to stop, and then the lease to be given back.
const (
	partsLimit    = 6 * time.Second
	giveBackLimit = 2 * time.Second
	stopLimit     = partsLimit + giveBackLimit + time.Second
)

// giveBack empties the lease once the parts have stopped, so that another server
// takes over at once.
func (l *Leader) giveBack(lock resourcelock.Interface) {
	ctx, cancel := context.WithTimeout(context.Background(), giveBackLimit)
	defer cancel()
	held, _, err := lock.Get(ctx)
	if err == nil && held.HolderIdentity != l.Identity {
		return // another server has it already
	}
	if err == nil {
		now := metav1.Now()
		err = lock.Update(ctx, resourcelock.LeaderElectionRecord{
			LeaderTransitions: held.LeaderTransitions, LeaseDurationSeconds: 1, AcquireTime: now, RenewTime: now,
		})
	}
	if err != nil {
		l.Log.Warn("another server takes over later: the lease could not be given back", "component", l.Name(), "err", err)
	}
}

func (l *Leader) stop(manager *component.Manager) {
	ctx, cancel := context.WithTimeout(context.Background(), partsLimit)
	defer cancel()
	if err := manager.Stop(ctx); err != nil {
		l.Log.Warn("some parts were cut off", "component", l.Name(), "err", err)
	}
}

func (l *Leader) elector(lock resourcelock.Interface, acquired chan<- struct{}, other chan<- string) (*leaderelection.LeaderElector, error) {
	return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          lock,
		LeaseDuration: leaseDuration,
		RenewDeadline: renewDeadline,
		RetryPeriod:   leaseRetry,
		Name:          leaseName,
		// It would also give the lease up that can't be renewed, while the parts run.
		ReleaseOnCancel: false,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				select {
				case acquired <- struct{}{}:
				default:
				}
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(id string) {
				if id == l.Identity || id == "" {
					return
				}
				l.Log.Debug("a server leads", "component", l.Name(), "server", id)
				select {
				case other <- id:
				default:
				}
			},
		},
	})
}
