package token

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	want := mustParse(t, "K10"+hash+"::server:s3cret")
	if err := WriteFile(path, want); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode is %v, %v", info.Mode(), err)
	}
	got, warning, err := ReadFile(path)
	if err != nil || warning != "" || got.Reveal() != want.Reveal() {
		t.Fatalf("ReadFile = %v, %q, %v", got, warning, err)
	}
	if err := WriteFile(path, Token{}); !errors.Is(err, errEmpty) {
		t.Errorf("no token is written: %v", err)
	}
}

func TestReadFile(t *testing.T) {
	for _, test := range []struct {
		name, content string
		mode          fs.FileMode
		err, warning  string
	}{
		{name: "spaces", content: " \n node:s3cret \r\n", mode: 0o600},
		{name: "group", content: "node:s3cret", mode: 0o640},
		{name: "everyone", content: "node:s3cret", mode: 0o644, warning: "chmod 600"},
		{name: "empty", content: " \n", mode: 0o600, err: "is empty"},
		{name: "lines", content: "node:s3cret\nnode:s3cret", mode: 0o600, err: "more than one line"},
		{name: "large", content: strings.Repeat("\n", maxFile+1), mode: 0o600, err: "larger than"},
		{name: "form", content: "K10s3cret", mode: 0o600, err: errForm.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			got, warning, err := ReadFile(path)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "s3cret") {
					t.Fatalf("got error %v", err)
				}
				return
			}
			if err != nil || got.Reveal() != "node:s3cret" {
				t.Fatalf("got %q, %v", got.Reveal(), err)
			}
			if (warning != "") != (test.warning != "") || !strings.Contains(warning, test.warning) {
				t.Errorf("got warning %q", warning)
			}
		})
	}
	dir := t.TempDir()
	if _, _, err := ReadFile(dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: %v", err)
	}
	if _, _, err := ReadFile(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, text := range []string{"K10" + hash + "::server:s3cret", "server:s3cret", "abc123.0123456789abcdef"} {
		if _, _, err := ReadFile(text); !errors.Is(err, errPath) {
			t.Errorf("a token for a path: %v", err)
		}
	}
}
