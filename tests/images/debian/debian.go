// Package debian makes container images from Debian packages, for the labs: what
// the labs call mariadb or nginx is Debian's program, started as their makers'
// image starts it. All images share the layer of the image debian.
package debian

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed" // for layer.sh
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"crypto/sha256"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

//go:embed layer.sh
var script string

// Layout is a directory in the OCI image layout. The index names each image with
// the annotation org.opencontainers.image.ref.name, such as library/debian:12.
type Layout string

// builder makes images in build/lab-images of a module.
type builder struct {
	dir  string // the layout
	work string // root file systems and what is known of layers
}

// Build makes the images that are missing or whose recipe has changed, in the
// directory build of the module at root. The first time takes minutes, root's
// rights, and Debian's package archive.
func Build(ctx context.Context, root string) (Layout, error) {
	b := builder{dir: filepath.Join(root, "build", "lab-images", "layout"), work: filepath.Join(root, "build", "lab-images", "work")}
	for _, dir := range []string{filepath.Join(b.dir, "blobs", "sha256"), b.work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	lock, err := os.Open(b.work)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", b.work, err)
	}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	used := map[string]bool{}
	for _, r := range recipes {
		image, manifest, err := b.image(ctx, r)
		if err != nil {
			return "", fmt.Errorf("make the image %s: %w", r.names[0], err)
		}
		for _, d := range append(manifest.Layers, manifest.Config, image) {
			used[d.Digest.Encoded()] = true
		}
		for _, name := range r.names {
			image.Annotations = map[string]string{v1.AnnotationRefName: name}
			index.Manifests = append(index.Manifests, image)
		}
	}
	if err := b.removeOthers(used); err != nil {
		return "", err
	}
	if err := writeJSON(filepath.Join(b.dir, v1.ImageLayoutFile), v1.ImageLayout{Version: v1.ImageLayoutVersion}); err != nil {
		return "", err
	}
	return Layout(b.dir), writeJSON(filepath.Join(b.dir, v1.ImageIndexFile), index)
}

