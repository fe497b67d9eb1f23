package payload

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

const fakeLauncher = "launcher's bytes"

// item is a tar entry: a directory if the name ends in a slash, unless typ
// says what it is.
type item struct {
	name string
	body string
	mode int64
	typ  byte
	link string
}

var program = []item{{name: "bin/"}, {name: "bin/kedge", body: "#!program", mode: 0o755}}

func archive(t testing.TB, items []item) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, it := range items {
		hdr := &tar.Header{Name: it.name, Mode: it.mode, Typeflag: it.typ, Linkname: it.link, Size: int64(len(it.body))}
		if it.typ == 0 {
			hdr.Typeflag = tar.TypeReg
			if it.name[len(it.name)-1] == '/' {
				hdr.Typeflag = tar.TypeDir
			}
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(it.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func compress(t testing.TB, b []byte, options ...zstd.EOption) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw, err := zstd.NewWriter(&buf, options...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := zw.Write(b); err != nil {
		t.Fatal(err)
	}
	// Flushed first, so that the stream announces its window, not its length.
	if err := errors.Join(zw.Flush(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// join makes the content of a kedge file and the trailer it ends with.
func join(packed []byte, size, entries int) ([]byte, Trailer) {
	t := Trailer{
		Offset: int64(len(fakeLauncher)), Length: int64(len(packed)), Size: int64(size), Entries: int64(entries),
		Sum: sha256.Sum256(packed), LauncherSum: sha256.Sum256([]byte(fakeLauncher)),
	}
	return t.Append(append([]byte(fakeLauncher), packed...)), t
}

func pack(t testing.TB, items []item) []byte {
	t.Helper()
	plain := archive(t, items)
	content, _ := join(compress(t, plain), len(plain), len(items))
	return content
}

// save writes a kedge file and opens it.
func save(t testing.TB, content []byte) *File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "kedge")
	if err := os.WriteFile(name, content, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := Open(name, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// recorder is a Reporter that counts what it is told and does as it is told.
type recorder struct {
	mu                           sync.Mutex
	waiting, unpacking, flushing int
	done                         int64
	holder                       int
	onWaiting, onUnpacking       func()
}

func (r *recorder) Waiting(_ string, holder int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting++
	r.holder = holder
	if r.onWaiting != nil {
		r.onWaiting()
	}
}

func (r *recorder) Unpacking(string, int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unpacking++
	if r.onUnpacking != nil {
		r.onUnpacking()
	}
}

func (r *recorder) Progress(done int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = done
}

func (r *recorder) Flushing() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushing++
}

// names lists what is in dir.
func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// tree maps the paths below dir to their mode and content or link target.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content := ""
		switch d.Type() {
		case 0:
			var b []byte
			b, err = os.ReadFile(path)
			content = string(b)
		case fs.ModeSymlink:
			content, err = os.Readlink(path)
		}
		found[name] = info.Mode().String() + " " + content
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// mountTmpfs mounts a tmpfs, for which the test must run as root.
func mountTmpfs(t testing.TB, flags uintptr, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		t.Skip("can't mount a tmpfs here:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
