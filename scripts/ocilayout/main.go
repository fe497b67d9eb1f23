// Command ocilayout writes the container images that travel inside Kedge as one OCI
// image layout. The same input gives the same digests: owners, times and the order
// of everything are fixed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	var in input
	out := flag.String("out", "build/images", "`directory` to write the layout to; what was there is replaced")
	flag.StringVar(&in.pause, "pause", "build/bin/pause", "pause `program`")
	flag.StringVar(&in.addons, "addons", "build/bin/addons", "add-ons' `program`")
	flag.StringVar(&in.certificates, "ca", "/etc/ssl/certs/ca-certificates.crt", "`file` with the certificates that the add-ons trust")
	flag.StringVar(&in.version, "version", "", "Kedge's `version`, such as v1.36.3+kedge1; with - for + it is the add-ons' tag")
	flag.StringVar(&in.arch, "arch", "amd64", "`architecture`: amd64, arm64 or armv7")
	flag.IntVar(&in.level, "zstd", 19, "`level` that layers are compressed with, 1 to 19; 0: not compressed")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out, in); err != nil {
		fmt.Fprintln(os.Stderr, "ocilayout:", err)
		os.Exit(1)
	}
}

// input is what the images are made of.
type input struct {
	pause, addons, certificates string // files
	version, arch               string
	level                       int // of zstd
}

func run(ctx context.Context, out string, in input) error {
	platform, err := platformOf(in.arch)
	if err != nil {
		return err
	}
	images, err := in.images()
	if err != nil {
		return err
	}

	out = filepath.Clean(out)
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(out), filepath.Base(out)+".")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	w := writer{dir: tmp, platform: platform, level: in.level}
	for _, image := range images {
		if err := w.add(ctx, image); err != nil {
			return fmt.Errorf("image %s: %w", image.name, err)
		}
	}
	if err := w.finish(); err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	return os.Rename(tmp, out)
}

func platformOf(arch string) (v1.Platform, error) {
	switch arch {
	case "amd64":
		return v1.Platform{OS: "linux", Architecture: "amd64"}, nil
	case "arm64":
		return v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, nil
	case "armv7":
		return v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, nil
	}
	return v1.Platform{}, fmt.Errorf("architecture %q: want amd64, arm64 or armv7", arch)
}

// images reads the programs and says what images they make.
func (in input) images() ([]image, error) {
	if in.version == "" {
		return nil, fmt.Errorf("no -version")
	}
	read := make(map[string][]byte)
	for _, file := range []string{in.pause, in.addons, in.certificates} {
		content, err := os.ReadFile(file) //nolint:gosec // the files are the program's arguments
		if err != nil {
			return nil, err
		}
		read[file] = content
	}
	labels := func(title, description string) map[string]string {
		return map[string]string{
			v1.AnnotationTitle:       title,
			v1.AnnotationDescription: description,
			v1.AnnotationVersion:     in.version,
			v1.AnnotationLicenses:    "Apache-2.0",
			v1.AnnotationSource:      "https://github.com/kedge-k8s/kedge",
			v1.AnnotationVendor:      "Kedge",
		}
	}
	path := []string{"PATH=/"}

	pauseLabels := labels("pause", "holds a pod's namespaces open")
	// The image stays the same while pause does, whatever Kedge's version.
	pauseLabels[v1.AnnotationVersion] = "1"
	return []image{
		{
			name:  "kedge.io/pause:1",
			files: []file{{name: "pause", mode: 0o755, content: read[in.pause]}},
			config: v1.ImageConfig{
				User:       "65535:65535",
				Env:        path,
				Entrypoint: []string{"/pause"},
				WorkingDir: "/",
				Labels:     pauseLabels,
			},
		},
		{
			name: "kedge.io/addons:" + strings.ReplaceAll(in.version, "+", "-"),
			files: []file{
				{name: "addons", mode: 0o755, content: read[in.addons]},
				{name: "coredns", link: "/addons"},
				{name: "metrics-server", link: "/addons"},
				{name: "etc/", mode: 0o755},
				{name: "etc/group", mode: 0o644, content: []byte("root:x:0:\nnonroot:x:65532:\n")},
				{name: "etc/passwd", mode: 0o644, content: []byte("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")},
				{name: "etc/ssl/", mode: 0o755},
				{name: "etc/ssl/certs/", mode: 0o755},
				{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, content: read[in.certificates]},
				{name: "tmp/", mode: 0o1777},
			},
			config: v1.ImageConfig{
				User:       "65532:65532",
				Env:        path,
				Entrypoint: []string{"/addons"},
				WorkingDir: "/",
				Labels:     labels("addons", "Kedge's add-ons in one program: CoreDNS"),
			},
		},
	}, nil
}