// removeOthers removes blobs that no image has any more.
func (b builder) removeOthers(used map[string]bool) error {
	blobs, err := os.ReadDir(filepath.Join(b.dir, "blobs", "sha256"))
	if err != nil {
		return err
	}
	for _, blob := range blobs {
		if !used[blob.Name()] {
			if err := os.Remove(filepath.Join(b.dir, "blobs", "sha256", blob.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// layer is a layer that was made.
type layer struct {
	Blob   v1.Descriptor
	DiffID digest.Digest // of the tar file before it was compressed
}

func (b builder) image(ctx context.Context, r recipe) (image v1.Descriptor, manifest v1.Manifest, err error) {
	base, err := b.packages(ctx, recipe{})
	if err != nil {
		return image, manifest, err
	}
	layers := []layer{base}
	if len(r.packages) > 0 {
		installed, err := b.packages(ctx, r)
		if err != nil {
			return image, manifest, err
		}
		layers = append(layers, installed)
	}
	if len(r.files) > 0 {
		own, err := b.files(r.files)
		if err != nil {
			return image, manifest, err
		}
		layers = append(layers, own)
	}
	created := time.Unix(0, 0).UTC()
	config := v1.Image{
		Created:  &created,
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   r.config,
		RootFS:   v1.RootFS{Type: "layers"},
	}
	config.Config.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, config.Config.Env...)
	manifest = v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, l := range layers {
		manifest.Layers = append(manifest.Layers, l.Blob)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
	}
	if manifest.Config, err = b.json(v1.MediaTypeImageConfig, config); err != nil {
		return image, manifest, err
	}
	image, err = b.json(v1.MediaTypeImageManifest, manifest)
	image.Platform = &config.Platform
	return image, manifest, err
}

// packages makes the layer with a recipe's packages, or Debian itself if it has
// none, unless it is there.
func (b builder) packages(ctx context.Context, r recipe) (layer, error) {
	id := func(words ...string) string {
		hash := sha256.Sum256([]byte(strings.Join(append(words, script, runtime.GOARCH), "\x00")))
		return hex.EncodeToString(hash[:8])
	}
	root := filepath.Join(b.work, "debian-"+id())
	known := filepath.Join(b.work, id(append(r.packages, r.setup)...)+".json")
	var made layer
	if content, err := os.ReadFile(known); err == nil && json.Unmarshal(content, &made) == nil {
		if info, err := os.Stat(b.blob(made.Blob.Digest)); err == nil && info.Size() == made.Blob.Size {
			return made, nil
		}
	}
	if len(r.packages) == 0 { // made together with its layer
		if err := os.RemoveAll(root); err != nil {
			return made, err
		}
	}
	dir, err := os.MkdirTemp(b.work, "new-")
	if err != nil {
		return made, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	mirror, err := findMirror(ctx)
	if err != nil {
		return made, err
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", script, "layer.sh", dir, root, mirror, r.setup}, r.packages...)...)
	cmd.Stdout, cmd.Stderr = &output, &output
	// What it has started and mounted goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(output.String()), "\n")
		return made, fmt.Errorf("install %s: %w; the last lines:\n%s", strings.Join(r.packages, " "), err, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	content, err := os.Open(filepath.Join(dir, "layer.tar"))
	if err != nil {
		return made, err
	}
	defer func() { _ = content.Close() }()
	if made, err = b.compress(content); err != nil {
		return made, err
	}
	return made, writeJSON(known, made)
}

// files makes a layer of files of our own.
func (b builder) files(files []file) (layer, error) {
	var content bytes.Buffer
	out := tar.NewWriter(&content)
	for _, f := range files {
		body, err := embedded.ReadFile("files/" + f.name)
		if err != nil {
			return layer{}, err
		}
		if err := out.WriteHeader(&tar.Header{Name: f.path, Mode: f.mode, Size: int64(len(body))}); err != nil {
			return layer{}, err
		}
		if _, err := out.Write(body); err != nil {
			return layer{}, err
		}
	}
	if err := out.Close(); err != nil {
		return layer{}, err
	}
	return b.compress(&content)
}

// compress stores a layer.
func (b builder) compress(content io.Reader) (made layer, err error) {
	temporary, err := os.CreateTemp(b.work, "blob-")
	if err != nil {
		return made, err
	}
	defer func() {
		_ = temporary.Close()
		_ = os.Remove(temporary.Name())
	}()
	plain, small := sha256.New(), sha256.New()
	out, err := zstd.NewWriter(io.MultiWriter(temporary, small))
	if err != nil {
		return made, err
	}
	if _, err := io.Copy(io.MultiWriter(out, plain), content); err != nil {
		return made, err
	}
	if err := out.Close(); err != nil {
		return made, err
	}
	info, err := temporary.Stat()
	if err != nil {
		return made, err
	}
	made.DiffID = digest.NewDigest(digest.SHA256, plain)
	made.Blob = v1.Descriptor{MediaType: v1.MediaTypeImageLayerZstd, Digest: digest.NewDigest(digest.SHA256, small), Size: info.Size()}
	return made, os.Rename(temporary.Name(), b.blob(made.Blob.Digest))
}

// json stores a configuration or manifest.
func (b builder) json(mediaType string, content any) (v1.Descriptor, error) {
	encoded, err := json.Marshal(content)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(encoded), Size: int64(len(encoded))}
	return d, os.WriteFile(b.blob(d.Digest), encoded, 0o644)
}

func (b builder) blob(d digest.Digest) string {
	return filepath.Join(b.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

func writeJSON(path string, content any) error {
	encoded, err := json.Marshal(content)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", encoded, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// findMirror asks apt where this machine gets Debian from.
func findMirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--no-release-info",
		"--format", "$(COMPONENT) $(REPO_URI)", "Created-By: Packages", "Origin: Debian").Output()
	if err != nil || len(out) == 0 {
		out, err = exec.CommandContext(ctx, "apt-get", "indextargets", "--no-release-info",
			"--format", "$(COMPONENT) $(REPO_URI)", "Created-By: Packages").Output()
	}
	if err != nil {
		return "", fmt.Errorf("ask apt for its sources: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		component, address, _ := strings.Cut(strings.TrimSpace(line), " ")
		if component == "main" && !strings.Contains(address, "security") {
			return address, nil
		}
	}
	return "", errors.New("apt's sources name no Debian mirror (a line such as: deb ADDRESS bookworm main)")
}

// Open opens a blob of the layout.
func (l Layout) Open(d digest.Digest) (*os.File, error) {
	if d.Validate() != nil {
		return nil, fs.ErrNotExist
	}
	return os.Open(filepath.Join(string(l), "blobs", d.Algorithm().String(), d.Encoded()))
}

// Images are the manifests by the names of the images.
func (l Layout) Images() (map[string]v1.Descriptor, error) {
	content, err := os.ReadFile(filepath.Join(string(l), v1.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(content, &index); err != nil {
		return nil, fmt.Errorf("read the index of %s: %w", l, err)
	}
	images := map[string]v1.Descriptor{}
	for _, m := range index.Manifests {
		images[m.Annotations[v1.AnnotationRefName]] = m
	}
	return images, nil
}
