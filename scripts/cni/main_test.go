package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRewrite(t *testing.T) {
	tests := []struct {
		name, code, want string
		hasMain          bool
	}{
		{
			name:    "main and the word elsewhere",
			code:    "// main does it.\npackage main // main\n\nvar main2 = \"main\"\n\nfunc main() {}\n\nfunc (x T) main() {}\n",
			want:    "// main does it.\npackage plug // main\n\nvar main2 = \"main\"\n\nfunc Main() {}\n\nfunc (x T) main() {}\n",
			hasMain: true,
		},
		{
			name: "no main",
			code: "package main\n\nfunc help() {}\n",
			want: "package plug\n\nfunc help() {}\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, hasMain, err := rewrite("file.go", []byte(test.code), "plug")
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != test.want || hasMain != test.hasMain {
				t.Errorf("got main: %t, code:\n%s\nwant main: %t, code:\n%s", hasMain, got, test.hasMain, test.want)
			}
		})
	}
}

func TestRewriteRefuses(t *testing.T) {
	for _, code := range []string{
		"package other\n",
		"package main\n\nfunc {",
		"package main\n\nfunc main() {}\n\nfunc main() {}\n",
	} {
		if _, _, err := rewrite("file.go", []byte(code), "plug"); err == nil {
			t.Errorf("accepted:\n%s", code)
		}
	}
}

func TestGenerate(t *testing.T) {
	source, out := t.TempDir(), filepath.Join(t.TempDir(), "_cni")
	write := func(file, code string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(code), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range plugins {
		write(filepath.Join(source, dir, "main.go"), "package main\n\nfunc main() {}\n")
		write(filepath.Join(source, dir, "main_test.go"), "package main_test\n")
	}
	write(filepath.Join(out, "stale/stale.go"), "package stale\n")

	if err := generate(source, "v1.2.3", out, "example.com/kedge", "_cni"); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join(out, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`buildversion.BuildVersion = "v1.2.3"`,
		`hostlocal "example.com/kedge/_cni/host-local"`,
		"case \"host-local\":\n\t\thostlocal.Main()",
	} {
		if !strings.Contains(string(program), want) {
			t.Errorf("main.go lacks %q:\n%s", want, program)
		}
	}
	files, err := filepath.Glob(filepath.Join(out, "*/*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(plugins) {
		t.Errorf("wrote %q, want one file for each of %q", files, plugins)
	}

	write(filepath.Join(source, "main/bridge/second.go"), "package main\n\nfunc main() {}\n")
	if err := generate(source, "v1.2.3", out, "example.com/kedge", "_cni"); err == nil {
		t.Error("a plugin with two functions main is accepted")
	}
}
