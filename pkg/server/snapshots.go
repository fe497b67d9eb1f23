package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/robfig/cron/v3"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/snapshot"
	"github.com/kedge-k8s/kedge/pkg/snapshot/publish"
)

// OnDemand begins the names of snapshots that somebody asks for.
const OnDemand = "on-demand"

const (
	// publishDelay leaves the time after a start to those who run pods.
	publishDelay = 10 * time.Second
	publishRetry = 30 * time.Second
	publishLimit = time.Minute
	// catchUpDelay is when a snapshot is taken whose time came while no server
	// ran, and the first one of a cluster.
	catchUpDelay = 5 * time.Minute
	// longestSleep is how late a schedule may be after the machine was asleep:
	// timers do not count that time.
	longestSleep = 10 * time.Minute
	saveLimit    = 30 * time.Minute
)

// snapshots takes snapshots by schedule and at command, as a component, and
// shows them as objects.
type snapshots struct {
	config     config.Snapshots
	node       string
	kubeconfig string
	newKeeper  func(dir string) *snapshot.Keeper
	log        *slog.Logger

	keeper   *snapshot.Keeper
	schedule cron.Schedule
	client   dynamic.Interface
	changed  chan struct{} // there are other snapshots than before
	run      component.Runner
}

func (s *Server) newSnapshots() *snapshots {
	return &snapshots{
		config:     s.config.Snapshots,
		node:       s.node.Name(),
		kubeconfig: s.layout.Kubeconfig("snapshots"),
		newKeeper:  s.newKeeper,
		log:        s.log,
		keeper:     s.newKeeper(s.config.Snapshots.Dir),
		changed:    make(chan struct{}, 1),
	}
}

func (*snapshots) Name() string                     { return "snapshots" }
func (*snapshots) Needs() []string                  { return []string{"apiserver"} }
func (s *snapshots) Stop(ctx context.Context) error { return s.run.Stop(ctx) }
func (s *snapshots) Failed() <-chan error           { return s.run.Failed() }

func (s *snapshots) Start(context.Context) error {
	c, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		return err
	}
	if s.schedule, err = cron.ParseStandard(s.config.Schedule); err != nil {
		return err
	}
	if s.client, err = dynamic.NewForConfig(c); err != nil {
		return err
	}
	s.run.Run(s.work)
	return nil
}

// handle registers the commands of kedge snapshot.
func (s *snapshots) handle(commands *control.Server) {
	control.Handle(commands, control.SaveSnapshot, s.save)
	control.Handle(commands, control.ListSnapshots, s.list)
	control.Handle(commands, control.DeleteSnapshots, s.delete)
	control.Handle(commands, control.PruneSnapshots, s.prune)
}

// work takes snapshots when their time has come, and publishes them.
func (s *snapshots) work(ctx context.Context) error {
	next := s.firstRun(ctx)
	due := time.NewTimer(untilNext(next))
	defer due.Stop()
	show := time.NewTimer(publishDelay)
	defer show.Stop()
	defined := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
			show.Reset(0)
		case <-show.C:
			if err := s.publish(ctx, &defined); err != nil && ctx.Err() == nil {
				s.log.Debug("the Snapshots are not up to date yet", "component", s.Name(), "err", err)
				show.Reset(publishRetry)
			}
		case <-due.C:
			if now := time.Now(); !next.IsZero() && !now.Before(next) {
				s.scheduled(ctx)
				next = s.schedule.Next(now)
			}
			due.Reset(untilNext(next))
		}
	}
}

// untilNext is how long to sleep; for the zero time, which never comes, long.
func untilNext(next time.Time) time.Duration {
	if next.IsZero() {
		return 24 * time.Hour
	}
	return min(max(time.Until(next), 0), longestSleep)
}

