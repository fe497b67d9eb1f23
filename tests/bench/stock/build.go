package stock

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kedge-k8s/kedge/tests/bench/program"
)

// Programs is what the stock stack is run from.
type Programs struct {
	Dir     string // of the stack's own programs
	Runtime string // of runc, its shim, the CNI plugins and nft, which Kedge has too
	Images  string // archive of the images that Kedge has too
	AddOns  string // name of the add-ons' image in there
}

// packages are those of the programs; the last part is the program's name.
func packages() []string {
	return []string{
		"k8s.io/kubernetes/cmd/kube-apiserver",
		"k8s.io/kubernetes/cmd/kube-controller-manager",
		"k8s.io/kubernetes/cmd/kube-proxy",
		"k8s.io/kubernetes/cmd/kube-scheduler",
		"k8s.io/kubernetes/cmd/kubelet",
		"github.com/containerd/containerd/v2/cmd/containerd",
		"github.com/containerd/containerd/v2/cmd/ctr",
		"./tests/bench/stock/etcd",
	}
}

// Build builds the stack below the build directory of the repository.
func Build(ctx context.Context, root string, progress io.Writer) (Programs, error) {
	build := filepath.Join(root, "build")
	p := Programs{
		Dir:     filepath.Join(build, "stock"),
		Runtime: filepath.Join(build, "payload", "bin"),
		Images:  filepath.Join(build, "stock", "images.tar"),
	}
	if err := program.Build(ctx, root, p.Dir, progress, packages()...); err != nil {
		return p, err
	}
	layout := filepath.Join(build, "images")
	var err error
	if p.AddOns, err = addOnsImage(layout); err != nil {
		return p, err
	}
	return p, archive(layout, p.Images)
}

// addOnsImage finds the name of the add-ons' image in an OCI layout.
func addOnsImage(layout string) (string, error) {
	file := filepath.Join(layout, "index.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var index struct {
		Manifests []struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	for _, manifest := range index.Manifests {
		if name := manifest.Annotations["io.containerd.image.name"]; strings.Contains(name, "/addons:") {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s has no image of the add-ons", file)
}

// archive packs a directory as ctr takes it.
func archive(dir, target string) (err error) {
	file, err := os.Create(target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := tar.NewWriter(file)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return fmt.Errorf("pack %s: %w", dir, err)
	}
	return w.Close()
}
