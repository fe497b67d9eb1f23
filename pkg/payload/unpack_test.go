package payload

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

func TestUnpack(t *testing.T) {
	big := string(make([]byte, 3*copyBuffer+1))
	f := save(t, pack(t, []item{
		{name: "bin/", mode: 0o700},
		{name: "bin/kedge", body: "program", mode: 0o4700},
		{name: "bin/kubectl", typ: tar.TypeSymlink, link: "kedge"},
		{name: "images/"},
		{name: "images/blobs/"},
		{name: "images/blobs/big", body: big, mode: 0o666},
		{name: "images/blobs/empty", mode: 0o600},
		{name: "images/up", typ: tar.TypeSymlink, link: "../bin/kedge"},
	}))
	defer unix.Umask(unix.Umask(0o077))
	dataDir := filepath.Join(t.TempDir(), "a", "b")
	rec := &recorder{}
	root, err := f.Unpack(t.Context(), dataDir, rec)
	if err != nil {
		t.Fatal(err)
	}
	if root != Dir(dataDir, f.ID()) {
		t.Errorf("root %s", root)
	}
	want := map[string]string{
		".":                  "drwxr-xr-x ",
		"bin":                "drwxr-xr-x ",
		"bin/kedge":          "-rwxr-xr-x program",
		"bin/kubectl":        "Lrwxrwxrwx kedge",
		"images":             "drwxr-xr-x ",
		"images/blobs":       "drwxr-xr-x ",
		"images/blobs/big":   "-rw-r--r-- " + big,
		"images/blobs/empty": "-rw-r--r-- ",
		"images/up":          "Lrwxrwxrwx ../bin/kedge",
	}
	if got := tree(t, root); !maps.Equal(got, want) {
		t.Errorf("unpacked %.500q", got)
	}
	for dir := filepath.Dir(root); dir != filepath.Dir(filepath.Dir(dataDir)); dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
	if got := names(t, filepath.Dir(root)); !slices.Equal(got, []string{lockName, f.ID()}) {
		t.Errorf("store holds %q", got)
	}
	if rec.unpacking != 1 || rec.flushing != 1 || rec.done != f.Size || rec.waiting != 0 {
		t.Errorf("reported %+v", rec)
	}

	again := &recorder{}
	if second, err := f.Unpack(t.Context(), dataDir, again); err != nil || second != root || again.unpacking != 0 {
		t.Errorf("second time: %s, %v, %+v", second, err, again)
	}
}

// mustFail unpacks and checks that nothing is left but the lock.
func mustFail(t *testing.T, f *File, dataDir string, rec *recorder) error {
	t.Helper()
	root, err := f.Unpack(t.Context(), dataDir, rec)
	if err == nil {
		t.Fatalf("unpacked into %s", root)
	}
	for _, name := range names(t, storeDir(dataDir)) {
		if name != lockName {
			t.Errorf("%s is left after: %v", name, err)
		}
	}
	return err
}

func wantDamaged(t *testing.T, err error, word string) {
	t.Helper()
	damaged := (*DamagedError)(nil)
	if !errors.As(err, &damaged) || damaged.File == "" || !strings.Contains(err.Error(), word) {
		t.Errorf("got %v, want a damaged file with %q", err, word)
	}
}

