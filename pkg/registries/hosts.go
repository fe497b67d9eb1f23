package registries

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

const (
	// mark begins the files that are written here. Others are the user's own.
	mark      = "# Written by Kedge from registries.yaml: changes are lost at the next start.\n"
	hostsFile = "hosts.toml"
	// defaultDir is containerd's for registries without a directory.
	defaultDir = "_default"
)

// registries are those that containerd needs a file for, sorted.
func (c Config) registries() []string {
	// Also one without an endpoint: it doesn't use those of "*".
	names := slices.Collect(maps.Keys(c.mirrors))
	for name, host := range c.hosts {
		if slices.Contains(dockerHub, name) {
			name = "docker.io"
		}
		if host.tls != (tlsFiles{}) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// hostsDir is the directory in which containerd looks for a registry first.
func hostsDir(registry string) string {
	if registry == all {
		return defaultDir
	}
	if i := strings.LastIndex(registry, ":"); i > strings.LastIndex(registry, "]") {
		return registry[:i] + "_" + registry[i+1:] + "_"
	}
	return registry
}

// hostsFile says where the images of a registry are asked for. containerd comes
// to the registry itself at last.
func (c Config) hostsFile(registry string) []byte {
	endpoints := c.mirrorOf(registry).endpoints
	var b bytes.Buffer
	b.WriteString(mark)
	// Without this a registry that has no TLS would be asked once more, with TLS.
	if last := len(endpoints) - 1; last >= 0 && isRegistry(endpoints[last].host, registry) {
		fmt.Fprintf(&b, "server = %q\n", endpoints[last].url)
		endpoints[last].write(&b)
		endpoints = endpoints[:last]
	}
	c.host(registry).tls.write(&b)
	for _, e := range endpoints {
		fmt.Fprintf(&b, "\n[host.%q]\n", e.url)
		fmt.Fprintln(&b, `capabilities = ["pull", "resolve"]`)
		e.write(&b)
		c.host(e.host).tls.write(&b)
	}
	return b.Bytes()
}

func isRegistry(host, registry string) bool {
	return host == registry || slices.Contains(dockerHub, host) && slices.Contains(dockerHub, registry)
}

func (e endpoint) write(to io.Writer) {
	if e.ownPath {
		fmt.Fprintln(to, "override_path = true")
	}
}

func (f tlsFiles) write(to io.Writer) {
	if f.ca != "" {
		fmt.Fprintf(to, "ca = %q\n", f.ca)
	}
	if f.cert != "" {
		fmt.Fprintf(to, "client = [[%q, %q]]\n", f.cert, f.key)
	}
	if f.skipVerify {
		fmt.Fprintln(to, "skip_verify = true")
	}
}

// Check refuses a directory in which registries of the file have settings that
// are not written here.
func (c Config) Check(dir string) error {
	for _, registry := range c.registries() {
		// containerd takes the first that is there.
		for _, name := range []string{hostsDir(registry), registry} {
			foreign, err := isForeign(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			if foreign {
				return fmt.Errorf("%s: %s: %s holds settings of your own for it; remove the directory or the entry", c.path, registry, filepath.Join(dir, name))
			}
		}
	}
	return nil
}

// Write brings the directory to what the file says. Directories that are not
// written here stay as they are.
func (c Config) Write(dir string) error {
	if err := c.Check(dir); err != nil {
		return err
	}
	var dirs []string
	for _, registry := range c.registries() {
		name := hostsDir(registry)
		dirs = append(dirs, name)
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
		if _, err := atomicfile.Update(filepath.Join(dir, name, hostsFile), c.hostsFile(registry), 0o600); err != nil {
			return err
		}
	}
	return removeOthers(dir, dirs)
}

// removeOthers removes what was written here into directories that no longer
// belong to a registry of the file.
func removeOthers(dir string, stay []string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if slices.Contains(stay, entry.Name()) {
			continue
		}
		path := filepath.Join(dir, entry.Name(), hostsFile)
		own, err := isOwn(path)
		if err != nil {
			return err
		}
		if !own {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		// A directory with something else in it stays.
		_ = os.Remove(filepath.Dir(path))
	}
	return nil
}

// isForeign says whether a registry's directory holds what is not written here.
func isForeign(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") { // left by a write that a power cut ended
			continue
		}
		own, err := isOwn(filepath.Join(dir, hostsFile))
		return !own, err
	}
	return false, nil
}

// isOwn says whether a file is there and is written here.
func isOwn(path string) (bool, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	return bytes.HasPrefix(content, []byte(mark)), err
}
