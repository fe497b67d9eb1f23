package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// files are a kedge file, a program that is not one of Go, and a list of packages.
func files(t *testing.T, packages string) (file, program, list string) {
	t.Helper()
	program, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"kedge-arm64": "the file", "packages": packages} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "kedge-arm64"), program, filepath.Join(dir, "packages")
}

func TestDocument(t *testing.T) {
	file, program, list := files(t, "libseccomp-dev 2.5.4-1+deb12u1 arm64\nlibgmp10 2:6.2.1 arm64\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "sbom")
	args := []string{"-file", file, "-version", "v1.2.3+kedge4", "-arch", "arm64", "-packages", list, "-out", out, self, program}
	var first []byte
	for range 2 {
		if err := run(args); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = content
		}
		if string(content) != string(first) {
			t.Error("the same input gives another document")
		}
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(strings.NewReader(string(first)), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	root := bom.Metadata.Component
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte("the file")))
	if root.PackageURL != "pkg:generic/kedge@v1.2.3%2Bkedge4?arch=arm64" || (*root.Hashes)[0].Value != sum {
		t.Errorf("root component %+v", root)
	}
	var refs []string
	for _, c := range *bom.Components {
		refs = append(refs, c.BOMRef)
	}
	for _, want := range []string{
		"program:" + filepath.Base(self), "program:sh",
		"pkg:deb/debian/libseccomp-dev@2.5.4-1%2Bdeb12u1?arch=arm64", "pkg:deb/debian/libgmp10@2%3A6.2.1?arch=arm64",
	} {
		if !slices.Contains(refs, want) {
			t.Errorf("no component %s in %q", want, refs)
		}
	}
	for _, prefix := range []string{"pkg:golang/stdlib@", "pkg:golang/github.com/CycloneDX/cyclonedx-go@v"} {
		if !slices.ContainsFunc(refs, func(ref string) bool { return strings.HasPrefix(ref, prefix) }) {
			t.Errorf("no component %s… in %q", prefix, refs)
		}
	}
	for _, d := range *bom.Dependencies {
		for _, ref := range *d.Dependencies {
			if !slices.Contains(refs, ref) {
				t.Errorf("%s needs %s, which is no component", d.Ref, ref)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for packages, want := range map[string]string{"libc6 2.36\n": `"libc6 2.36"`, "": ""} {
		file, program, list := files(t, packages)
		err := run([]string{"-file", file, "-version", "v1", "-arch", "arm64", "-packages", list, "-out", file + ".json", program})
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("packages %q: %v", packages, err)
		}
	}
	if err := run([]string{"-file", "/none", "-version", "v1", "-arch", "arm64", "-out", t.TempDir() + "/x", "/none"}); err == nil {
		t.Error("a file that is not there is described")
	}
}
