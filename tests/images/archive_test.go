package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// read returns the files of a tar archive.
func read(t *testing.T, content []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	for in := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(body) + header.Linkname
	}
}

// blob returns the content that a descriptor describes.
func blob(t *testing.T, files map[string]string, d v1.Descriptor) []byte {
	t.Helper()
	content := []byte(files["blobs/sha256/"+d.Digest.Encoded()])
	if digest.FromBytes(content) != d.Digest || int64(len(content)) != d.Size {
		t.Fatalf("a blob of %d bytes is not what its descriptor %+v says", len(content), d)
	}
	return content
}

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("program"), 0o600); err != nil {
		t.Fatal(err)
	}
	names := []string{"registry.example/one/two:3", "registry.example/one/two:latest"}
	made := image{
		Names: names,
		Layers: [][]entry{
			{{Path: "bin/", Mode: 0o755}, {Path: "bin/program", Mode: 0o755, File: program}},
			{{Path: "bin/link", Link: "program"}, {Path: "text", Mode: 0o644, Content: "text"}},
		},
		Config: v1.ImageConfig{Cmd: []string{"program"}},
	}
	path := filepath.Join(dir, "image.tar")
	if err := made.archive(path); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := read(t, content)

	var index v1.Index
	if err := json.Unmarshal([]byte(files["index.json"]), &index); err != nil || len(index.Manifests) != len(names) {
		t.Fatalf("index %s, error %v", files["index.json"], err)
	}
	for i, name := range names {
		if got := index.Manifests[i].Annotations[nameAnnotation]; got != name {
			t.Errorf("image %d is named %q, want %q", i, got, name)
		}
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(blob(t, files, index.Manifests[0]), &manifest); err != nil {
		t.Fatal(err)
	}
	var config v1.Image
	if err := json.Unmarshal(blob(t, files, manifest.Config), &config); err != nil {
		t.Fatal(err)
	}
	if config.Config.Cmd[0] != "program" || len(config.RootFS.DiffIDs) != 2 || len(manifest.Layers) != 2 {
		t.Errorf("the image is %+v with layers %+v", config, manifest.Layers)
	}
	found := map[string]string{}
	for i, layer := range manifest.Layers {
		if config.RootFS.DiffIDs[i] != layer.Digest {
			t.Errorf("layer %d has the digest %s and, uncompressed, %s", i, layer.Digest, config.RootFS.DiffIDs[i])
		}
		for name, content := range read(t, blob(t, files, layer)) {
			found[name] = content
		}
	}
	for name, want := range map[string]string{"bin/program": "program", "bin/link": "program", "text": "text"} {
		if found[name] != want {
			t.Errorf("%s in the image holds %q, want %q", name, found[name], want)
		}
	}
}

func TestUpdate(t *testing.T) {
	dir := t.TempDir()
	source, recipe := filepath.Join(dir, "source"), filepath.Join(dir, "recipe")
	archive := filepath.Join(dir, "image.tar")
	for _, file := range []string{source, recipe} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := age(file, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	made := image{Names: []string{"a:1"}, Layers: [][]entry{{{Path: "file", File: source}}}}
	for _, step := range []struct {
		name    string
		change  func() error
		rewrite bool
	}{
		{"the first time", func() error { return nil }, true},
		{"with nothing changed", func() error { return nil }, false},
		{"with a newer file in it", func() error { return age(source, -time.Hour) }, true},
		{"with a newer recipe", func() error { return errors.Join(age(source, time.Hour), age(recipe, -time.Hour)) }, true},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Stat(archive)
		if err := made.update(archive, recipe); err != nil {
			t.Fatal(err)
		}
		after, err := os.Stat(archive)
		if err != nil {
			t.Fatal(err)
		}
		if rewritten := before == nil || !os.SameFile(before, after); rewritten != step.rewrite {
			t.Errorf("%s: written anew: %t, want %t", step.name, rewritten, step.rewrite)
		}
	}
	if newer(archive, filepath.Join(dir, "missing")) || newer(filepath.Join(dir, "missing"), source) {
		t.Error("a file that isn't there has an age")
	}
}

// age makes a file as old as that.
func age(file string, old time.Duration) error {
	return os.Chtimes(file, time.Time{}, time.Now().Add(-old))
}
