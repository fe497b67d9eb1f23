// Package preload puts images into containerd before a pod asks for them: the
// packaged ones, and those that an administrator puts into a directory, as
// archives or as lists of references to pull.
package preload

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kedge-k8s/kedge/pkg/component"
)

// criNamespace is containerd's namespace of the images and containers that
// Kubernetes sees.
const criNamespace = "k8s.io"

// Config is what images come from, and where they go.
type Config struct {
	Layout string // OCI layout of the packaged images
	// Prefix is put before the names of packaged images, which then have both
	// names; empty: none.
	Prefix      string
	Dir         string // of archives and lists
	StateFile   string // remembers what was imported
	Socket      string // containerd's
	Snapshotter string
	Log         *slog.Logger
}

// Images puts images into containerd, as a component. It delays nothing: pods
// whose images are still missing are tried again by the kubelet.
type Images struct {
	config   Config
	run      component.Runner
	settled  chan struct{} // closed: the packaged images are there, or can't be imported
	packaged []string      // those that are there, once settled
}

// New makes the component.
func New(c Config) *Images {
	c.Log = c.Log.With("component", "images")
	return &Images{config: c, settled: make(chan struct{})}
}

func (*Images) Name() string { return "images" }

// Needs puts the imports after the work that the node waits for.
func (*Images) Needs() []string                  { return []string{"containerd", "kubelet"} }
func (i *Images) Stop(ctx context.Context) error { return i.run.Stop(ctx) }

// Start begins the imports in the background.
func (i *Images) Start(context.Context) error {
	i.run.Run(func(ctx context.Context) error {
		if err := i.work(ctx); err != nil && ctx.Err() == nil {
			i.config.Log.Error("images can't be imported", "err", err)
		}
		<-ctx.Done()
		return nil
	})
	return nil
}

func (i *Images) work(ctx context.Context) error {
	settled := sync.OnceFunc(func() { close(i.settled) })
	defer settled()
	containerd, err := client.New(i.config.Socket, client.WithDefaultNamespace(criNamespace))
	if err != nil {
		return err
	}
	defer func() { _ = containerd.Close() }()
	runtime, err := grpc.NewClient("unix://"+i.config.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = runtime.Close() }()
	ctx = namespaces.WithNamespace(ctx, criNamespace)

	packaged := packaged{layout: i.config.Layout, prefix: i.config.Prefix, client: containerd, snapshotter: i.config.Snapshotter, log: i.config.Log}
	if i.packaged, err = packaged.importAll(ctx); err != nil && ctx.Err() == nil {
		i.config.Log.Error("importing the packaged images failed", "err", err)
	}
	settled()
	d := directory{
		path:      i.config.Dir,
		stateFile: i.config.StateFile,
		store:     containerdStore{client: containerd, runtime: cri.NewImageServiceClient(runtime), snapshotter: i.config.Snapshotter},
		settle:    settle,
		retry:     retry,
		log:       i.config.Log,
	}
	if err := d.run(ctx); err != nil {
		return fmt.Errorf("directory of images %s: %w", i.config.Dir, err)
	}
	return nil
}
