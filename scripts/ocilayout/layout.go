package main

import (
	"context"
	_ "crypto/sha256" // for digests
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// containerdName is the annotation by which containerd names an imported image.
const containerdName = "io.containerd.image.name"

// image is an image of one layer.
type image struct {
	name   string // full reference with tag
	files  []file
	config v1.ImageConfig
}

// writer writes an OCI image layout to dir, which exists and is empty.
type writer struct {
	dir      string
	platform v1.Platform
	level    int // of zstd
	index    []v1.Descriptor
}

func (w *writer) add(ctx context.Context, image image) error {
	archive, err := pack(image.files)
	if err != nil {
		return err
	}
	stored, mediaType, err := compress(ctx, archive, w.level)
	if err != nil {
		return err
	}
	layer, err := w.blob(mediaType, stored)
	if err != nil {
		return err
	}
	epoch := time.Unix(0, 0).UTC()
	config, err := w.jsonBlob(v1.MediaTypeImageConfig, v1.Image{
		Created:  &epoch,
		Platform: w.platform,
		Config:   image.config,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(archive)}},
		History:  []v1.History{{Created: &epoch, CreatedBy: "kedge"}},
	})
	if err != nil {
		return err
	}
	manifest, err := w.jsonBlob(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    config,
		Layers:    []v1.Descriptor{layer},
	})
	if err != nil {
		return err
	}
	manifest.Platform = &w.platform
	manifest.Annotations = map[string]string{
		v1.AnnotationRefName: image.name,
		containerdName:       image.name,
	}
	w.index = append(w.index, manifest)
	return nil
}

// finish writes what makes the blobs a layout.
func (w *writer) finish() error {
	mark, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := w.write(v1.ImageLayoutFile, mark); err != nil {
		return err
	}
	index, err := json.MarshalIndent(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: w.index,
	}, "", "  ")
	if err != nil {
		return err
	}
	return w.write(v1.ImageIndexFile, index)
}

func (w *writer) jsonBlob(mediaType string, value any) (v1.Descriptor, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return w.blob(mediaType, content)
}

func (w *writer) blob(mediaType string, content []byte) (v1.Descriptor, error) {
	sum := digest.FromBytes(content)
	err := w.write(filepath.Join(v1.ImageBlobsDir, sum.Algorithm().String(), sum.Encoded()), content)
	return v1.Descriptor{MediaType: mediaType, Digest: sum, Size: int64(len(content))}, err
}

func (w *writer) write(name string, content []byte) error {
	name = filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, content, 0o644) //nolint:gosec // images are public
}
