package localpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const limit = time.Minute // for what should take milliseconds

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", limit, what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

var volume = Volume{Name: "pvc-1", Namespace: "ns", Claim: "data"}

// machine is a Node n1 whose roots can be changed.
type machine struct {
	*Node
	t      *testing.T
	config Config
	err    error // of reading the configuration
}

func newMachine(t *testing.T, roots ...string) *machine {
	m := &machine{t: t, config: Config{paths: map[string][]string{"n1": roots}, mode: 0o777}}
	m.restart()
	return m
}

// restart makes a new Node that knows nothing of the old one.
func (m *machine) restart() {
	m.Node = NewNode(NodeOptions{
		Name:   "n1",
		Config: func(context.Context) (Config, error) { return m.config, m.err },
		Log:    slog.New(slog.DiscardHandler),
	})
}

// run has the Node remove what is in attics.
func (m *machine) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("Run: %v", err)
		}
	})
}

func (m *machine) make(root string) string {
	m.t.Helper()
	path, err := m.Make(m.t.Context(), volume, root)
	if err != nil {
		m.t.Fatal(err)
	}
	return path
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func attics(t *testing.T, root string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, attic))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

func TestMake(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b")
	m := newMachine(t, root)
	path := m.make("")
	if want := filepath.Join(root, "pvc-1_ns_data"); path != want {
		t.Errorf("path %q, want %q", path, want)
	}
	for path, want := range map[string]fs.FileMode{path: 0o777, root: 0o700, filepath.Join(root, attic): 0o700} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", path, got, want)
		}
	}
	// Asked again, as after a lost answer, nothing changes.
	write(t, filepath.Join(path, "file"))
	if err := os.Chmod(path, 0o750); err != nil { //nolint:gosec // as a pod would
		t.Fatal(err)
	}
	if again := m.make(""); again != path {
		t.Errorf("path %q the second time, %q the first", again, path)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o750 || !exists(filepath.Join(path, "file")) {
		t.Errorf("making it again changed the directory: %v, %v", info.Mode(), err)
	}
}

func TestMakeChooses(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	m := newMachine(t, a, b)
	if path := m.make(b); filepath.Dir(path) != b {
		t.Errorf("asked for %s, made %s", b, path)
	}
	if path := m.make(""); filepath.Dir(path) != b {
		t.Errorf("the directory is in %s already, made %s", b, path)
	}
}

func TestMakeRefuses(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, test := range []struct {
		name    string
		volume  Volume
		root    string
		roots   []string
		config  error
		want    string
		notHere bool
	}{
		{name: "no path", volume: volume, want: "has no path for volumes on node n1", notHere: true},
		{name: "foreign path", volume: volume, root: "/etc", roots: []string{root}, want: "/etc is not among the paths of node n1", notHere: true},
		{name: "path above", volume: volume, root: root + "/..", roots: []string{root}, want: "is not among the paths", notHere: true},
		{name: "name with a separator", volume: Volume{"pvc", "ns", "../../etc"}, roots: []string{root}, want: "is not the directory of a volume"},
		{name: "no name", volume: Volume{}, roots: []string{root}, want: "is not the directory of a volume"},
		{name: "no configuration", volume: volume, config: errors.New("bad JSON"), want: "bad JSON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t, test.roots...)
			m.err = test.config
			_, err := m.Make(t.Context(), test.volume, test.root)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q", err, test.want)
			}
			if errors.Is(err, ErrNotHere) != test.notHere {
				t.Errorf("another node may have it: %t, want %t", !test.notHere, test.notHere)
			}
		})
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("what is refused has made %v, error %v", entries, err)
	}
}

