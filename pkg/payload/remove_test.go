package payload

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// idleEnv makes the test program do nothing until its input ends, so that it
// can play a program of a payload.
const idleEnv = "KEDGE_TEST_IDLE"

// removeEnv makes it give up the right to look into other processes and then
// call RemoveOld for this data directory.
const removeEnv = "KEDGE_TEST_REMOVE"

func TestMain(m *testing.M) {
	switch dataDir := os.Getenv(removeEnv); {
	case os.Getenv(idleEnv) != "":
		_, _ = os.Stdout.WriteString("ready\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case dataDir != "" && len(os.Args) == 1:
		runtime.LockOSThread() // exec takes over this thread's rights
		err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_PTRACE, 0, 0, 0)
		fmt.Println(err, unix.Exec("/proc/self/exe", []string{"test", "again"}, os.Environ()))
		os.Exit(1)
	case dataDir != "":
		fmt.Println(RemoveOld(dataDir, ""))
	default:
		os.Exit(m.Run())
	}
}

const (
	id1 = "1111111111111111"
	id2 = "2222222222222222"
	id3 = "3333333333333333"
)

// install makes unpacked payloads with this test as their program.
func install(t *testing.T, dataDir string, ids ...string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		name := filepath.Join(Dir(dataDir, id), Program)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		// A copy, for a hard link would be the same file in all payloads.
		b, err := os.ReadFile(exe)
		if err == nil {
			err = os.WriteFile(name, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// run starts the program of a payload; stop ends it.
func run(t *testing.T, name string) (stop func()) {
	t.Helper()
	cmd := exec.Command(name)
	cmd.Env = append(os.Environ(), idleEnv+"=1", "GORACE=atexit_sleep_ms=0")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	}
}

func removeAndCheck(t *testing.T, dataDir, current string, removed, left []string) {
	t.Helper()
	got, err := RemoveOld(dataDir, current)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range removed {
		removed[i] = Dir(dataDir, id)
	}
	if !slices.Equal(got, removed) {
		t.Errorf("removed %q, want %q", got, removed)
	}
	if got := names(t, storeDir(dataDir)); !slices.Equal(got, left) {
		t.Errorf("left %q, want %q", got, left)
	}
}

func TestRemoveOld(t *testing.T) {
	dataDir := t.TempDir()
	install(t, dataDir, id1, id2, id3)
	store := storeDir(dataDir)
	for _, name := range []string{unpackPrefix + "x", removePrefix + "y", "mine"} {
		if err := os.MkdirAll(filepath.Join(store, name, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	stop := run(t, filepath.Join(Dir(dataDir, id2), Program))
	removeAndCheck(t, dataDir, Dir(dataDir, id3), []string{id1}, []string{lockName, id2, id3, "mine"})
	stop()
	removeAndCheck(t, dataDir, Dir(dataDir, id3), []string{id2}, []string{lockName, id3, "mine"})
	removeAndCheck(t, dataDir, Dir(dataDir, id3), nil, []string{lockName, id3, "mine"})
}

// A process is seen under another path when a bind mount or another mount
// namespace is between, so files are compared and not paths.
func TestRemoveOldSeesThroughPaths(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dataDir, elsewhere := t.TempDir(), t.TempDir()
	install(t, dataDir, id1)
	if err := unix.Mount(dataDir, elsewhere, "", unix.MS_BIND, ""); err != nil {
		t.Skip("can't make a bind mount here:", err)
	}
	stop := run(t, filepath.Join(Dir(elsewhere, id1), Program))
	removeAndCheck(t, dataDir, id2, nil, []string{lockName, id1})
	stop()
	if err := unix.Unmount(elsewhere, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	removeAndCheck(t, dataDir, id2, []string{id1}, []string{lockName})
}

// A process that may not be looked into is judged by its name.
func TestRemoveOldWithoutRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to give up")
	}
	dataDir := t.TempDir()
	install(t, dataDir, id1, id2)
	// Names of processes are cut to 15 characters. None of the two may be that
	// of a process which happens to run on this machine.
	used := filepath.Join(Dir(dataDir, id1), "bin", "tested-payload-in-use")
	unused := filepath.Join(Dir(dataDir, id2), "bin", "unused-payload-tested")
	for id, name := range map[string]string{id1: used, id2: unused} {
		if err := os.Rename(filepath.Join(Dir(dataDir, id), Program), name); err != nil {
			t.Fatal(err)
		}
	}
	defer run(t, used)()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), removeEnv+"="+dataDir, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("[%s] <nil>\n", Dir(dataDir, id2)); err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}

func TestRemoveOldNothingThere(t *testing.T) {
	dataDir := filepath.Join(t.TempDir(), "none")
	if got, err := RemoveOld(dataDir, id1); got != nil || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := os.Stat(dataDir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("made the data directory")
	}
}

func TestHold(t *testing.T) {
	dataDir := t.TempDir()
	install(t, dataDir, id1)
	root := Dir(dataDir, id1)
	if err := Hold(Dir(dataDir, id2)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing payload: %v", err)
	}
	old, err := claimOld(storeDir(dataDir), id2)
	if err != nil || len(old) != 1 {
		t.Fatalf("claimed %v, %v", old, err)
	}
	if err := Hold(root); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("payload being removed: %v", err)
	}
	if err := old[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := Hold(root); err != nil {
		t.Error(err)
	}
	// Held until this process ends.
	removeAndCheck(t, dataDir, id2, nil, []string{lockName, id1})
}
