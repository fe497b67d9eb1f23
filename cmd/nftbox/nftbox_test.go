// Package nftbox holds the tests of nftbox.c, which is C and no package.
package nftbox

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// install builds nftbox as <root>/bin/nft of a new root and returns the root.
func install(t *testing.T) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("../../scripts/freestanding.sh", "nftbox.c", filepath.Join(root, "bin/nft"))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build nftbox: %v\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Join(root, "nft"), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestRunsTheBoxedProgram(t *testing.T) {
	root := install(t)
	// A loader that tells what it was given stands in for the real one.
	tell := "#!/bin/sh\nfor a; do echo \"arg $a\"; done\nenv | sed 's/^/env /'\nexit 42\n"
	if err := os.WriteFile(filepath.Join(root, "nft/ld.so"), []byte(tell), 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(root, "elsewhere")
	if err := os.Symlink("bin/nft", link); err != nil {
		t.Fatal(err)
	}

	for _, program := range []string{filepath.Join(root, "bin/nft"), link} {
		cmd := exec.Command(program, "-f", "-", "", "a b")
		cmd.Env = []string{"KEEP=1", "LD_PRELOAD=/nowhere.so", "LD_LIBRARY_PATH=/nowhere", "XTABLES_LIBDIR=/nowhere"}
		out, err := cmd.Output()
		if code := cmd.ProcessState.ExitCode(); code != 42 {
			t.Fatalf("%s: exit code %d, want the program's own, 42 (%v)", program, code, err)
		}

		var args, env []string
		for line := range strings.Lines(string(out)) {
			if arg, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "arg "); ok {
				args = append(args, arg)
			} else {
				env = append(env, strings.TrimSpace(line))
			}
		}
		box := filepath.Join(root, "nft")
		want := []string{"--inhibit-cache", "--library-path", box, "--argv0", "nft", box + "/nft", "-f", "-", "", "a b"}
		if !slices.Equal(args, want) {
			t.Errorf("%s: arguments\n%q, want\n%q", program, args, want)
		}
		for _, variable := range []string{"env KEEP=1", "env XTABLES_LIBDIR=" + box} {
			if !slices.Contains(env, variable) {
				t.Errorf("%s: environment lacks %q: %q", program, variable, env)
			}
		}
		for _, variable := range env {
			if strings.Contains(variable, "nowhere") {
				t.Errorf("%s: %q is handed on", program, variable)
			}
		}
	}
}

func TestWithoutEnvironmentAndArguments(t *testing.T) {
	root := install(t)
	if err := os.WriteFile(filepath.Join(root, "nft/ld.so"), []byte("#!/bin/sh\necho $#\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: filepath.Join(root, "bin/nft"), Args: []string{}, Env: []string{}}
	out, err := cmd.Output()
	if err != nil || string(out) != "6\n" {
		t.Errorf("got %q, %v; want 6 arguments", out, err)
	}
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name   string
		loader func(path string) error
		want   string
	}{
		{"no loader", func(string) error { return nil }, "no such file or directory"},
		{"not executable", func(path string) error { return os.WriteFile(path, []byte("#!/bin/sh\n"), 0o644) }, "permission denied"},
		{"not a program", func(path string) error { return os.WriteFile(path, []byte("\x7fELF"), 0o755) }, "not a program of this architecture"},
		{"a loop", func(path string) error { return os.Symlink("ld.so", path) }, "error 040"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := install(t)
			loader := filepath.Join(root, "nft/ld.so")
			if err := test.loader(loader); err != nil {
				t.Fatal(err)
			}
			_, err := exec.Command(filepath.Join(root, "bin/nft")).Output()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 127 {
				t.Fatalf("got %v, want exit code 127", err)
			}
			if want := "nft: cannot run " + loader + ": " + test.want + "\n"; string(exit.Stderr) != want {
				t.Errorf("said %q, want %q", exit.Stderr, want)
			}
		})
	}
}
