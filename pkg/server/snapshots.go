package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/robfig/cron/v3"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/datastore"
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
	failed   chan struct{} // a copy to S3 is to be tried again
	run      component.Runner

	mu       sync.Mutex
	copyFail string // why the last copy to S3 failed
}

// newSnapshots makes the component, and registers the commands of kedge
// snapshot.
func (s *Server) newSnapshots(commands *control.Server, etcd *datastore.Etcd) *snapshots {
	newKeeper := func(dir string) *snapshot.Keeper { return NewKeeper(s.config, s.node.Name(), dir, etcd, s.log) }
	c := &snapshots{
		config:     s.config.Snapshots,
		node:       s.node.Name(),
		kubeconfig: s.layout.Kubeconfig("snapshots"),
		newKeeper:  newKeeper,
		log:        s.log,
		keeper:     newKeeper(s.config.Snapshots.Dir),
		changed:    make(chan struct{}, 1),
		failed:     make(chan struct{}, 1),
	}
	control.Handle(commands, control.SaveSnapshot, c.save)
	control.Handle(commands, control.ListSnapshots, c.list)
	control.Handle(commands, control.DeleteSnapshots, c.delete)
	control.Handle(commands, control.PruneSnapshots, c.prune)
	return c
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

// work takes snapshots when their time has come, and publishes them.
func (s *snapshots) work(ctx context.Context) error {
	next := s.firstRun(ctx)
	due := time.NewTimer(untilNext(next))
	defer due.Stop()
	show := time.NewTimer(publishDelay)
	defer show.Stop()
	again, retry := time.NewTimer(publishDelay), firstCopyRetry // copies that an earlier run left
	defer again.Stop()
	defined := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
			show.Reset(0)
		case <-s.failed:
			retry = firstCopyRetry
			again.Reset(retry)
		case <-show.C:
			if err := s.publish(ctx, &defined); err != nil && ctx.Err() == nil {
				s.log.Debug("the Snapshots are not up to date yet", "component", s.Name(), "err", err)
				show.Reset(publishRetry)
			}
		case <-again.C:
			if s.copied(ctx) {
				retry = firstCopyRetry
			} else {
				again.Reset(retry)
				retry = min(2*retry, lastCopyRetry)
			}
			show.Reset(0)
		case <-due.C:
			if now := time.Now(); !next.IsZero() && !now.Before(next) {
				s.scheduled(ctx)
				again.Reset(0)
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
	next := s.schedule.Next(now)
	soon := now.Add(catchUpDelay)
	if missed := s.schedule.Next(last.Local()); !missed.IsZero() && missed.Before(now) && soon.Before(next) {
		return soon
	}
	return next
}

func (s *snapshots) scheduled(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, control.SnapshotLimit)
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
	s.toCopy(file.Name)
	if _, err := s.keeper.Prune(ctx, s.config.Name, s.config.Retention); err != nil {
		s.log.Warn("old snapshots stay for now", "component", s.Name(), "err", err)
	}
	s.tell()
}

// toCopy remembers that a snapshot is to be copied to S3, if any is.
func (s *snapshots) toCopy(name string) {
	if !s.config.S3.Enabled {
		return
	}
	if err := s.keeper.SetPending(name); err != nil {
		s.log.Error("a snapshot will not be copied to S3", "component", s.Name(), "name", name, "err", err)
	}
}

// copied copies what is not in S3 yet, and says whether all of it is there.
func (s *snapshots) copied(ctx context.Context) bool {
	err := s.copyAll(ctx)
	if ctx.Err() != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copyFail = ""
	if err != nil {
		s.copyFail = err.Error()
		s.log.Error("snapshots are kept here until they can be copied; it is tried again", "component", s.Name(), "err", err)
	}
	return err == nil
}

// whyPending is why copies to S3 wait.
func (s *snapshots) whyPending() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.copyFail, "it is about to be copied")
}

// tell has the Snapshots brought up to date.
func (s *snapshots) tell() { signal(s.changed) }

