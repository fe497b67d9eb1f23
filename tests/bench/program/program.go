// Package program builds the programs that take part in the measures.
package program

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds packages below the build directory of the repository at root, from
// the same modules and in the same way as the Kedge that is there. What is up to
// date isn't built again.
func Build(ctx context.Context, root, dir string, progress io.Writer, packages ...string) error {
	args, env, err := asBuilt(filepath.Join(root, "build", "bin", "kedge"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args = append(args, "-buildvcs=false", "-o", dir+"/")
	//nolint:gosec // it runs go
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, args...), packages...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = progress, progress
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", strings.Join(packages, ", "), err)
	}
	return nil
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
