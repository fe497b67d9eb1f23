package images

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// nameAnnotation holds an image's full name in the index of an archive; it is
// where containerd looks first.
const nameAnnotation = "io.containerd.image.name"

// entry is one file of a layer.
type entry struct {
	Path    string // without a leading slash; a trailing one makes a directory
	Mode    int64
	Link    string // symbolic link to it
	Content string
	File    string // of the machine, instead of Content
}

// image is what an archive is made of.
type image struct {
	Names  []string // full references
	Layers [][]entry
	Config v1.ImageConfig
}

// archive writes the image as a tar file in the OCI image layout. The same
// image always gives the same bytes. Layers aren't compressed: they are read
// once, on the machine that wrote them.
func (i image) archive(path string) (err error) {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".image-")
	if err != nil {
		return err
	}
	defer func() {
		_ = temporary.Close()
		_ = os.Remove(temporary.Name())
	}()
	out := tar.NewWriter(temporary)

	created := time.Unix(0, 0).UTC()
	config := v1.Image{
		Created:  &created,
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   i.Config,
		RootFS:   v1.RootFS{Type: "layers"},
	}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, entries := range i.Layers {
		layer, err := measure(entries)
		if err != nil {
			return err
		}
		if err := out.WriteHeader(blobHeader(layer.Digest, layer.Size)); err != nil {
			return err
		}
		if err := writeLayer(out, entries); err != nil {
			return err
		}
		manifest.Layers = append(manifest.Layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.Digest)
	}
	if manifest.Config, err = writeBlob(out, v1.MediaTypeImageConfig, config); err != nil {
		return err
	}
	descriptor, err := writeBlob(out, v1.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	descriptor.Platform = &config.Platform
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, name := range i.Names {
		named := descriptor
		_, tag, _ := strings.Cut(filepath.Base(name), ":")
		named.Annotations = map[string]string{nameAnnotation: name, v1.AnnotationRefName: tag}
		index.Manifests = append(index.Manifests, named)
	}
	for _, file := range []struct {
		name    string
		content any
	}{
		{v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion}},
		{v1.ImageIndexFile, index},
	} {
		encoded, err := json.Marshal(file.content)
		if err != nil {
			return err
		}
		if err := writeFile(out, &tar.Header{Name: file.name, Mode: 0o644}, encoded); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	if err := temporary.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

func blobHeader(d digest.Digest, size int64) *tar.Header {
	return &tar.Header{Name: v1.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded(), Mode: 0o644, Size: size}
}

func writeBlob(out *tar.Writer, mediaType string, content any) (v1.Descriptor, error) {
	encoded, err := json.Marshal(content)
	if err != nil {
		return v1.Descriptor{}, err
	}
	descriptor := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(encoded), Size: int64(len(encoded))}
	return descriptor, writeFile(out, blobHeader(descriptor.Digest, 0), encoded)
}

func writeFile(out *tar.Writer, header *tar.Header, content []byte) error {
	header.Size = int64(len(content))
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err := out.Write(content)
	return err
}

// measure finds a layer's size and digest, which come before it in the archive.
func measure(entries []entry) (v1.Descriptor, error) {
	count := &counter{hash: sha256.New()}
	if err := writeLayer(count, entries); err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{
		MediaType: v1.MediaTypeImageLayer,
		Digest:    digest.NewDigest(digest.SHA256, count.hash),
		Size:      count.size,
	}, nil
}

type counter struct {
	hash hash.Hash
	size int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.size += int64(len(p))
	return c.hash.Write(p)
}

func writeLayer(to io.Writer, entries []entry) error {
	out := tar.NewWriter(to)
	for _, e := range entries {
		if err := e.write(out); err != nil {
			return fmt.Errorf("layer file %s: %w", e.Path, err)
		}
	}
	return out.Close()
}

func (e entry) write(out *tar.Writer) error {
	header := &tar.Header{Name: e.Path, Mode: e.Mode, Typeflag: tar.TypeReg}
	var content io.Reader = strings.NewReader(e.Content)
	switch {
	case e.Link != "":
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, e.Link, 0o777
	case strings.HasSuffix(e.Path, "/"):
		header.Typeflag = tar.TypeDir
	case e.File != "":
		file, err := os.Open(e.File)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		header.Size, content = info.Size(), file
	default:
		header.Size = int64(len(e.Content))
	}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(out, content)
	return err
}