// firstRun is when the schedule comes first; zero for never.
func (s *snapshots) firstRun(ctx context.Context) time.Time {
	if s.config.Disabled {
		return time.Time{}
	}
	now := time.Now()
	var last time.Time
	files, err := s.keeper.List(ctx)
	if err != nil {
		s.log.Warn("the snapshots can't be read", "component", s.Name(), "err", err)
	}
	for _, f := range files {
		if f.Prefix == s.config.Name && f.Node == s.node && f.Created.After(last) {
			last = f.Created
		}
	}
	soon := now.Add(catchUpDelay)
	if missed := s.schedule.Next(last.Local()); !missed.IsZero() && missed.Before(soon) {
		return soon
	}
	return s.schedule.Next(now)
}

func (s *snapshots) scheduled(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	begin := time.Now()
	file, err := s.keeper.Save(ctx, snapshot.Request{Prefix: s.config.Name, Compress: s.config.Compress, SkipUnchanged: true})
	switch {
	case errors.Is(err, snapshot.ErrUnchanged):
		s.log.Info("no snapshot is needed: nothing has changed since the last one", "component", s.Name(), "last", file.Name)
		return
	case err != nil:
		if ctx.Err() == nil {
			s.log.Error("taking a snapshot failed; the next one is tried by schedule", "component", s.Name(), "err", err)
		}
		return
	}
	s.log.Info("took a snapshot", "component", s.Name(), "name", file.Name, "bytes", file.Size, "took", time.Since(begin).Round(time.Millisecond))
	if _, err := s.keeper.Prune(ctx, s.config.Name, s.config.Retention); err != nil {
		s.log.Warn("old snapshots stay for now", "component", s.Name(), "err", err)
	}
	s.tell()
}

// tell has the Snapshots brought up to date.
func (s *snapshots) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// publish shows the snapshots as objects.
func (s *snapshots) publish(ctx context.Context, defined *bool) error {
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	if !*defined {
		if err := publish.Define(ctx, s.client); err != nil {
			return err
		}
		*defined = true
	}
	files, err := s.keeper.List(ctx)
	if err != nil {
		return err
	}
	return publish.Sync(ctx, s.client, publish.Local, s.node, files)
}

// in is the keeper of a directory that somebody asks for.
func (s *snapshots) in(dir string) *snapshot.Keeper {
	if dir == "" || dir == s.keeper.Dir() {
		return s.keeper
	}
	return s.newKeeper(dir)
}

func (s *snapshots) save(ctx context.Context, r control.Snapshots) (snapshot.File, error) {
	compress := s.config.Compress
	if r.Compress != nil {
		compress = *r.Compress
	}
	file, err := s.in(r.Dir).Save(ctx, snapshot.Request{Prefix: cmp.Or(r.Prefix, OnDemand), Compress: compress})
	if err != nil {
		return file, err
	}
	s.log.Info("took a snapshot", "component", s.Name(), "name", file.Name, "bytes", file.Size)
	s.tell()
	return file, nil
}

func (s *snapshots) list(ctx context.Context, r control.Snapshots) ([]snapshot.File, error) {
	return s.in(r.Dir).List(ctx)
}

func (s *snapshots) delete(_ context.Context, r control.Snapshots) ([]string, error) {
	defer s.tell()
	return r.Names, s.in(r.Dir).Delete(r.Names...)
}

func (s *snapshots) prune(ctx context.Context, r control.Snapshots) ([]string, error) {
	keep := s.config.Retention
	if r.Keep != nil {
		keep = *r.Keep
	}
	defer s.tell()
	gone, err := s.in(r.Dir).Prune(ctx, cmp.Or(r.Prefix, s.config.Name), keep)
	return slices.Clip(gone), err
}

// noSnapshots refuses the commands where the datastore is not Kedge's own.
func noSnapshots(commands *control.Server) {
	for _, command := range []string{control.SaveSnapshot, control.ListSnapshots, control.DeleteSnapshots, control.PruneSnapshots} {
		control.Handle(commands, command, func(context.Context, control.Snapshots) (control.None, error) {
			return control.None{}, fmt.Errorf("this server keeps the cluster's state in an external datastore: make backups with that one's own tools")
		})
	}
}