// wake has a copy to S3 tried again later.
func (s *snapshots) wake() { signal(s.failed) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
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
	files, err := s.local(ctx)
	if err != nil {
		return err
	}
	if err := publish.Sync(ctx, s.client, publish.Local, s.node, files); err != nil {
		return err
	}
	copies, _, err := s.inBucket(ctx)
	if err != nil {
		// Those who copy say so, and have this done again when they can.
		s.log.Debug("the Snapshots in S3 are not up to date", "component", s.Name(), "err", err)
		return nil
	}
	return publish.Sync(ctx, s.client, publish.S3, s.node, copies)
}

// local lists the snapshots here, with what keeps them from being copied.
func (s *snapshots) local(ctx context.Context) ([]snapshot.File, error) {
	files, err := s.keeper.List(ctx)
	if err != nil {
		return nil, err
	}
	pending, err := s.keeper.Pending(ctx)
	if err != nil {
		return nil, err
	}
	for i := range files {
		if slices.ContainsFunc(pending, func(p snapshot.File) bool { return p.Name == files[i].Name }) {
			files[i].Pending = s.whyPending()
		}
	}
	return files, nil
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
	defer s.tell()
	if !s.config.S3.Enabled || r.Dir != "" {
		return file, nil
	}
	s.toCopy(file.Name)
	bucket, err := s.bucket(ctx)
	if err == nil {
		err = s.copy(ctx, bucket, file)
	}
	if err != nil {
		s.log.Error("a snapshot is kept here until it can be copied; it is tried again", "component", s.Name(), "name", file.Name, "err", err)
		file.Pending = err.Error()
		s.wake()
		return file, nil
	}
	file.Copy = bucket.String()
	return file, nil
}

func (s *snapshots) list(ctx context.Context, r control.Snapshots) (snapshot.Listing, error) {
	if r.Dir != "" {
		files, err := s.in(r.Dir).List(ctx)
		return snapshot.Listing{Files: files}, err
	}
	files, err := s.local(ctx)
	if err != nil {
		return snapshot.Listing{}, err
	}
	listing := snapshot.Listing{Files: files}
	copies, _, err := s.inBucket(ctx)
	if err != nil {
		listing.Warning = err.Error()
	}
	listing.Files = append(listing.Files, copies...)
	snapshot.Sort(listing.Files)
	return listing, nil
}

func (s *snapshots) delete(ctx context.Context, r control.Snapshots) ([]string, error) {
	if r.Dir != "" {
		return r.Names, s.in(r.Dir).Delete(r.Names...)
	}
	defer s.tell()
	copies, bucket, err := s.inBucket(ctx)
	if err != nil {
		return nil, err
	}
	var here []string
	for _, name := range r.Names {
		there := slices.ContainsFunc(copies, func(f snapshot.File) bool { return f.Name == name })
		if s.keeper.Has(name) || !there {
			here = append(here, name) // Delete complains of what is nowhere
		}
	}
	if err := s.keeper.Delete(here...); err != nil || bucket == nil {
		return r.Names, err
	}
	return r.Names, bucket.Delete(ctx, slices.DeleteFunc(copies, func(f snapshot.File) bool { return !slices.Contains(r.Names, f.Name) })...)
}

func (s *snapshots) prune(ctx context.Context, r control.Snapshots) ([]string, error) {
	keep := s.config.Retention
	if r.Keep != nil {
		keep = *r.Keep
	}
	prefix := cmp.Or(r.Prefix, s.config.Name)
	defer s.tell()
	gone, err := s.in(r.Dir).Prune(ctx, prefix, keep)
	if err != nil || r.Dir != "" {
		return gone, err
	}
	bucket, err := s.bucket(ctx)
	if err != nil || bucket == nil {
		return gone, err
	}
	if r.Keep == nil {
		keep = bucket.Retention()
	}
	return gone, s.pruneBucket(ctx, bucket, prefix, keep)
}

// noSnapshots refuses the commands, where the datastore is an external one.
func noSnapshots(commands *control.Server) {
	for _, command := range []string{control.SaveSnapshot, control.ListSnapshots, control.DeleteSnapshots, control.PruneSnapshots} {
		control.Handle(commands, command, func(context.Context, control.Snapshots) (control.None, error) {
			return control.None{}, errors.New("this server keeps the cluster's state in an external datastore, of which Kedge takes no snapshots: make backups with its own tools")
		})
	}
}