func TestUnpackRefusesUnsafe(t *testing.T) {
	outside := t.TempDir()
	tests := map[string][]item{
		"absolute path":              {{name: outside + "/x", body: "x"}},
		"path out of the root":       {{name: "../x", body: "x"}},
		"path up and out":            {{name: "bin/../../x", body: "x"}},
		"path with a detour":         {{name: "bin/../x", body: "x"}},
		"root itself":                {{name: "./"}},
		"path beginning with a dot":  {{name: "./x", body: "x"}},
		"missing parent":             {{name: "lib/x", body: "x"}},
		"file as parent":             {{name: "bin/kedge/x", body: "x"}},
		"absolute link":              {{name: "x", typ: tar.TypeSymlink, link: outside}},
		"link out":                   {{name: "x", typ: tar.TypeSymlink, link: "../x"}},
		"link up and out":            {{name: "bin/x", typ: tar.TypeSymlink, link: "../../x"}},
		"link with a detour":         {{name: "x", typ: tar.TypeSymlink, link: "bin/../../x"}},
		"empty link":                 {{name: "x", typ: tar.TypeSymlink}},
		"through a link":             {{name: "x", typ: tar.TypeSymlink, link: "bin"}, {name: "x/y", body: "y"}},
		"hard link":                  {{name: "x", typ: tar.TypeLink, link: "bin/kedge"}},
		"character device":           {{name: "x", typ: tar.TypeChar}},
		"block device":               {{name: "x", typ: tar.TypeBlock}},
		"fifo":                       {{name: "x", typ: tar.TypeFifo}},
		"unknown type":               {{name: "x", typ: 'Z'}},
		"link by a long way through": {{name: "bin/up", typ: tar.TypeSymlink, link: ".."}, {name: "bin/x", typ: tar.TypeSymlink, link: "up/../x"}},
	}
	for name, items := range tests {
		t.Run(name, func(t *testing.T) {
			f := save(t, pack(t, slices.Concat(program, items)))
			wantDamaged(t, mustFail(t, f, t.TempDir(), &recorder{}), "")
		})
	}
	// The same name twice is no way around the rules either.
	for _, second := range []item{{name: "bin/kedge", body: "other"}, {name: "bin/"}, {name: "bin/kedge", typ: tar.TypeSymlink, link: "x"}} {
		f := save(t, pack(t, append(slices.Clone(program), second)))
		if err := mustFail(t, f, t.TempDir(), &recorder{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%q twice: %v", second.name, err)
		}
	}
	if left := names(t, outside); left != nil {
		t.Errorf("%q were written outside", left)
	}
}

func TestUnpackDamaged(t *testing.T) {
	content := pack(t, slices.Concat(program, []item{{name: "noise", body: noise(5000)}}))
	end := len(content) - TrailerSize
	for at := 0; at < end; at += 1 + at%101 {
		b := slices.Clone(content)
		b[at] ^= 1 << (at % 8)
		f := save(t, b)
		wantDamaged(t, mustFail(t, f, t.TempDir(), &recorder{}), "")
	}
}

func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return string(b)
}

// A payload may match its checksum and still not be what it says.
func TestUnpackMismatch(t *testing.T) {
	plain := archive(t, program)
	packed := compress(t, plain)
	for _, tt := range []struct {
		name          string
		packed        []byte
		size, entries int
		want          string
	}{
		{"too long", packed, len(plain) - 1, len(program), "can't be read"},
		{"too short", packed, len(plain) + 1, len(program), "bytes in"},
		{"too few entries", packed, len(plain), len(program) + 1, "entries"},
		{"no zstd", plain, len(plain), len(program), "can't be read"},
		{"no tar", compress(t, []byte(noise(1024))), 1024, 0, "can't be read"},
		{"nothing", nil, 0, 0, "no bin/kedge"},
		{"no program", compress(t, archive(t, program[:1])), len(archive(t, program[:1])), 1, "no bin/kedge"},
		{"archive cut", compress(t, plain[:1030]), 1030, len(program), "can't be read"},
		{"trailing bytes", append(slices.Clone(packed), "rest"...), len(plain), len(program), "can't be read"},
		{"window too long", compress(t, plain, zstd.WithWindowSize(2<<WindowLog)), len(plain), len(program), "can't be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			content, _ := join(tt.packed, tt.size, tt.entries)
			wantDamaged(t, mustFail(t, save(t, content), t.TempDir(), &recorder{}), tt.want)
		})
	}
}

func TestUnpackSeveralFrames(t *testing.T) {
	plain := archive(t, program)
	packed := append(compress(t, plain[:700]), compress(t, plain[700:])...)
	content, _ := join(packed, len(plain), len(program))
	if _, err := save(t, content).Unpack(t.Context(), t.TempDir(), &recorder{}); err != nil {
		t.Error(err)
	}
}

func TestUnpackShrunkFile(t *testing.T) {
	f := save(t, pack(t, append(slices.Clone(program), item{name: "noise", body: noise(3 * copyBuffer)})))
	rec := &recorder{onUnpacking: func() {
		if err := os.Truncate(f.name, f.Length/2); err != nil {
			t.Error(err)
		}
	}}
	wantDamaged(t, mustFail(t, f, t.TempDir(), rec), "")
}

