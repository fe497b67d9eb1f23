package main

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/payload"
)

// content maps names below a root to what is there: "dir", "link to …" or the
// text of a file, with "run " before it if it may be run.
type content map[string]string

var sample = content{
	"bin":                "dir",
	"bin/kedge":          "run program",
	"bin/kubectl":        "link to kedge",
	"empty":              "dir",
	"images":             "dir",
	"images/blob":        strings.Repeat("blob", 100_000),
	"images/index.json":  "{}",
	"images/" + long:     "long name",
	"images/to-the-long": "link to " + long,
}

var long = strings.Repeat("long", 50)

// lay writes c into a new directory, with the given modes for what may differ.
func lay(t *testing.T, c content, dirMode, fileMode os.FileMode) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range c {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
			t.Fatal(err)
		}
		var err error
		target, isLink := strings.CutPrefix(text, "link to ")
		program, isProgram := strings.CutPrefix(text, "run ")
		switch {
		case text == "dir":
			err = os.MkdirAll(path, dirMode)
		case isLink:
			err = os.Symlink(target, path)
		case isProgram:
			err = os.WriteFile(path, []byte(program), fileMode|0o100)
		default:
			err = os.WriteFile(path, []byte(text), fileMode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func see(t *testing.T, root string) content {
	t.Helper()
	seen := content{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch d.Type() {
		case fs.ModeDir:
			seen[name] = "dir"
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			seen[name] = "link to " + target
			return err
		default:
			b, err := os.ReadFile(path)
			seen[name] = string(b)
			if info, err := d.Info(); err == nil && info.Mode()&0o111 != 0 {
				seen[name] = "run " + seen[name]
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func fakeLauncher(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "launcher")
	if err := os.WriteFile(name, []byte("launcher"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

type quiet struct{}

func (quiet) Waiting(string, int)     {}
func (quiet) Unpacking(string, int64) {}
func (quiet) Progress(int64)          {}
func (quiet) Flushing()               {}

func unpack(t *testing.T, name string) string {
	t.Helper()
	f, err := payload.Open(name, name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	root, err := f.Unpack(t.Context(), t.TempDir(), quiet{})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestPack(t *testing.T) {
	launcher := fakeLauncher(t)
	for _, tt := range []struct {
		name, level string
		library     bool
	}{
		{"fast", "fast", false},
		{"best", "best", false},
		{"max", "max", false},
		{"fast by the library", "fast", true},
		{"best by the library", "best", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.library {
				t.Setenv("PATH", "")
			}
			var first []byte
			// The same content with other times and rights, in another place.
			for _, modes := range [][2]os.FileMode{{0o755, 0o644}, {0o700, 0o600}} {
				root := lay(t, sample, modes[0], modes[1])
				if err := os.Chtimes(filepath.Join(root, "bin/kedge"), time.Time{}, time.Unix(int64(modes[0]), 0)); err != nil {
					t.Fatal(err)
				}
				out := filepath.Join(t.TempDir(), "kedge")
				if err := run(t.Context(), []string{"-launcher", launcher, "-root", root, "-out", out, "-level", tt.level}); err != nil {
					t.Fatal(err)
				}
				if info, err := os.Stat(out); err != nil || info.Mode() != 0o755 {
					t.Errorf("%v, %v", info, err)
				}
				b, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				if first == nil {
					first = b
					if got := see(t, unpack(t, out)); !maps.Equal(got, sample) {
						t.Errorf("unpacks to %.300v", got)
					}
				} else if string(first) != string(b) {
					t.Error("the same input gave another file")
				}
			}
		})
	}
}

func TestEntriesOrder(t *testing.T) {
	root := lay(t, content{"b/2": "22", "b/1": "11", "a": "333", "c": "dir", "b/l": "link to 1"}, 0o755, 0o644)
	list, err := entries(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.name)
	}
	if want := "b b/l c a b/1 b/2"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %s", got, want)
	}
}

func TestPackErrors(t *testing.T) {
	good := lay(t, sample, 0o755, 0o644)
	launcher := fakeLauncher(t)
	fifo := lay(t, sample, 0o755, 0o644)
	if err := unix.Mkfifo(filepath.Join(fifo, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "zstd"), []byte("#!/bin/sh\necho no more memory >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	link := func(target string) string {
		c := maps.Clone(sample)
		c["images/bad"] = "link to " + target
		return lay(t, c, 0o755, 0o644)
	}
	for name, tt := range map[string]struct {
		launcher, root, level, path string
		want                        string
	}{
		"no launcher":          {launcher + "x", good, "fast", "", "no such file"},
		"no root":              {launcher, good + "x", "fast", "", "has no program bin/kedge"},
		"no program":           {launcher, lay(t, content{"bin": "dir"}, 0o755, 0o644), "fast", "", "has no program bin/kedge"},
		"program not runnable": {launcher, lay(t, content{"bin/kedge": "text"}, 0o755, 0o644), "fast", "", "has no program bin/kedge"},
		"fifo":                 {launcher, fifo, "fast", "", "fifo: neither a file"},
		"absolute link":        {launcher, link("/etc/passwd"), "fast", "", "leads out"},
		"link out":             {launcher, link("../../x"), "fast", "", "leads out"},
		"level":                {launcher, good, "9", "", `level "9": want fast, best or max`},
		"zstd fails":           {launcher, good, "fast", broken, "no more memory"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.path != "" {
				t.Setenv("PATH", tt.path)
			}
			dir := t.TempDir()
			out := filepath.Join(dir, "kedge")
			if err := os.WriteFile(out, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := run(t.Context(), []string{"-launcher", tt.launcher, "-root", tt.root, "-out", out, "-level", tt.level})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if got := see(t, dir); !maps.Equal(got, content{"kedge": "old"}) {
				t.Errorf("left %v", got)
			}
		})
	}
}

func TestPackCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	err := run(ctx, []string{"-launcher", fakeLauncher(t), "-root", lay(t, sample, 0o755, 0o644), "-out", filepath.Join(dir, "kedge")})
	if !errors.Is(err, context.Canceled) || len(see(t, dir)) != 0 {
		t.Errorf("got %v, left %v", err, see(t, dir))
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"-launcher", "a", "-root", "b"}, {"-launcher", "a", "-root", "b", "-out", "c", "d"}, {"-x"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
