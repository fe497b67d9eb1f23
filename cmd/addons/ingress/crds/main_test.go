package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

const manifest = "../../../../manifests/gateway-api.yaml"

// TestManifest finds out that the module has moved on, or that somebody has changed
// what is made.
func TestManifest(t *testing.T) {
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the module has; make it with: go -C cmd/addons run ./ingress/crds", filepath.Base(manifest))
	}
}

// TestExpansion: variables in manifests are replaced, and a $ of a regular
// expression must not be taken for one.
func TestExpansion(t *testing.T) {
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	expanded := os.Expand(string(text), func(name string) string { return "<" + name + ">" })
	if expanded != string(text) {
		t.Error("a $ in the manifest is taken for a variable")
	}
}
