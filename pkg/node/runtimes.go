package node

import (
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Runtime is a container runtime beside runc. A pod chooses it by its
// RuntimeClass, which is in manifests/runtimes.yaml and has the same name.
type Runtime struct {
	Name string
	Type string // containerd's name of the shim
	// Program is the shim, or what containerd's shim for runc runs instead of
	// runc.
	Program string
}

// runcShim runs all that has the command line of runc.
const runcShim = "io.containerd.runc.v2"

// IsShim says whether Program is a shim.
func (r Runtime) IsShim() bool { return r.Type != runcShim }

// knownRuntimes are looked for on each machine. Of two with one name the first
// is taken.
func knownRuntimes() []Runtime {
	known := []Runtime{
		{"crun", runcShim, "crun"},
		{"nvidia", runcShim, "nvidia-container-runtime"},
		{"nvidia-cdi", runcShim, "nvidia-container-runtime.cdi"},
		{"runsc", "io.containerd.runsc.v1", "containerd-shim-runsc-v1"},
		{"kata", "io.containerd.kata.v2", "containerd-shim-kata-v2"},
	}
	for _, wasm := range []string{"lunatic", "slight", "spin", "wasmedge", "wasmer", "wasmtime", "wws"} {
		for _, version := range []string{"v2", "v1"} {
			known = append(known, Runtime{wasm, "io.containerd." + wasm + "." + version, "containerd-shim-" + wasm + "-" + version})
		}
	}
	return known
}

// runtimeDirs are searched for runtimes: where operators that run in the cluster
// put them, the directories of PATH, and those that a service's PATH may lack.
func runtimeDirs() []string {
	return slices.Concat(
		[]string{"/usr/local/nvidia/toolkit", "/opt/kwasm/bin", "/opt/kata/bin"},
		filepath.SplitList(os.Getenv("PATH")),
		[]string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"},
	)
}

// FindRuntimes finds the container runtimes that are on this machine.
func FindRuntimes() []Runtime {
	var found []Runtime
	dirs := runtimeDirs()
	for _, r := range knownRuntimes() {
		if slices.ContainsFunc(found, func(other Runtime) bool { return other.Name == r.Name }) {
			continue
		}
		for _, dir := range dirs {
			if path := filepath.Join(dir, r.Program); filepath.IsAbs(path) && isProgram(path) {
				r.Program = path
				found = append(found, r)
				break
			}
		}
	}
	return found
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil
}
