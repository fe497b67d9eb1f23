package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// maxRequest is etcd's own limit of a request with room for what wraps it.
const maxRequest = 2 << 20

// emulatedVersion is the etcd that kine answers as: the last one without
// reliable watch progress requests. Above it the apiserver serves consistent
// lists from its watch cache, after waiting for kine's next progress report, up
// to 200 ms (at start-up, seconds); below it they are read from SQLite at once.
const emulatedVersion = "3.5.12"

// kineConfig has the values of kine's own command line: its library has no
// defaults.
func kineConfig() *drivers.Config {
	return &drivers.Config{
		CompactTimeout:   5 * time.Second,
		CompactMinRetain: 1000,
		CompactBatchSize: 1000,
		PollBatchSize:    500,
	}
}

// bridge serves a database as etcd, through kine.
type bridge struct {
	socket string
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Endpoint is the etcd endpoint that the apiserver is given.
func (b *bridge) Endpoint() string { return "unix://" + b.socket }

func (*bridge) Name() string    { return "datastore" }
func (*bridge) Needs() []string { return nil }

// open opens a database that is closed when ctx has ended and wg is done.
type open func(ctx context.Context, wg *sync.WaitGroup) (server.Backend, error)

// serve does what kine's own endpoint does, with Kedge's watch server, until
// stop.
func (b *bridge) serve(open open) error {
	life, cancel := context.WithCancel(context.Background())
	if err := b.listenAndServe(life, open); err != nil {
		cancel()
		return err
	}
	b.cancel = cancel
	return nil
}

func (b *bridge) listenAndServe(life context.Context, open open) error {
	backend, err := open(life, &b.wg)
	if err != nil {
		return err
	}
	backend = candid{backend}
	if err := backend.Start(life); err != nil {
		return err
	}
	listener, err := b.listen(life)
	if err != nil {
		return err
	}
	watches := newWatchServer(backend)
	bridge := server.New(backend, "unix", time.Hour, emulatedVersion) // the interval is that of its own watch server
	g := grpc.NewServer(
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(math.MaxInt32),
	)
	etcdserverpb.RegisterKVServer(g, bridge)
	etcdserverpb.RegisterLeaseServer(g, bridge)
	etcdserverpb.RegisterClusterServer(g, bridge)
	etcdserverpb.RegisterMaintenanceServer(g, bridge)
	etcdserverpb.RegisterWatchServer(g, watches)
	b.wg.Go(func() { watches.reportProgress(life) })
	b.wg.Go(func() { _ = g.Serve(listener) })
	b.wg.Go(func() {
		<-life.Done()
		g.Stop()
	})
	return nil
}

// listen opens the socket, for root only, in place of a dead server's.
func (b *bridge) listen(ctx context.Context) (net.Listener, error) {
	if err := os.Remove(b.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", b.socket)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(b.socket, 0o600)
}

// stop ends kine and waits until the database is closed.
func (b *bridge) stop(ctx context.Context) error {
	b.cancel()
	done := make(chan struct{})
	go func() { b.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the database is still in use: %w", ctx.Err())
	}
}