func TestMakeThroughLink(t *testing.T) {
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	for _, d := range []string{root, outside} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(root, volume.Dir())); err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, root)
	if _, err := m.Make(t.Context(), volume, ""); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a link in the directory's place: %v", err)
	}
	if err := m.Remove(t.Context(), root, volume.Dir()); err == nil {
		t.Error("a link in the directory's place is removed")
	}
	if info, err := os.Stat(outside); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the link was followed: %v, %v", info, err)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	m := newMachine(t, root)
	path := m.make("")

	// What pods may leave: files without permissions, links out of the volume to
	// files and directories, many files, and a directory deeper than any path.
	secret := filepath.Join(dir, "secret", "file")
	write(t, secret)
	for link, target := range map[string]string{
		"absolute": filepath.Dir(secret), "relative": "../../secret", "to-file": secret, "up": "..", "loop": "loop", "nowhere": "/nonexistent",
	} {
		if err := os.Symlink(target, filepath.Join(path, link)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(path, "closed", "dir", "file"))
	if os.Geteuid() == 0 { // as an agent is
		if err := os.Chmod(filepath.Join(path, "closed"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 * batch {
		write(t, filepath.Join(path, "many", fmt.Sprint(i)))
	}
	nest(t, path, 3000)
	if err := unix.Mkfifo(filepath.Join(path, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}

	if err := m.Remove(t.Context(), root, volume.Dir()); err != nil {
		t.Fatal(err)
	}
	if exists(path) {
		t.Error("the directory is still in its place")
	}
	if len(attics(t, root)) != 1 {
		t.Errorf("in the attic is %q, want one directory", attics(t, root))
	}
	m.run()
	eventually(t, "the attic to be empty", func() bool { return len(attics(t, root)) == 0 })
	if !exists(secret) {
		t.Error("a file outside of the volume was removed")
	}
	// A lost answer is asked for again.
	if err := m.Remove(t.Context(), root, volume.Dir()); err != nil {
		t.Errorf("removed a second time: %v", err)
	}
}

// nest makes directories in each other, too deep for a path.
func nest(t *testing.T, path string, depth int) {
	t.Helper()
	dir, err := unix.Open(path, openDir, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(dir, "deeper", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(dir, "deeper", openDir, 0)
		_ = unix.Close(dir)
		if err != nil {
			t.Fatal(err)
		}
		dir = next
	}
	_ = unix.Close(dir)
}

func TestRemoveRefuses(t *testing.T) {
	dir := t.TempDir()
	root, other := filepath.Join(dir, "root"), filepath.Join(dir, "other")
	m := newMachine(t, root)
	m.make("")
	write(t, filepath.Join(other, volume.Dir(), "file"))
	for _, test := range []struct{ name, root, dir, want string }{
		{"a directory that never was a root", other, volume.Dir(), "is not a path for volumes"},
		{"above a root", dir, "root", "is not the directory of a volume"},
		{"the root itself", root, ".", "is not the directory of a volume"},
		{"the attic", root, attic, "is not the directory of a volume"},
		{"a path", root, "../other/pvc-1_ns_data", "is not the directory of a volume"},
		{"a relative root", "root", volume.Dir(), "it is not absolute"},
		{"the system's root", "/", volume.Dir(), "is not for volumes"},
		{"through the root", root + "/../other", volume.Dir(), "is not a path for volumes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := m.Remove(t.Context(), test.root, test.dir)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	for _, path := range []string{filepath.Join(other, volume.Dir(), "file"), filepath.Join(root, volume.Dir())} {
		if !exists(path) {
			t.Errorf("%s is gone", path)
		}
	}
}

// TestRemoveFromOldRoot removes a volume from a path that the configuration does
// not have any more.
func TestRemoveFromOldRoot(t *testing.T) {
	dir := t.TempDir()
	m := newMachine(t, filepath.Join(dir, "old"))
	path := m.make("")
	m.config.paths["n1"] = []string{filepath.Join(dir, "new")}
	if err := m.Remove(t.Context(), filepath.Dir(path), volume.Dir()); err != nil {
		t.Fatal(err)
	}
	if exists(path) {
		t.Error("the directory is still there")
	}
}

// TestRemoveInterrupted ends the Node after the directory was moved aside, and
// while it was being emptied.
func TestRemoveInterrupted(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	m := newMachine(t, root)
	path := m.make("")
	write(t, filepath.Join(path, "a", "b", "c"))
	if err := m.Remove(t.Context(), root, volume.Dir()); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, attic, atticName("part"), "d", "e"))

	m.restart()
	m.run()
	eventually(t, "the attic to be empty", func() bool { return len(attics(t, root)) == 0 })
}

// TestRemoveKeepsMounts has a file system mounted in a volume: what is in that is
// no part of the volume.
func TestRemoveKeepsMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	root, disk := filepath.Join(dir, "root"), filepath.Join(dir, "disk")
	write(t, filepath.Join(disk, "file"))
	m := newMachine(t, root)
	path := m.make("")
	write(t, filepath.Join(path, "file"))
	mounted := filepath.Join(path, "sub", "mounted")
	if err := os.MkdirAll(mounted, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(disk, mounted, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mounting is not possible here: %v", err)
	}
	mountedFile, err := os.Open(mounted) // follows the mount when it is moved
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", mountedFile.Fd()))
		_ = mountedFile.Close()
		if err == nil {
			err = unix.Unmount(path, unix.MNT_DETACH)
		}
		if err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	if err := m.Remove(t.Context(), root, volume.Dir()); err != nil {
		t.Fatal(err)
	}
	removed, err := emptyAttic(t.Context(), root)
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("error %v, want one that says that something is busy", err)
	}
	if removed < 2 { // the file and a move at least
		t.Errorf("%d removed: the mount keeps all the rest", removed)
	}
	if !exists(filepath.Join(disk, "file")) {
		t.Error("a file in a mounted file system was removed")
	}
}
