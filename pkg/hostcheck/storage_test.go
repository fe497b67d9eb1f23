package hostcheck

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mounted mounts a file system on a new directory for the time of a test.
func mounted(t *testing.T, fs, source, options string, flags uintptr) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount(source, dir, fs, flags, options); err != nil {
		t.Skipf("mount %s: %v", fs, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// loopMounted mounts a new ext4 with some features in a file.
func loopMounted(t *testing.T, features string) string {
	t.Helper()
	needRoot(t)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, args := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-O", features, image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// entries lists everything below a directory.
func entries(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

func TestWritable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	before := entries(t, dir)
	for path, want := range map[string]string{
		"":            "",
		"a/b/c":       "",
		"file":        "file is not a directory",
		"file/a/b":    "file is not a directory",
		"dangling":    "dangling is a symbolic link to nowhere, which doesn't exist",
		"dangling/a":  "dangling is a symbolic link to nowhere, which doesn't exist",
		"a/../file/b": "file is not a directory",
	} {
		err := Writable(filepath.Join(dir, path))
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", path, err, want)
		}
	}
	if after := entries(t, dir); after != before {
		t.Errorf("there was\n%s\nthere is\n%s", before, after)
	}
}

func TestWritableReadOnlyMount(t *testing.T) {
	dir := mounted(t, "tmpfs", "tmpfs", "", unix.MS_RDONLY)
	for _, path := range []string{"", "a/b"} {
		err := Writable(filepath.Join(dir, path))
		if err == nil || !strings.HasSuffix(err.Error(), dir+" is on a file system mounted read-only") {
			t.Errorf("%q: %v", path, err)
		}
	}
	if err := OverlayUsable(dir); !errors.Is(err, ErrUntried) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("overlay: %v", err)
	}
}

func TestWithoutPermission(t *testing.T) {
	needRoot(t)
	const nobody = 65534
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // nobody must get here
			t.Fatal(err)
		}
	}
	// A thread that ends can as well become another user before.
	err := onNewNetwork(func() error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			return errno
		}
		if err := Writable(dir + "/x"); err == nil || !strings.HasSuffix(err.Error(), dir+": permission denied") {
			t.Errorf("writable: %v", err)
		}
		if err := OverlayUsable(dir); !errors.Is(err, ErrUntried) {
			t.Errorf("overlay: %v", err)
		}
		notRoot := Host{Root: dir}
		if f := notRoot.writableFinding(dir); f.Level != Unknown {
			t.Errorf("what another user can't write to: %+v", f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOverlayWithoutCapability(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	err := onNewNetwork(func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		none[0].Effective = 1 << unix.CAP_DAC_OVERRIDE
		none[0].Permitted = none[0].Effective
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		if err := OverlayUsable(dir); !errors.Is(err, ErrUntried) {
			t.Errorf("without CAP_SYS_ADMIN: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFreeSpace(t *testing.T) {
	for options, want := range map[string]Level{
		"size=100m": Failure,
		"size=1g":   Warning,
		"size=3g":   OK,
	} {
		dir := mounted(t, "tmpfs", "tmpfs", options, 0)
		free, err := FreeSpace(dir + "/not/there/yet")
		if err != nil {
			t.Fatal(err)
		}
		megabytes := map[Level]uint64{Failure: 100, Warning: 1024, OK: 3072}[want]
		if free != megabytes<<20 {
			t.Errorf("%s: %d bytes free", options, free)
		}
		f := spaceFinding(dir)
		if f.Level != want || (f.Fix == "") != (want == OK) {
			t.Errorf("%s: %+v", options, f)
		}
	}
	if f := spaceFinding("/proc/self/status/x"); f.Level != Unknown {
		t.Errorf("below a file: %+v", f)
	}
}

func TestPrograms(t *testing.T) {
	dir := mounted(t, "tmpfs", "tmpfs", "", unix.MS_NOEXEC)
	f := execFinding(dir + "/data")
	if f.Level != Failure || !strings.Contains(f.Fix, "mount -o remount,exec") {
		t.Errorf("noexec: %+v", f)
	}
	if f := execFinding(mounted(t, "tmpfs", "tmpfs", "", 0)); f.Level != OK {
		t.Errorf("exec: %+v", f)
	}
}

func TestOverlayUsable(t *testing.T) {
	needRoot(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := OverlayUsable(filepath.Join(dir, "not/there/yet")); errors.Is(err, ErrUntried) {
		t.Error(err) // whether overlayfs works here is up to the machine
	}
	if left := entries(t, dir); left != dir {
		t.Errorf("left behind:\n%s", left)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if string(after) != string(mounts) {
		t.Errorf("mounts were\n%s\nare\n%s", mounts, after)
	}
}

func TestOverlayUsableOn(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	for _, d := range []string{"l", "u", "w"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=" + base + "/l,upperdir=" + base + "/u,workdir=" + base + "/w"
	for _, c := range []struct {
		name  string
		dir   func(t *testing.T) string
		want  string // part of the error; "" for none
		level Level
	}{
		{"tmpfs", func(t *testing.T) string { return mounted(t, "tmpfs", "tmpfs", "size=10m", 0) }, "", OK},
		{"ext4", func(t *testing.T) string { return loopMounted(t, "filetype") }, "", OK},
		{"ext4 without entry types", func(t *testing.T) string { return loopMounted(t, "^filetype") }, "(ext4): the file system's directories don't tell files from directories", Warning},
		{"overlay", func(t *testing.T) string { return mounted(t, "overlay", "overlay", options, 0) }, "(overlay): ", Warning},
		{"a full disk", func(t *testing.T) string { return mounted(t, "tmpfs", "tmpfs", "nr_inodes=4", 0) }, "no space left", Unknown},
		{"a colon", func(t *testing.T) string { return filepath.Join(t.TempDir(), "a:b") }, "a colon, comma or backslash", Warning},
		{"a file", func(*testing.T) string { return "/proc/self/status" }, "not a directory", Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := c.dir(t)
			err := OverlayUsable(dir)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			t.Log(err)
			if left, _ := filepath.Glob(dir + "/.kedge*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if f := overlayFinding(dir); f.Level != c.level || (f.Fix != "") != (f.Level == Warning) {
				t.Errorf("finding %+v", f)
			}
		})
	}
}

func TestFileSystem(t *testing.T) {
	dir := mounted(t, "tmpfs", "tmpfs", "", 0)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "tmpfs", link: "tmpfs", "/proc/self": "proc"} {
		if got := fileSystem(path); got != want {
			t.Errorf("%s is on %s", path, got)
		}
	}
}
