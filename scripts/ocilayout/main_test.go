package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// inputs writes stand-ins for the programs.
func inputs(t *testing.T) input {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"pause": "a small program", "addons": strings.Repeat("a large program ", 10000), "ca": "certificates",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return input{
		pause:        filepath.Join(dir, "pause"),
		addons:       filepath.Join(dir, "addons"),
		certificates: filepath.Join(dir, "ca"),
		version:      "v1.2.3+kedge4",
		arch:         "amd64",
	}
}

// needZstd skips the test where layers can't be compressed.
func needZstd(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Skip("no zstd program")
	}
}

func build(t *testing.T, in input) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "images")
	if err := run(context.Background(), out, in); err != nil {
		t.Fatal(err)
	}
	return out
}

// layout reads a layout back, and checks all that it reads.
type layout struct {
	*testing.T
	dir  string
	used map[string]bool // blobs
}

func (l layout) decode(content []byte, into any) {
	l.Helper()
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		l.Fatal(err)
	}
}

func (l layout) file(name string) []byte {
	l.Helper()
	content, err := os.ReadFile(filepath.Join(l.dir, name))
	if err != nil {
		l.Fatal(err)
	}
	return content
}

func (l layout) blob(d v1.Descriptor) []byte {
	l.Helper()
	name := filepath.Join("blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())
	content := l.file(name)
	if got := digest.FromBytes(content); got != d.Digest {
		l.Errorf("%s: digest of the content is %s", name, got)
	}
	if int64(len(content)) != d.Size {
		l.Errorf("%s: size %d, descriptor says %d", name, len(content), d.Size)
	}
	l.used[name] = true
	return content
}

// unpack returns the archive of a layer.
func (l layout) unpack(d v1.Descriptor) []byte {
	l.Helper()
	content := l.blob(d)
	switch d.MediaType {
	case v1.MediaTypeImageLayer:
		return content
	case v1.MediaTypeImageLayerZstd:
		decoder, err := zstd.NewReader(nil)
		if err != nil {
			l.Fatal(err)
		}
		defer decoder.Close()
		archive, err := decoder.DecodeAll(content, nil)
		if err != nil {
			l.Fatal(err)
		}
		return archive
	}
	l.Fatalf("layer of media type %s", d.MediaType)
	return nil
}

// entries describes the files of an archive, a line each.
func (l layout) entries(archive []byte) []string {
	l.Helper()
	var lines []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			l.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			l.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.ModTime.Unix() != 0 {
			l.Errorf("%s: owner %d:%d, time %s; want root and the epoch", header.Name, header.Uid, header.Gid, header.ModTime)
		}
		line := fmt.Sprintf("%c %o %s %d", header.Typeflag, header.Mode, header.Name, len(content))
		if header.Linkname != "" {
			line += " -> " + header.Linkname
		}
		lines = append(lines, line)
	}
}

