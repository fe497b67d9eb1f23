package addon

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// folder is a directory of manifests.
type folder struct {
	t   *testing.T
	dir string
}

func newFolder(t *testing.T) folder { return folder{t, t.TempDir()} }

func (f folder) at(name string) string { return filepath.Join(f.dir, name) }

// put writes a file, as whole as if it had been renamed.
func (f folder) put(name, text string) {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Dir(f.at(name)), 0o700); err != nil {
		f.t.Fatal(err)
	}
	temporary := f.at(".temporary")
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.age(".temporary", time.Minute)
	if err := os.Rename(temporary, f.at(name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f folder) age(name string, age time.Duration) {
	f.t.Helper()
	if err := os.Chtimes(f.at(name), time.Now(), time.Now().Add(-age)); err != nil {
		f.t.Fatal(err)
	}
}

func (f folder) remove(name string) {
	f.t.Helper()
	if err := os.RemoveAll(f.at(name)); err != nil {
		f.t.Fatal(err)
	}
}

// configMap is a manifest of ConfigMaps.
func configMap(names ...string) string {
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %q}\n", name)
	}
	return text.String()
}

func (f *file) summary() string {
	switch {
	case f.pending:
		return "pending"
	case f.skipped:
		return "skipped"
	case f.err != nil:
		return "error"
	case f.packaged:
		return fmt.Sprint("packaged ", f.refs)
	}
	return fmt.Sprint(f.refs)
}

func TestScan(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.put("a.yaml", configMap("a"))
	f.put("b.json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`)
	f.put("c.yml", configMap("c"))
	f.put("sub/deep/d.yaml", configMap("d"))
	f.put("bad.yaml", "a: [")
	f.put("skipped.yaml", configMap("s"))
	f.put("skipped.yaml.skip", "")
	f.put("absent.yaml.skip", "")
	f.put("packaged.yaml", firstLine+configMap("p"))
	f.put("off.yaml", firstLine+configMap("o"))
	f.put("own.yaml", configMap("mine"))
	f.put("off-and-skipped.yaml.skip", "")
	f.put("notes.txt", "a: [")
	f.put(".hidden.yaml", "a: [")
	f.put(".git/x.yaml", "a: [")
	f.put("x.yaml~", "a: [")
	if err := unix.Mkfifo(f.at("pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"link.yaml": f.at(".hidden2"), "dangling.yaml": "nowhere"} {
		if err := os.Symlink(target, f.at(link)); err != nil {
			t.Fatal(err)
		}
	}
	f.put(".hidden2", configMap("l"))
	if err := os.Truncate(f.at("notes.txt"), 0); err != nil {
		t.Fatal(err)
	}
	f.put("huge.yaml", "")
	if err := os.Truncate(f.at("huge.yaml"), sizeLimit+1); err != nil {
		t.Fatal(err)
	}
	p := &packaged{
		files:    map[string][]byte{"packaged.yaml": nil, "off.yaml": nil, "own.yaml": nil, "off-and-skipped.yaml": nil},
		disabled: map[string]bool{"off.yaml": true, "own.yaml": true, "off-and-skipped.yaml": true},
	}
	var entered []string
	found, err := scan(f.dir, p, nil, func(dir string) { entered = append(entered, strings.TrimPrefix(dir, f.dir)) })
	if err != nil || found.partial != nil || found.unsettled {
		t.Fatal(found, err)
	}
	got := map[string]string{}
	for _, file := range found.files {
		got[file.path] = file.summary()
	}
	want := map[string]string{
		"a.yaml": "[ConfigMap a]", "b.json": "[ConfigMap b]", "c.yml": "[ConfigMap c]", "sub/deep/d.yaml": "[ConfigMap d]",
		"bad.yaml": "error", "pipe.yaml": "error", "dangling.yaml": "error", "huge.yaml": "error",
		"skipped.yaml": "skipped", "absent.yaml": "skipped", "packaged.yaml": "packaged [ConfigMap p]",
		"link.yaml": "[ConfigMap l]", "own.yaml": "[ConfigMap mine]",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
	if want := []string{"", "/sub", "/sub/deep"}; !slices.Equal(entered, want) {
		t.Errorf("entered %q, want %q", entered, want)
	}

	again, err := scan(f.dir, p, found.files, func(string) {})
	if err != nil || again.files["a"] != found.files["a"] {
		t.Errorf("a file that has not changed is another; error %v", err)
	}
}

func TestScanWaitsForWriters(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	p := &packaged{}
	look := func(last map[string]*file) tree {
		t.Helper()
		found, err := scan(f.dir, p, last, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	f.put("a.yaml", configMap("a"))
	first := look(nil)

	writer, err := os.OpenFile(f.at("a.yaml"), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close() }()
	f.age("a.yaml", time.Second) // longer than settleTime
	if now := look(first.files); !now.unsettled || now.files["a"] != first.files["a"] {
		t.Errorf("a file that is being written is %+v; unsettled is %v", now.files["a"], now.unsettled)
	}
	if now := look(nil); !now.unsettled || !now.files["a"].pending {
		t.Errorf("a new file that is being written is %+v; unsettled is %v", now.files["a"], now.unsettled)
	}
	f.age("a.yaml", time.Minute)
	if now := look(first.files); now.unsettled || now.files["a"] == first.files["a"] {
		t.Error("a program that keeps the file open hides it for ever")
	}
	f.age("a.yaml", time.Second)
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if now := look(first.files); now.unsettled || len(now.files["a"].refs) != 0 {
		t.Errorf("the written file is %+v; unsettled is %v", now.files["a"], now.unsettled)
	}
	f.age("a.yaml", 0)
	if now := look(first.files); !now.unsettled {
		t.Error("a file that has just changed is read at once")
	}
	f.age("a.yaml", -time.Hour)
	if now := look(first.files); now.unsettled {
		t.Error("a file from the future is never read")
	}
}

func TestScanWithoutDirectory(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.put("file", "")
	for _, dir := range []string{f.at("missing"), f.at("file")} {
		if _, err := scan(dir, &packaged{}, nil, func(string) {}); err == nil {
			t.Errorf("%s: no error", dir)
		}
	}
}
