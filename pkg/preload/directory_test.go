package preload

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// fake takes the text in a tar file's first file for the names of its images.
type fake struct {
	mu      sync.Mutex
	imports []string
	pinned  map[string]bool
	refuse  map[string]int // how often an image can't be pulled
}

func newFake() *fake { return &fake{pinned: map[string]bool{}, refuse: map[string]int{}} }

func (f *fake) importArchive(_ context.Context, archive io.Reader) ([]string, error) {
	in := tar.NewReader(archive)
	if _, err := in.Next(); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	names := strings.Fields(string(content))
	f.imports = append(f.imports, names...)
	for _, name := range names {
		f.pinned[name] = true
	}
	return names, nil
}

func (f *fake) pull(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse[name] > 0 {
		f.refuse[name]--
		return errors.New("not now")
	}
	f.pinned[name] = true
	return nil
}

func (f *fake) pinAll(_ context.Context, names []string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		if _, ok := f.pinned[name]; !ok {
			return false, nil
		}
	}
	for _, name := range names {
		f.pinned[name] = true
	}
	return true, nil
}

func (f *fake) unpin(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pinned[name] = false
	return nil
}

func (f *fake) isPinned(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pinned[name]
}

func (f *fake) count(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(f.imports), func(n string) bool { return n != name }))
}

