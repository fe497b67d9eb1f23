package stock

import (
	"archive/tar"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// Build builds the stack below the build directory of the repository, from the
// same modules and in the same way as the Kedge that is there. What is up to date
// isn't built again.
func Build(ctx context.Context, root string, progress io.Writer) (Programs, error) {
	build := filepath.Join(root, "build")
	p := Programs{
		Dir:     filepath.Join(build, "stock"),
		Runtime: filepath.Join(build, "payload", "bin"),
		Images:  filepath.Join(build, "stock", "images.tar"),
	}
	args, env, err := asBuilt(filepath.Join(build, "bin", "kedge"))
	if err != nil {
		return p, err
	}
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return p, err
	}
	args = append(args, "-buildvcs=false", "-o", p.Dir+"/")
	//nolint:gosec // it runs go
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, args...), packages()...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = progress, progress
	if err := cmd.Run(); err != nil {
		return p, fmt.Errorf("build the stock stack: %w", err)
	}
	layout := filepath.Join(build, "images")
	if p.AddOns, err = addOnsImage(layout); err != nil {
		return p, err
	}
	return p, archive(layout, p.Images)
}

// asBuilt returns the arguments and the environment for go build that a program
// was built with, so that all it shares with others comes out of the build
// cache. Versions are stamped as upstream's releases do.
func asBuilt(program string) (args, env []string, err error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, nil, fmt.Errorf("how was Kedge built: %w", err)
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "-tags", "-trimpath":
			args = append(args, setting.Key+"="+setting.Value)
		case "CGO_ENABLED":
			env = append(env, setting.Key+"="+setting.Value)
		}
	}
	env = append(env, "GOFLAGS=")
	versions := map[string]string{}
	for _, dep := range info.Deps {
		versions[dep.Path] = dep.Version
	}
	kubernetes, containerd := versions["k8s.io/kubernetes"], versions["github.com/containerd/containerd/v2"]
	numbers := strings.Split(strings.TrimPrefix(kubernetes, "v"), ".")
	if len(numbers) < 3 || containerd == "" {
		return nil, nil, fmt.Errorf("%s doesn't say which Kubernetes (%q) and containerd (%q) are in it", program, kubernetes, containerd)
	}
	const stamp, version = " -X ", "k8s.io/component-base/version."
	ldflags := "-s -w" +
		stamp + version + "gitVersion=" + kubernetes +
		stamp + version + "gitMajor=" + numbers[0] +
		stamp + version + "gitMinor=" + numbers[1] +
		stamp + "github.com/containerd/containerd/v2/version.Version=" + containerd
	return append(args, "-ldflags="+ldflags), env, nil
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
