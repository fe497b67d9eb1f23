package preload

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
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// packaged imports the images of an OCI layout.
type packaged struct {
	layout      string // directory
	prefix      string
	client      *client.Client
	snapshotter string
	log         *slog.Logger
}

// importAll returns the names of the images that are there.
func (p packaged) importAll(ctx context.Context) (there []string, err error) {
	manifests, err := readLayout(p.layout)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, manifest := range manifests {
		for _, name := range names(manifest, p.prefix) {
			began := time.Now()
			imported, err := p.importOne(ctx, name, manifest)
			if err != nil {
				errs = append(errs, fmt.Errorf("image %s: %w", name, err))
				continue
			}
			there = append(there, name)
			if imported {
				p.log.Info("imported", "image", name, "took", time.Since(began).Round(time.Millisecond))
			}
		}
	}
	return there, errors.Join(errs...)
}

// readLayout lists the images of an OCI layout.
func readLayout(dir string) ([]ocispec.Descriptor, error) {
	data, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	return index.Manifests, nil
}

// names are what a packaged image is known by.
func names(manifest ocispec.Descriptor, prefix string) []string {
	name := manifest.Annotations[images.AnnotationImageName]
	if prefix == "" {
		return []string{name}
	}
	return []string{name, prefix + "/" + name}
}

// importOne makes sure that the image is there, unpacked and pinned.
func (p packaged) importOne(ctx context.Context, name string, manifest ocispec.Descriptor) (imported bool, err error) {
	store := p.client.ImageService()
	current, err := store.Get(ctx, name)
	switch {
	case err == nil && current.Target.Digest == manifest.Digest:
		unpacked, err := client.NewImage(p.client, current).IsUnpacked(ctx, p.snapshotter)
		if err != nil {
			return false, err
		}
		if unpacked {
			return false, pin(ctx, store, current)
		}
	case err != nil && !errdefs.IsNotFound(err):
		return false, err
	}

	ctx, done, err := p.client.WithLease(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	target := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: manifest.Digest, Size: manifest.Size, Platform: manifest.Platform}
	if err := p.copyContent(ctx, p.client.ContentStore(), target); err != nil {
		return false, err
	}
	image := images.Image{Name: name, Target: target, Labels: maps.Clone(pinned)}
	if _, err = store.Create(ctx, image); errdefs.IsAlreadyExists(err) {
		_, err = store.Update(ctx, image)
	}
	if err != nil {
		return false, err
	}
	return true, client.NewImage(p.client, image).Unpack(ctx, p.snapshotter)
}

// copyContent puts a manifest and all it refers to into the content store,
// with the labels that keep garbage collection off the parts.
func (p packaged) copyContent(ctx context.Context, store content.Store, root ocispec.Descriptor) error {
	copyBlob := images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		blob, err := os.Open(filepath.Join(p.layout, "blobs", desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
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