func TestUnpackCancelled(t *testing.T) {
	f := save(t, pack(t, program))
	ctx, cancel := context.WithCancel(t.Context())
	dataDir := t.TempDir()
	_, err := f.Unpack(ctx, dataDir, &recorder{onUnpacking: cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := names(t, storeDir(dataDir)); !slices.Equal(got, []string{lockName}) {
		t.Errorf("left %q", got)
	}
}

func TestUnpackAtOnce(t *testing.T) {
	f := save(t, pack(t, append(slices.Clone(program), item{name: "noise", body: noise(100_000)})))
	dataDir := t.TempDir()
	rec := &recorder{}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := f.Unpack(t.Context(), dataDir, rec); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if rec.unpacking != 1 {
		t.Errorf("unpacked %d times", rec.unpacking)
	}
}

func TestUnpackWaits(t *testing.T) {
	f := save(t, pack(t, program))
	dataDir := t.TempDir()
	if err := makeDir(storeDir(dataDir)); err != nil {
		t.Fatal(err)
	}
	release, err := acquire(t.Context(), storeDir(dataDir), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{onWaiting: release}
	if _, err := f.Unpack(t.Context(), dataDir, rec); err != nil || rec.waiting != 1 || rec.holder != os.Getpid() {
		t.Errorf("got %v after %+v", err, rec)
	}
}

func TestLockLimit(t *testing.T) {
	store := t.TempDir()
	release, err := acquire(t.Context(), store, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	var told []int
	waiting := func(_ string, holder int) { told = append(told, holder) }
	_, err = acquire(t.Context(), store, time.Millisecond, waiting)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := acquire(ctx, store, time.Hour, waiting); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if !slices.Equal(told, []int{os.Getpid(), os.Getpid()}) {
		t.Errorf("told %v", told)
	}
	release()
	release, err = acquire(t.Context(), store, 0, waiting)
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func TestUnpackRemovesLeftovers(t *testing.T) {
	f := save(t, pack(t, program))
	dataDir := t.TempDir()
	store := storeDir(dataDir)
	for _, name := range []string{unpackPrefix + f.ID() + "-1/bin", removePrefix + "x/bin", "0123456789abcdef/bin", "mine"} {
		if err := os.MkdirAll(filepath.Join(store, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Unpack(t.Context(), dataDir, &recorder{}); err != nil {
		t.Fatal(err)
	}
	want := []string{lockName, "0123456789abcdef", f.ID(), "mine"}
	slices.Sort(want)
	if got := names(t, store); !slices.Equal(got, want) {
		t.Errorf("store holds %q, want %q", got, want)
	}
}

func TestUnpackReplacesDirectoryWithoutProgram(t *testing.T) {
	f := save(t, pack(t, program))
	dataDir := t.TempDir()
	root := Dir(dataDir, f.ID())
	for _, spoil := range []func() error{
		func() error { return os.MkdirAll(root, 0o700) },
		func() error { return os.Remove(filepath.Join(root, Program)) },
		func() error { return errors.Join(os.RemoveAll(root), os.WriteFile(root, nil, 0o600)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Unpack(t.Context(), dataDir, &recorder{}); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, root)["bin/kedge"]; got != "-rwxr-xr-x #!program" {
			t.Errorf("program is %q", got)
		}
	}
}

func TestUnpackPlace(t *testing.T) {
	f := save(t, pack(t, program))
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dangling, link := filepath.Join(dir, "dangling"), filepath.Join(dir, "link")
	if err := errors.Join(os.Symlink("nothing", dangling), os.Symlink(t.TempDir(), link)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dataDir string
		want    error
	}{
		{file, unix.ENOTDIR},
		{filepath.Join(file, "below"), unix.ENOTDIR},
		{dangling, fs.ErrExist},
		{link, nil},
		{"/proc/nonsense", fs.ErrNotExist},
	} {
		_, err := f.Unpack(t.Context(), tt.dataDir, &recorder{})
		if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: got %v, want %v", tt.dataDir, err, tt.want)
		}
	}
}

func TestUnpackNoSpace(t *testing.T) {
	f := save(t, pack(t, append(slices.Clone(program), item{name: "noise", body: noise(3 << 20)})))
	for _, tt := range []struct {
		name, options string
		fill          int
		want          string
	}{
		{"too small", "size=2m", 0, "4 MB needed, 2 MB available"},
		{"filled meanwhile", "size=4m", 2 << 20, "4 MB needed"},
		{"no inodes", "size=8m,nr_inodes=5", 0, "3 needed, 2 available"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := mountTmpfs(t, 0, tt.options)
			rec := &recorder{onUnpacking: func() {
				if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, tt.fill), 0o600); err != nil {
					t.Error(err)
				}
			}}
			err := mustFail(t, f, dir, rec)
			full := (*NoSpaceError)(nil)
			if !errors.As(err, &full) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dir+" (tmpfs on tmpfs)") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestUnpackFullDisk(t *testing.T) {
	f := save(t, pack(t, program))
	dir := mountTmpfs(t, 0, "size=1m,nr_inodes=1")
	full := (*NoSpaceError)(nil)
	if _, err := f.Unpack(t.Context(), dir, &recorder{}); !errors.As(err, &full) {
		t.Errorf("got %v", err)
	}
}

func TestUnpackMountFlags(t *testing.T) {
	f := save(t, pack(t, program))
	noExec := (*NoExecError)(nil)
	if err := mustFail(t, f, mountTmpfs(t, unix.MS_NOEXEC, ""), &recorder{}); !errors.As(err, &noExec) {
		t.Errorf("noexec: %v", err)
	}
	dir := mountTmpfs(t, 0, "")
	if err := makeDir(storeDir(dir)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := mustFail(t, f, dir, &recorder{}); !errors.Is(err, unix.EROFS) {
		t.Errorf("read-only: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "none"), "kedge"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	name := filepath.Join(dir, "short")
	if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(name, "/usr/bin/kedge")
	wantDamaged(t, err, "/usr/bin/kedge")
	if _, err := Open(dir, dir); err == nil {
		t.Error("opened a directory")
	}
}

func TestCurrent(t *testing.T) {
	for _, tt := range []struct{ exe, root, dataDir string }{
		{"/var/lib/kedge/data/0123456789abcdef/bin/kedge", "/var/lib/kedge/data/0123456789abcdef", "/var/lib/kedge"},
		{"/data/0123456789abcdef/bin/runc", "/data/0123456789abcdef", "/"},
		{"/var/lib/kedge/data/0123456789abcde/bin/kedge", "", ""},
		{"/var/lib/kedge/data/0123456789abcdeF/bin/kedge", "", ""},
		{"/var/lib/kedge/data/0123456789abcdef/kedge", "", ""},
		{"/var/lib/kedge/store/0123456789abcdef/bin/kedge", "", ""},
		{"data/0123456789abcdef/bin/kedge", "", ""},
		{"/usr/bin/kedge", "", ""},
		{"/kedge", "", ""},
		{"", "", ""},
	} {
		root, dataDir, err := Current(tt.exe)
		if root != tt.root || dataDir != tt.dataDir || (err == nil) != (root != "") {
			t.Errorf("%s: got %q, %q, %v", tt.exe, root, dataDir, err)
		}
	}
}

// BenchmarkUnpack unpacks 64 MB of what looks like programs, flushing to disk.
func BenchmarkUnpack(b *testing.B) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	sample, err := os.ReadFile(exe)
	if err != nil {
		b.Fatal(err)
	}
	items := slices.Clone(program)
	for size := 0; size < 64<<20; size += len(sample) {
		items = append(items, item{name: fmt.Sprintf("sample%d", len(items)), body: string(sample)})
	}
	plain := archive(b, items)
	content, _ := join(compress(b, plain, zstd.WithWindowSize(2<<20)), len(plain), len(items))
	f := save(b, content)
	dataDir := b.TempDir()
	b.SetBytes(f.Size)
	for b.Loop() {
		if _, err := f.Unpack(b.Context(), dataDir, &recorder{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.RemoveAll(dataDir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
