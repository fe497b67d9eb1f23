package registries

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// journal collects what is logged.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !check(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
	}
}

func TestLive(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "etc") // which isn't there yet
	certs := filepath.Join(dir, "certs.d")
	path := filepath.Join(dir, "registries.yaml")
	logged := &journal{}
	l := NewLive(Config{}, path, certs, slog.New(slog.NewTextHandler(logged, nil)))
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	hosts := func(registry string) string {
		content, _ := os.ReadFile(filepath.Join(certs, registry, "hosts.toml"))
		return string(content)
	}

	write(t, dir, "registries.yaml", "mirrors: {a.example: {endpoint: [b.example]}}\nconfigs: {b.example: {auth: {username: me, password: one}}}\n")
	eventually(t, "a new file to be read", func() bool { return l.Shares("a.example") })
	if got := hosts("a.example"); !strings.Contains(got, "https://b.example") {
		t.Errorf("hosts.toml holds %q", got)
	}

	write(t, dir, "registries.yaml", "mirrors: {a.example: {endpoints: []}}\n")
	eventually(t, "the mistake to be told", func() bool { return strings.Contains(logged.String(), path+`:1: mirrors: a.example: unknown key`) })
	if !l.Shares("a.example") || hosts("a.example") == "" {
		t.Error("a bad file takes the good one's place")
	}

	// As editors do.
	write(t, dir, "registries.yaml.new", "mirrors: {c.example: {endpoint: [b.example]}}\nconfigs: {b.example: {auth: {username: me, password: two}}}\n")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the corrected file to be read", func() bool { return l.Shares("c.example") })
	if _, secret, _ := l.Config().login("b.example"); secret != "two" || hosts("a.example") != "" {
		t.Errorf("the password is %q, and what is left of the old file %q", secret, hosts("a.example"))
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file to be missed", func() bool { return !l.Shares("c.example") })
	if strings.Contains(logged.String(), "one") && strings.Contains(logged.String(), "password") {
		t.Errorf("a password is logged: %s", logged)
	}
}