// archive is a tar file that holds images by the fake's rules.
func archive(t *testing.T, names string) []byte {
	t.Helper()
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	if err := out.WriteHeader(&tar.Header{Name: "names", Mode: 0o644, Size: int64(len(names))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, names); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rig is a directory that is watched.
type rig struct {
	*fake
	t      *testing.T
	dir    string
	state  string
	logged *bytes.Buffer
	stop   func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	return &rig{fake: newFake(), t: t, dir: filepath.Join(dir, "images"), state: filepath.Join(dir, "images.json")}
}

// start runs a directory until stop.
func (r *rig) start() {
	r.t.Helper()
	r.logged = &bytes.Buffer{}
	d := directory{
		path: r.dir, stateFile: r.state, store: r.fake,
		settle: 100 * time.Millisecond, retry: [2]time.Duration{10 * time.Millisecond, 20 * time.Millisecond},
		log: slog.New(slog.NewTextHandler(r.logged, nil)),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(r.stop)
}

func (r *rig) put(name string, content []byte) {
	r.t.Helper()
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, name), content, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) eventually(what string, check func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("still waiting for %s", what)
		}
	}
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.put("before.tar", archive(t, "before"))
	r.put("broken.tar", []byte("no archive"))
	r.put("note.md", archive(t, "note"))
	r.start()
	r.eventually("what was there", func() bool { return r.isPinned("before") })
	r.put("after.tar", archive(t, "after-1 after-2"))
	r.eventually("what came", func() bool { return r.isPinned("after-2") })

	// A file that is written slowly is imported once, when it is whole.
	whole := archive(t, "slow")
	file, err := os.Create(filepath.Join(r.dir, "slow.tar"))
	if err != nil {
		t.Fatal(err)
	}
	for chunk := range slices.Chunk(whole, len(whole)/10) {
		if _, err := file.Write(chunk); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	r.eventually("the slow file", func() bool { return r.isPinned("slow") })

	// A broken one is imported as soon as it is mended.
	r.put("broken.tar", archive(t, "mended"))
	r.eventually("the mended file", func() bool { return r.isPinned("mended") })

	r.put("after.tar", archive(t, "after-2 after-3"))
	r.eventually("the new content", func() bool { return r.isPinned("after-3") && !r.isPinned("after-1") })
	if err := os.Remove(filepath.Join(r.dir, "after.tar")); err != nil {
		t.Fatal(err)
	}
	r.eventually("the images of a removed file to be let go", func() bool { return !r.isPinned("after-2") && !r.isPinned("after-3") })
	r.stop()
	for _, want := range []string{"broken.tar", "skipped until it changes"} {
		if !strings.Contains(r.logged.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, r.logged)
		}
	}
	for _, image := range []string{"before", "slow", "mended"} {
		if !r.isPinned(image) || r.count(image) != 1 {
			t.Errorf("%s is pinned: %t, and was imported %d times", image, r.isPinned(image), r.count(image))
		}
	}
	if r.count("note") != 0 {
		t.Error("a file that isn't called an archive is taken for one")
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, name := range []string{"same", "touched", "changed", "lost", "unpinned"} {
		r.put(name+".tar", archive(t, name))
	}
	r.start()
	r.eventually("the imports", func() bool {
		return r.isPinned("same") && r.isPinned("touched") && r.isPinned("changed") && r.isPinned("lost") && r.isPinned("unpinned")
	})
	r.stop()

	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(r.dir, "touched.tar"), old, old); err != nil {
		t.Fatal(err)
	}
	r.put("changed.tar", archive(t, "changed more"))
	r.mu.Lock()
	delete(r.pinned, "lost")
	r.pinned["unpinned"] = false
	r.mu.Unlock()
	r.start()
	r.eventually("the second look", func() bool { return r.isPinned("more") && r.isPinned("lost") && r.isPinned("unpinned") })
	r.stop()
	for image, want := range map[string]int{"same": 1, "touched": 1, "changed": 2, "lost": 2, "unpinned": 1} {
		if got := r.count(image); got != want {
			t.Errorf("%s was imported %d times, want %d", image, got, want)
		}
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.refuse["docker.io/library/busybox:1"] = 3
	r.put("list.txt", []byte("# images\n\nbusybox:1 # comes late\nregistry.example/team/app:2\n"))
	r.put("bad.txt", []byte("fine.example/app:1\nNot An Image\n"))
	r.start()
	r.eventually("the list's images", func() bool {
		return r.isPinned("docker.io/library/busybox:1") && r.isPinned("registry.example/team/app:2")
	})
	r.put("list.txt", []byte("registry.example/team/app:2\n"))
	r.put("other.txt", []byte("registry.example/team/app:3\n"))
	r.eventually("the other list", func() bool {
		return r.isPinned("registry.example/team/app:3") && !r.isPinned("docker.io/library/busybox:1")
	})
	r.stop()
	if r.isPinned("fine.example/app:1") {
		t.Error("half of a bad list is pulled")
	}
	log := r.logged.String()
	if err := os.Remove(filepath.Join(r.dir, "other.txt")); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.eventually("the image of the list that is gone to be let go", func() bool { return !r.isPinned("registry.example/team/app:3") })
	r.stop()
	if !r.isPinned("registry.example/team/app:2") {
		t.Error("the image of the list that is there is let go")
	}
	if !strings.Contains(log, "bad.txt") || !strings.Contains(log, "line 2") {
		t.Errorf("the log doesn't name the bad line:\n%s", log)
	}
}

func TestDecompress(t *testing.T) {
	t.Parallel()
	const text = "what the file holds"
	compress := func(name string, w func(io.Writer) io.WriteCloser) []byte {
		var b bytes.Buffer
		out := w(&b)
		if _, err := io.WriteString(out, text); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := out.Close(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return b.Bytes()
	}
	for name, content := range map[string][]byte{
		"plain": []byte(text),
		"gzip":  compress("gzip", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		"zstd": compress("zstd", func(w io.Writer) io.WriteCloser {
			out, err := zstd.NewWriter(w)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}),
		"lz4":   compress("lz4", func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) }),
		"bzip2": bzipped,
	} {
		reader, err := decompress(bytes.NewReader(content))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := io.ReadAll(reader)
		if err != nil || string(got) != text {
			t.Errorf("%s gives %q, error %v", name, got, err)
		}
		if err := reader.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"a.tar", "a.tar.gz", "a.tgz", "a.tar.zst", "a.tar.lz4", "a.tar.bz2", "a.tbz"} {
		if !isArchive(name) {
			t.Errorf("%s is taken for no archive", name)
		}
	}
	for _, name := range []string{"a.txt", "tar", "a.zip", "a.tar.part"} {
		if isArchive(name) {
			t.Errorf("%s is taken for an archive", name)
		}
	}
}

// bzipped is made by: printf 'what the file holds' | bzip2
var bzipped = []byte{
	0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 0xd5, 0x0d, 0x6c, 0x02, 0x00, 0x00,
	0x09, 0x11, 0x80, 0x40, 0x00, 0x27, 0x64, 0x8c, 0x80, 0x20, 0x00, 0x22, 0x09, 0x84, 0xcf, 0x50,
	0x40, 0xd0, 0x34, 0x1d, 0x0a, 0xb6, 0x68, 0xd8, 0xf5, 0x87, 0xc2, 0xb7, 0x85, 0xdc, 0x91, 0x4e,
	0x14, 0x24, 0x35, 0x43, 0x5b, 0x00, 0x80,
}