func TestLayout(t *testing.T) {
	want := []struct {
		name, user, entrypoint string
		entries                []string
	}{
		{"kedge.io/pause:1", "65535:65535", "/pause", []string{"0 755 pause 15"}},
		{"kedge.io/addons:v1.2.3-kedge4", "65532:65532", "/addons", []string{
			"0 755 addons 160000",
			"2 777 coredns 0 -> /addons",
			"2 777 metrics-server 0 -> /addons",
			"5 755 etc/ 0",
			"0 644 etc/group 27",
			"0 644 etc/passwd 78",
			"5 755 etc/ssl/ 0",
			"5 755 etc/ssl/certs/ 0",
			"0 644 etc/ssl/certs/ca-certificates.crt 12",
			"5 1777 tmp/ 0",
		}},
	}
	for level, mediaType := range map[int]string{0: v1.MediaTypeImageLayer, 3: v1.MediaTypeImageLayerZstd} {
		t.Run(mediaType, func(t *testing.T) {
			in := inputs(t)
			if in.level = level; level > 0 {
				needZstd(t)
			}
			l := layout{T: t, dir: build(t, in), used: map[string]bool{"oci-layout": true, "index.json": true}}

			var mark v1.ImageLayout
			if l.decode(l.file("oci-layout"), &mark); mark.Version != "1.0.0" {
				t.Errorf("layout version %q", mark.Version)
			}
			var index v1.Index
			l.decode(l.file("index.json"), &index)
			if index.SchemaVersion != 2 || index.MediaType != v1.MediaTypeImageIndex || len(index.Manifests) != len(want) {
				t.Fatalf("index %+v: want %d images", index, len(want))
			}

			for i, d := range index.Manifests {
				if d.MediaType != v1.MediaTypeImageManifest || d.Platform == nil || d.Platform.Architecture != "amd64" {
					t.Errorf("descriptor %+v: want a manifest for amd64", d)
				}
				for _, key := range []string{"org.opencontainers.image.ref.name", "io.containerd.image.name"} {
					if d.Annotations[key] != want[i].name {
						t.Errorf("%s is %q, want %q", key, d.Annotations[key], want[i].name)
					}
				}
				var manifest v1.Manifest
				l.decode(l.blob(d), &manifest)
				if len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != mediaType || manifest.SchemaVersion != 2 {
					t.Fatalf("manifest %+v: want one layer of type %s", manifest, mediaType)
				}
				archive := l.unpack(manifest.Layers[0])
				if got := l.entries(archive); !slices.Equal(got, want[i].entries) {
					t.Errorf("%s holds\n%s\nwant\n%s", want[i].name, strings.Join(got, "\n"), strings.Join(want[i].entries, "\n"))
				}

				var config v1.Image
				l.decode(l.blob(manifest.Config), &config)
				if ids := config.RootFS.DiffIDs; len(ids) != 1 || ids[0] != digest.FromBytes(archive) || config.RootFS.Type != "layers" {
					t.Errorf("rootfs %+v: want the digest of the layer's archive, %s", config.RootFS, digest.FromBytes(archive))
				}
				if config.OS != "linux" || config.Architecture != "amd64" || config.Variant != "" {
					t.Errorf("platform %+v", config.Platform)
				}
				if c := config.Config; c.User != want[i].user || !slices.Equal(c.Entrypoint, []string{want[i].entrypoint}) || !slices.Equal(c.Env, []string{"PATH=/"}) {
					t.Errorf("config %+v", c)
				}
			}

			err := filepath.WalkDir(l.dir, func(path string, entry fs.DirEntry, err error) error {
				if name, _ := filepath.Rel(l.dir, path); err == nil && !entry.IsDir() && !l.used[name] {
					t.Errorf("nothing refers to %s", name)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSameInputSameDigests(t *testing.T) {
	needZstd(t)
	in := inputs(t)
	in.level = 3
	first, err := os.ReadFile(filepath.Join(build(t, in), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	// The same content in other files, of another age and mode.
	in.pause += ".copy"
	if err := os.WriteFile(in.pause, []byte("a small program"), 0o700); err != nil { //nolint:gosec // of no use to anybody
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(build(t, in), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("the index was\n%s\nand is\n%s", first, second)
	}
}

func TestPauseOutlivesVersions(t *testing.T) {
	in := inputs(t)
	digestOf := func() digest.Digest {
		l := layout{T: t, dir: build(t, in)}
		var index v1.Index
		l.decode(l.file("index.json"), &index)
		return index.Manifests[0].Digest
	}
	before := digestOf()
	in.version = "v1.2.4+kedge1"
	if after := digestOf(); before != after {
		t.Errorf("pause's digest was %s and is %s with another version of Kedge", before, after)
	}
}

func TestReplacesWhatWasThere(t *testing.T) {
	in := inputs(t)
	out := build(t, in)
	stale := filepath.Join(out, "stale")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(context.Background(), out, in); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", stale, err)
	}
	if left, err := filepath.Glob(out + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestPlatforms(t *testing.T) {
	for arch, want := range map[string]v1.Platform{
		"arm64": {OS: "linux", Architecture: "arm64", Variant: "v8"},
		"armv7": {OS: "linux", Architecture: "arm", Variant: "v7"},
	} {
		got, err := platformOf(arch)
		if err != nil || got.OS != want.OS || got.Architecture != want.Architecture || got.Variant != want.Variant {
			t.Errorf("%s: got %+v, %v, want %+v", arch, got, err, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, change := range map[string]func(*input){
		"architecture": func(in *input) { in.arch = "sparc" },
		"no version":   func(in *input) { in.version = "" },
		"no program":   func(in *input) { in.addons += ".gone" },
		"level":        func(in *input) { in.level = 22 },
	} {
		t.Run(name, func(t *testing.T) {
			in := inputs(t)
			change(&in)
			out := filepath.Join(t.TempDir(), "images")
			if err := run(context.Background(), out, in); err == nil {
				t.Error("accepted")
			}
			if left, err := filepath.Glob(out + "*"); err != nil || len(left) > 0 {
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
}
