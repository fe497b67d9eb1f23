package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kedge-k8s/kedge/pkg/component"
)

// criNamespace is containerd's namespace of the images and containers that
// Kubernetes sees.
const criNamespace = "k8s.io"

// pinned are the labels that make an image known to the CRI and keep the
// kubelet's garbage collection off it.
var pinned = map[string]string{
	"io.cri-containerd.image":  "managed",
	"io.cri-containerd.pinned": "pinned",
}

// Images imports the payload's images into containerd, in the background.
type Images struct {
	layout      string
	socket      string
	snapshotter string
	log         *slog.Logger
	run         component.Runner
}

// NewImages imports the images of the OCI layout in the directory.
func NewImages(layout, socket, snapshotter string, log *slog.Logger) *Images {
	return &Images{layout: layout, socket: socket, snapshotter: snapshotter, log: log}
}

func (*Images) Name() string    { return "images" }
func (*Images) Needs() []string { return []string{"containerd"} }

// Start begins the import and does not wait for it: pods whose images are
// still missing are retried by the kubelet.
func (i *Images) Start(context.Context) error {
	i.run.Run(func(ctx context.Context) error {
		if err := i.importAll(ctx); err != nil && ctx.Err() == nil {
			i.log.Error("importing the packaged images failed", "component", i.Name(), "err", err)
		}
		<-ctx.Done()
		return nil
	})
	return nil
}

func (i *Images) Stop(ctx context.Context) error { return i.run.Stop(ctx) }

func (i *Images) importAll(ctx context.Context) error {
	data, err := os.ReadFile(filepath.Join(i.layout, ocispec.ImageIndexFile))
	if err != nil {
		return fmt.Errorf("packaged images: %w", err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("packaged images: %s: %w", ocispec.ImageIndexFile, err)
	}
	c, err := client.New(i.socket, client.WithDefaultNamespace(criNamespace))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	ctx = namespaces.WithNamespace(ctx, criNamespace)
	var errs []error
	for _, manifest := range index.Manifests {
		name := manifest.Annotations[images.AnnotationImageName]
		began := time.Now()
		imported, err := i.importOne(ctx, c, name, manifest)
		if err != nil {
			errs = append(errs, fmt.Errorf("image %s: %w", name, err))
			continue
		}
		if imported {
			i.log.Info("imported", "component", i.Name(), "image", name, "took", time.Since(began).Round(time.Millisecond))
		}
	}
	return errors.Join(errs...)
}

// importOne makes sure that the image is there, unpacked and pinned.
func (i *Images) importOne(ctx context.Context, c *client.Client, name string, manifest ocispec.Descriptor) (imported bool, err error) {
	store := c.ImageService()
	current, err := store.Get(ctx, name)
	switch {
	case err == nil && current.Target.Digest == manifest.Digest:
		unpacked, err := client.NewImage(c, current).IsUnpacked(ctx, i.snapshotter)
		if err != nil {
			return false, err
		}
		if unpacked {
			return false, pin(ctx, store, current)
		}
	case err != nil && !errdefs.IsNotFound(err):
		return false, err
	}

	ctx, done, err := c.WithLease(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	target := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: manifest.Digest, Size: manifest.Size, Platform: manifest.Platform}
	if err := i.copyContent(ctx, c.ContentStore(), target); err != nil {
		return false, err
	}
	image := images.Image{Name: name, Target: target, Labels: maps.Clone(pinned)}
	if _, err = store.Create(ctx, image); errdefs.IsAlreadyExists(err) {
		_, err = store.Update(ctx, image)
	}
	if err != nil {
		return false, err
	}
	return true, client.NewImage(c, image).Unpack(ctx, i.snapshotter)
}

func pin(ctx context.Context, store images.Store, image images.Image) error {
	for key, value := range pinned {
		if image.Labels[key] != value {
			image.Labels = maps.Clone(pinned)
			_, err := store.Update(ctx, image, "labels")
			return err
		}
	}
	return nil
}

// copyContent puts a manifest and all it refers to into the content store,
// with the labels that keep garbage collection off the parts.
func (i *Images) copyContent(ctx context.Context, store content.Store, root ocispec.Descriptor) error {
	copyBlob := images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		blob, err := os.Open(filepath.Join(i.layout, "blobs", desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("the payload lacks blob %s", desc.Digest)
		}
		if err != nil {
			return nil, err
		}
		defer func() { _ = blob.Close() }()
		err = content.WriteBlob(ctx, store, "kedge-"+desc.Digest.String(), io.Reader(blob), desc)
		return nil, err
	})
	children := images.SetChildrenLabels(store, images.ChildrenHandler(store))
	children = images.FilterPlatforms(children, platforms.Default())
	return images.Walk(ctx, images.Handlers(copyBlob, children), root)
}
