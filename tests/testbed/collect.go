package testbed

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

var unfit = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// Collect copies what the hosts know to a directory of its own: below the one
// that KEDGE_TEST_LOGS names, or below the one for temporary files. It returns a
// report that names the directory and shows the end of the servers' logs.
func (b *Bed) Collect(name string) (report string, err error) {
	top := os.Getenv("KEDGE_TEST_LOGS")
	if top == "" {
		top = os.TempDir()
	}
	if err := os.MkdirAll(top, 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(top, "kedge-"+unfit.ReplaceAllString(name, "_")+"-")
	if err != nil {
		return "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "collected in %s", dir)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, host := range b.hosts {
		host.collect(filepath.Join(dir, host.Name))
		if len(host.started) > 0 {
			last := host.started[len(host.started)-1]
			fmt.Fprintf(&text, "\nthe last lines of kedge %s on host %s (running: %t):\n%s",
				strings.Join(last.Args, " "), host.Name, last.Running(), tail(last.LogFile, 40))
		}
	}
	return text.String(), nil
}

// collect writes what can be had; one thing that can't be is no reason to leave
// out the others, and its error stands in its place.
func (h *Host) collect(dir string) {
	_ = os.CopyFS(filepath.Join(dir, "logs"), os.DirFS(h.logs()))
	if h.space == nil {
		return
	}
	pods := h.Path("/var/log/pods")
	_ = filepath.WalkDir(pods, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // the next file may be there
		}
		target := filepath.Join(dir, "pods", strings.TrimPrefix(path, pods))
		if content, err := os.ReadFile(path); err == nil && os.MkdirAll(filepath.Dir(target), 0o755) == nil {
			_ = os.WriteFile(target, content, 0o644)
		}
		return nil
	})
	commands := map[string][]string{
		"mounts.txt":    {"cat", "/proc/mounts"},
		"processes.txt": {"ps", "-ef"},
		"addresses.txt": {"ip", "address"},
		"routes.txt":    {"ip", "route"},
		"nftables.txt":  {"nft", "list", "ruleset"},
	}
	if len(h.started) > 0 {
		commands["objects.txt"] = []string{h.Binary, "kubectl", "get", "all", "-A", "-o", "wide"}
		commands["events.txt"] = []string{h.Binary, "kubectl", "get", "events", "-A", "--sort-by=.lastTimestamp"}
		commands["nodes.txt"] = []string{h.Binary, "kubectl", "describe", "nodes"}
		commands["pods.yaml"] = []string{h.Binary, "kubectl", "get", "pods", "-A", "-o", "yaml"}
	}
	for name, command := range commands {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		result, err := h.Run(ctx, nil, command[0], command[1:]...)
		cancel()
		content := result.Stdout + result.Stderr
		if err != nil {
			content += err.Error()
		}
		_ = os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)
	}
}
