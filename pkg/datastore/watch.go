package datastore

import (
	"context"
	"errors"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// progressInterval is the pace at which watches hear of the current revision
// while nothing of theirs changes, so that what waits for that revision does
// not wait long, and nobody has to start anew after a compaction.
const progressInterval = 10 * time.Second

// kine keeps a revision of its own under the key in which the apiserver keeps
// its compactions, and the apiserver's under another; see its package server.
const (
	compactKey       = "compact_rev_key"
	compactStoredKey = "compact_rev_key_apiserver"
)

// watchServer is etcd's watch API on a backend of kine. kine's own wakes up
// twenty times a second for each of the apiserver's some sixty streams, in
// case one asks for its progress; this one sleeps until something happens.
// Progress requests are not answered: see emulatedVersion.
type watchServer struct {
	backend server.Backend
	lastID  atomic.Int64

	mu      sync.Mutex
	watches map[*watch]struct{}
}

func newWatchServer(backend server.Backend) *watchServer {
	return &watchServer{backend: backend, watches: map[*watch]struct{}{}}
}

// Watch serves one stream, which carries any number of watches.
func (s *watchServer) Watch(stream etcdserverpb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	out := &sender{stream: stream}
	cancels := map[int64]context.CancelFunc{}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch r := request.RequestUnion.(type) {
		case *etcdserverpb.WatchRequest_CreateRequest:
			if r.CreateRequest.WatchId != clientv3.AutoWatchID || r.CreateRequest.StartRevision < 0 {
				err = out.send(&etcdserverpb.WatchResponse{
					Header: &etcdserverpb.ResponseHeader{}, WatchId: clientv3.InvalidWatchID,
					Created: true, Canceled: true, CancelReason: server.ErrInvalidWatch.Error(),
				})
				break
			}
			w := &watch{id: s.lastID.Add(1), request: r.CreateRequest, out: out, progress: make(chan int64, 1)}
			watchCtx, cancelWatch := context.WithCancel(ctx)
			cancels[w.id] = cancelWatch
			// Answered here, so that the answers have the order of the requests.
			err = out.send(&etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{}, WatchId: w.id, Created: true})
			running.Go(func() {
				defer cancelWatch()
				s.run(watchCtx, w)
			})
		case *etcdserverpb.WatchRequest_CancelRequest:
			if cancelWatch := cancels[r.CancelRequest.WatchId]; cancelWatch != nil {
				cancelWatch()
				delete(cancels, r.CancelRequest.WatchId)
			}
		}
		if err != nil {
			return err
		}
	}
}

// sender lets the watches of one stream take turns.
type sender struct {
	mu     sync.Mutex
	stream etcdserverpb.Watch_WatchServer
}

func (s *sender) send(r *etcdserverpb.WatchResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(r)
}

// watch is one watch of a stream.
type watch struct {
	id       int64
	request  *etcdserverpb.WatchCreateRequest
	out      *sender
	progress chan int64
}

// run passes on the events of a watch until it is cancelled, and says why it
// ends.
func (s *watchServer) run(ctx context.Context, w *watch) {
	end := s.pass(ctx, w)
	end.WatchId, end.Canceled = w.id, true
	// The stream may be gone: then there is nobody to tell.
	_ = w.out.send(end)
}

func (s *watchServer) pass(ctx context.Context, w *watch) (end *etcdserverpb.WatchResponse) {
	key := string(w.request.Key)
	if key == compactKey {
		key = compactStoredKey
	}
	ctx, cancel := context.WithCancel(ctx)
	result := s.backend.Watch(ctx, key, string(w.request.RangeEnd), w.request.StartRevision)
	defer func() {
		cancel()
		for range result.Events { // the backend needs its channel to be read to the end
		}
	}()
	if result.CompactRevision != 0 {
		return &etcdserverpb.WatchResponse{
			Header:          &etcdserverpb.ResponseHeader{Revision: result.CurrentRevision},
			CompactRevision: result.CompactRevision,
			CancelReason:    server.ErrCompacted.Error(),
		}
	}
	if w.request.ProgressNotify {
		s.subscribe(w)
		defer s.unsubscribe(w)
	}
	end = &etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{}}
	var sent int64
	for {
		response := &etcdserverpb.WatchResponse{WatchId: w.id}
		select {
		case events, open := <-result.Events:
			if !open {
				select {
				case err := <-result.Errorc:
					end.CancelReason = err.Error()
				default:
				}
				return end
			}
			if len(events) == 0 {
				continue
			}
			sent = events[len(events)-1].KV.ModRevision
			response.Events = toEvents(events)
		case revision := <-w.progress:
			if revision <= sent {
				continue
			}
			sent = revision
		case <-ctx.Done():
			return end
		}
		response.Header = &etcdserverpb.ResponseHeader{Revision: sent}
		if err := w.out.send(response); err != nil {
			return end
		}
	}
}

func (s *watchServer) subscribe(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches[w] = struct{}{}
}

func (s *watchServer) unsubscribe(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watches, w)
}

// reportProgress tells the watches, until ctx ends, which revision they have
// seen everything of. It is the one of an interval ago: by now its events have
// passed all the queues on their way.
func (s *watchServer) reportProgress(ctx context.Context) {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	var settled, told int64
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		current, err := s.backend.CurrentRevision(ctx)
		if err != nil {
			continue
		}
		if settled > told {
			s.mu.Lock()
			watches := maps.Clone(s.watches)
			s.mu.Unlock()
			for w := range watches {
				select {
				case w.progress <- settled:
				default: // busy with events, which say more
				}
			}
			told = settled
		}
		settled = current
	}
}

func toEvents(events []*server.Event) []*mvccpb.Event {
	out := make([]*mvccpb.Event, len(events))
	for i, e := range events {
		event := &mvccpb.Event{Kv: toKeyValue(e.KV)}
		if !e.Create {
			event.PrevKv = toKeyValue(e.PrevKV)
		}
		if e.Delete {
			event.Type = mvccpb.DELETE
		}
		out[i] = event
	}
	return out
}

func toKeyValue(kv *server.KeyValue) *mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	out := &mvccpb.KeyValue{
		Key:            []byte(kv.Key),
		Value:          kv.Value,
		Version:        kv.Version,
		Lease:          kv.Lease,
		CreateRevision: kv.CreateRevision,
		ModRevision:    kv.ModRevision,
	}
	if kv.Key == compactStoredKey {
		out.Key = []byte(compactKey)
		out.Version, out.Value = server.DecodeVersion(kv.Value)
	}
	return out
}
