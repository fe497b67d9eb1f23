package atomicfile

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, step := range []struct {
		data    string
		mode    fs.FileMode
		changed bool
	}{
		{"one", 0o600, true},
		{"one", 0o600, false},
		{"one", 0o640, true},
		{"two", 0o640, true},
	} {
		changed, err := Update(path, []byte(step.data), step.mode)
		if err != nil || changed != step.changed {
			t.Fatalf("Update(%q, %o) = %v, %v; want %v", step.data, step.mode, changed, err, step.changed)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != step.data {
			t.Fatalf("content is %q, %v; want %q", got, err, step.data)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != step.mode {
			t.Fatalf("mode is %v, %v; want %o", info.Mode(), err, step.mode)
		}
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("x"), 0o600); err == nil {
		t.Fatal("wrote over a directory")
	}
	if _, err := Update(path, []byte("x"), 0o600); err == nil {
		t.Fatal("updated a directory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
}
