// Package images makes the container images that the tests run. No registry
// takes part: the programs are Debian's static busybox and upstream's agnhost,
// compiled from the Kubernetes module that go.mod names.
package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Busybox is a name of the image of busybox.
const Busybox = "docker.io/library/busybox:1"

const kubernetes = "k8s.io/kubernetes"

// Image is an image in an archive.
type Image struct {
	Name    string // full reference
	Archive string // tar file in the OCI image layout
}

// Set is the images of the tests.
type Set struct {
	// Busybox has a shell and links for all of busybox's programs.
	Busybox Image
	// Agnhost is upstream's image for its end-to-end tests, on top of Busybox
	// instead of Alpine. The name is upstream's too, version included.
	Agnhost Image
	// AgnhostProgram is the program of Agnhost, to run without a container.
	AgnhostProgram string
}

// Build makes what is missing or older than what it is made from, in the
// directory build of the module at root.
func Build(ctx context.Context, root string) (Set, error) {
	out := filepath.Join(root, "build", "test-images")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return Set{}, err
	}
	base, err := busyboxLayer(ctx)
	if err != nil {
		return Set{}, err
	}
	source, err := output(ctx, root, "go", "list", "-m", "-f", "{{.Dir}}", kubernetes)
	if err != nil {
		return Set{}, err
	}
	source = filepath.Join(source, "test", "images", "agnhost")
	version, err := os.ReadFile(filepath.Join(source, "VERSION"))
	if err != nil {
		return Set{}, err
	}
	program := filepath.Join(root, "build", "agnhost")
	if err := buildAgnhost(ctx, root, program); err != nil {
		return Set{}, err
	}

	path := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	busybox := image{
		Names:  []string{Busybox, "docker.io/library/busybox:latest"},
		Layers: [][]entry{base},
		Config: v1.ImageConfig{Env: path, Cmd: []string{"sh"}},
	}
	agnhost := image{
		Names:  []string{"registry.k8s.io/e2e-test-images/agnhost:" + strings.TrimSpace(string(version))},
		Layers: [][]entry{base, agnhostLayer(source, program)},
		Config: v1.ImageConfig{Env: path, Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}},
	}
	set := Set{
		Busybox:        Image{Busybox, filepath.Join(out, "busybox.tar")},
		Agnhost:        Image{agnhost.Names[0], filepath.Join(out, "agnhost.tar")},
		AgnhostProgram: program,
	}
	recipes, err := filepath.Glob(filepath.Join(root, "tests", "images", "*.go"))
	if err != nil {
		return Set{}, err
	}
	return set, errors.Join(
		busybox.update(set.Busybox.Archive, recipes...),
		agnhost.update(set.Agnhost.Archive, recipes...),
	)
}

// buildAgnhost compiles agnhost, unless it is newer than the module's versions.
func buildAgnhost(ctx context.Context, root, program string) error {
	if newer(program, filepath.Join(root, "go.mod")) {
		return nil
	}
	// The tags and paths are those of Kedge, so that what was compiled for it isn't again.
	cmd := exec.CommandContext(ctx, "nice", "-n", "10", "go", "build", "-trimpath", "-o", program,
		"-tags", "netgo,osusergo,providerless,kustomize_disable_go_plugin_support", "-ldflags", "-s -w", kubernetes+"/test/images/agnhost")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build agnhost: %w\n%s", err, out)
	}
	return nil
}

// update writes the archive unless it is newer than the recipes and all files it
// is made of.
func (i image) update(archive string, recipes ...string) error {
	sources := recipes
	for _, layer := range i.Layers {
		for _, e := range layer {
			if e.File != "" {
				sources = append(sources, e.File)
			}
		}
	}
	if newer(archive, sources...) {
		return nil
	}
	if err := i.archive(archive); err != nil {
		return fmt.Errorf("write %s: %w", archive, err)
	}
	return nil
}

// newer says whether a file was changed after all of the sources.
func newer(file string, sources ...string) bool {
	info, err := os.Stat(file)
	if err != nil {
		return false
	}
	for _, source := range sources {
		of, err := os.Stat(source)
		if err != nil || !info.ModTime().After(of.ModTime()) {
			return false
		}
	}
	return true
}

// busyboxLayer is a small root file system with the machine's static busybox.
func busyboxLayer(ctx context.Context) ([]entry, error) {
	program, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("find busybox (Debian: apt-get install busybox-static): %w", err)
	}
	applets, err := output(ctx, "", program, "--list")
	if err != nil {
		return nil, err
	}
	layer := []entry{
		{Path: "bin/", Mode: 0o755},
		{Path: "bin/busybox", Mode: 0o755, File: program},
	}
	for _, applet := range strings.Fields(applets) {
		if applet != "busybox" {
			layer = append(layer, entry{Path: "bin/" + applet, Link: "busybox"})
		}
	}
	return append(layer,
		entry{Path: "etc/", Mode: 0o755},
		entry{Path: "etc/passwd", Mode: 0o644, Content: "root:x:0:0:root:/root:/bin/sh\n" +
			"user-defined-in-image:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"},
		entry{Path: "etc/group", Mode: 0o644, Content: "root:x:0:\nuser-defined-in-image:x:1000:\n" +
			"group-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n"},
		entry{Path: "home/", Mode: 0o755},
		entry{Path: "root/", Mode: 0o700},
		entry{Path: "tmp/", Mode: 0o1777},
		entry{Path: "usr/", Mode: 0o755},
		entry{Path: "usr/bin/", Mode: 0o755},
		entry{Path: "usr/bin/env", Link: "/bin/env"},
		entry{Path: "var/", Mode: 0o755},
		entry{Path: "var/run/", Mode: 0o755},
		entry{Path: "var/tmp/", Mode: 0o1777},
	), nil
}

// agnhostLayer has what upstream's Dockerfile adds, except Alpine's packages.
func agnhostLayer(source, program string) []entry {
	return []entry{
		{Path: "agnhost", Mode: 0o755, File: program},
		{Path: "agnhost-2", Link: "agnhost"},
		{Path: "localhost.crt", Mode: 0o644, File: filepath.Join(source, "porter", "localhost.crt")},
		{Path: "localhost.key", Mode: 0o644, File: filepath.Join(source, "porter", "localhost.key")},
		{Path: "uploads/", Mode: 0o755},
	}
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		stderr := ""
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			stderr = string(exit.Stderr)
		}
		return "", fmt.Errorf("%s %s: %w %s", name, strings.Join(args, " "), err, stderr)
	}
	return strings.TrimSpace(string(out)), nil
}
