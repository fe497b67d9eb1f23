package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/payload"
)

// built are the programs and the kedge file that TestMain makes.
var built struct {
	dir     string // that all users may read
	file    string // a kedge file with the probe as its program
	trailer payload.Trailer
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "launcher")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		built.dir = dir
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func build(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	root := filepath.Join(dir, "root")
	// Enough to be killed in the middle of, with nothing to compress.
	noise := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	for i := range 6 {
		if err := add(root, fmt.Sprintf("share/noise/%d", i), noise[i*1000:]); err != nil {
			return err
		}
	}
	if err := add(root, "share/empty", nil); err != nil {
		return err
	}
	for program, source := range map[string]string{
		"launcher":                             ".",
		"pack":                                 "../../scripts/pack",
		filepath.Join("root", payload.Program): "./testdata/probe",
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, program), source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	if err := os.Symlink("kedge", filepath.Join(root, "bin", "kubectl")); err != nil {
		return err
	}
	if err := addSums(root); err != nil {
		return err
	}
	built.file = filepath.Join(dir, "kedge")
	var err error
	built.trailer, err = makeFile(built.file, root)
	return err
}

func add(root, name string, content []byte) error {
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// addSums adds the list that the probe checks.
func addSums(root string) error {
	var sums bytes.Buffer
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		fmt.Fprintf(&sums, "%x %s\n", sha256.Sum256(b), name)
		return err
	})
	return errors.Join(err, add(root, "SUMS", sums.Bytes()))
}

func makeFile(name, root string) (payload.Trailer, error) {
	cmd := exec.Command(filepath.Join(built.dir, "pack"), "-level=fast", "-out="+name, "-root="+root, "-launcher="+filepath.Join(built.dir, "launcher"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return payload.Trailer{}, fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	f, err := payload.Open(name, name)
	if err != nil {
		return payload.Trailer{}, err
	}
	return f.Trailer, f.Close()
}

// launch says how to start a kedge file.
type launch struct {
	file    string // the test's own if empty
	argv    []string
	dataDir string
	env     []string
	attr    *syscall.SysProcAttr
}

func (s launch) command() *exec.Cmd {
	if s.file == "" {
		s.file = built.file
	}
	cmd := exec.Command(s.file)
	if s.argv != nil {
		cmd.Args = s.argv
	}
	cmd.Env = append([]string{"LANG=C"}, s.env...)
	if s.dataDir != "" {
		cmd.Env = append(cmd.Env, "KEDGE_DATA_DIR="+s.dataDir)
	}
	cmd.SysProcAttr = s.attr
	return cmd
}

// answer is what came of a start.
type answer struct {
	Exe     string
	Argv    []string
	Environ []string
	stderr  string
	code    int
}

func (s launch) run(t testing.TB) answer {
	t.Helper()
	cmd := s.command()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	a := answer{stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), &a); err != nil {
			t.Fatalf("%v in %q", err, stdout.String())
		}
	}
	return a
}

// mustRun runs the probe, which has then found its payload whole.
func (s launch) mustRun(t testing.TB) answer {
	t.Helper()
	a := s.run(t)
	if a.code != 0 || a.Exe == "" {
		t.Fatalf("exit code %d: %s", a.code, a.stderr)
	}
	return a
}

// mustFail expects one line of error with all the words, and nothing unpacked.
func (s launch) mustFail(t testing.TB, words ...string) {
	t.Helper()
	a := s.run(t)
	if a.code != 1 || a.Exe != "" {
		t.Errorf("exit code %d, ran %q", a.code, a.Exe)
	}
	lines := strings.Split(strings.TrimSpace(a.stderr), "\n")
	last := lines[len(lines)-1]
	if len(lines) > 1 && !strings.Contains(lines[0], "unpacking") || len(lines) > 2 {
		t.Errorf("more than one line: %s", a.stderr)
	}
	for _, word := range append(words, "kedge: ") {
		if !strings.Contains(last, word) {
			t.Errorf("got %q, want %q in it", last, word)
		}
	}
	if s.dataDir == "" {
		return
	}
	for _, e := range store(t, s.dataDir) {
		if e != ".lock" {
			t.Errorf("left %s", e)
		}
	}
}

// store lists what is in the store, nil if there is none.
func store(t testing.TB, dataDir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dataDir, "data"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func program(dataDir string) string {
	return filepath.Join(payload.Dir(dataDir, built.trailer.ID()), payload.Program)
}

// TestSources looks at what TestMain builds, so that the results of these
// tests are not taken from go's test cache when it changes.
func TestSources(t *testing.T) {
	for _, dir := range []string{".", "testdata/probe", "../../scripts/pack", "../../pkg/payload", "../../pkg/config"} {
		sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(sources) == 0 {
			t.Errorf("%s: %v, %v", dir, sources, err)
		}
		for _, source := range append(sources, dir) {
			if _, err := os.Stat(source); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestStart(t *testing.T) {
	s := launch{dataDir: filepath.Join(t.TempDir(), "new", "dir"), env: []string{"X=y", "KEDGE_LAUNCHER=old"}}
	s.argv = []string{"any name", "server", "", "--flag=a b"}
	for i, wantLines := range []int{2, 0} {
		a := s.mustRun(t)
		if a.Exe != program(s.dataDir) || !slices.Equal(a.Argv, s.argv) {
			t.Errorf("start %d: ran %q as %q", i, a.Exe, a.Argv)
		}
		want := []string{"LANG=C", "X=y", "KEDGE_DATA_DIR=" + s.dataDir, "KEDGE_LAUNCHER=" + built.file}
		if !slices.Equal(a.Environ, want) {
			t.Errorf("start %d: environment %q, want %q", i, a.Environ, want)
		}
		if got := strings.Count(a.stderr, "\n"); got != wantLines {
			t.Errorf("start %d: said %q", i, a.stderr)
		}
	}
	if got := (launch{dataDir: s.dataDir, argv: []string{"kedge", "exit-with-7"}}).run(t).code; got != 7 {
		t.Errorf("exit code %d", got)
	}
	if got := store(t, s.dataDir); !slices.Equal(got, []string{".lock", built.trailer.ID()}) {
		t.Errorf("store holds %q", got)
	}
}

func TestDataDirOption(t *testing.T) {
	dir := t.TempDir()
	a := launch{argv: []string{"kedge", "server", "--data-dir", dir}, dataDir: "/nonexistent"}.mustRun(t)
	if a.Exe != program(dir) {
		t.Errorf("ran %s", a.Exe)
	}
}

func TestSymlinks(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"kubectl", "ctr", "link"} {
		link := filepath.Join(dir, name)
		if err := os.Symlink(built.file, link); err != nil {
			t.Fatal(err)
		}
		// What looks like Kedge's own option isn't if a tool is called.
		s := launch{file: link, argv: []string{link, "logs", "--data-dir=/proc/none"}, dataDir: filepath.Join(dir, "data")}
		if name == "link" {
			s.argv = s.argv[:2]
		}
		a := s.mustRun(t)
		if a.Argv[0] != link || !slices.Contains(a.Environ, "KEDGE_LAUNCHER="+built.file) {
			t.Errorf("%s: argv %q, environment %q", name, a.Argv, a.Environ)
		}
	}
}

// A secret is out of the list of processes before the first start unpacks.
func TestSecretWhileUnpacking(t *testing.T) {
	s := launch{dataDir: t.TempDir(), argv: []string{"kedge", "agent", "--token", "s3cret", "--debug"}}
	release := lockStore(t, s.dataDir)
	cmd := s.command()
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stderr).ReadString('\n'); !strings.Contains(line, "waiting") {
		t.Errorf("it says %q, error %v", line, err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
	if want := "kedge\x00agent\x00--debug\x00"; err != nil || string(line) != want {
		t.Errorf("its command line is %q, error %v", line, err)
	}
	release()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(stdout.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	if a.Exe != program(s.dataDir) || !slices.Contains(a.Environ, "KEDGE_TOKEN=s3cret") {
		t.Errorf("ran %s in the environment %q", a.Exe, a.Environ)
	}
}

// lockStore has launchers wait before they unpack, until release.
func lockStore(t testing.TB, dataDir string) (release func()) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dataDir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dataDir, "data", ".lock"))
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	return func() { _ = lock.Close() }
}

// The launcher needs no library, no shell and no file but its own.
func TestNothingElseNeeded(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "proc"), 0o700); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(dir, "kedge"))
	s := launch{file: "/kedge", attr: &syscall.SysProcAttr{Chroot: dir}}
	s.mustFail(t, "is /proc mounted")
	mount(t, "proc", filepath.Join(dir, "proc"), "proc", 0, "")
	if a := s.mustRun(t); !strings.HasPrefix(a.Exe, "/var/lib/kedge/data/") {
		t.Errorf("ran %s", a.Exe)
	}
}

func TestManyStarts(t *testing.T) {
	s := launch{dataDir: t.TempDir()}
	answers := make([]answer, 8)
	var group sync.WaitGroup
	for i := range answers {
		group.Go(func() { answers[i] = s.run(t) })
	}
	group.Wait()
	unpacked := 0
	for _, a := range answers {
		if a.code != 0 || a.Exe != program(s.dataDir) {
			t.Errorf("exit code %d: %s", a.code, a.stderr)
		}
		unpacked += strings.Count(a.stderr, "unpacking")
	}
	if unpacked != 1 {
		t.Errorf("unpacked %d times", unpacked)
	}
}

func TestKilled(t *testing.T) {
	const times = 25
	midway := 0
	for i := range times {
		s := launch{dataDir: t.TempDir()}
		cmd := s.command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Once this much is on disk, from nothing to all.
		for part := built.trailer.Size * int64(i) / times; written(s.dataDir) < part; {
			if _, err := os.Stat(program(s.dataDir)); err == nil {
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		if _, err := os.Stat(program(s.dataDir)); err != nil {
			midway++
		}
		s.mustRun(t)
		if got := store(t, s.dataDir); !slices.Equal(got, []string{".lock", built.trailer.ID()}) {
			t.Errorf("store holds %q", got)
		}
	}
	if midway == 0 {
		t.Error("never killed before the end")
	}
	t.Logf("killed %d times before the end", midway)
}

// written is the number of bytes in unfinished payloads.
func written(dataDir string) (sum int64) {
	_ = filepath.WalkDir(filepath.Join(dataDir, "data"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != ".lock" {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil // what vanishes meanwhile doesn't count
	})
	return sum
}

func TestHangupWhileWaiting(t *testing.T) {
	for name, ignored := range map[string]bool{"hangup": false, "hangup under nohup": true} {
		t.Run(name, func(t *testing.T) {
			s := launch{dataDir: t.TempDir()}
			name := filepath.Join(s.dataDir, "data", ".lock")
			release := lockStore(t, s.dataDir)
			cmd := s.command()
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			// A child inherits that a signal is ignored, not how it is handled.
			if ignored {
				signal.Ignore(syscall.SIGHUP)
			} else {
				signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
			}
			defer signal.Reset(syscall.SIGHUP)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stderr)
			expect := func(want string) {
				t.Helper()
				if lines.Scan(); !strings.HasPrefix(lines.Text(), "kedge: "+want) {
					t.Errorf("got %q, want %q", lines.Text(), want)
				}
			}
			expect("waiting for another kedge to release " + name)
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Error(err)
			}
			wantCode := 1
			if ignored {
				wantCode = 0
				release()
				expect("unpacking")
				expect("done")
			} else {
				expect("unpack Kedge: interrupted")
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != wantCode {
				t.Error(err)
			}
		})
	}
}

// A payload that is removed while it is being started is unpacked again, or
// stays.
func TestRemovedWhileStarting(t *testing.T) {
	small := filepath.Join(t.TempDir(), "root")
	probe, err := os.ReadFile(filepath.Join(built.dir, "root", payload.Program))
	if err == nil {
		err = add(small, payload.Program, probe)
	}
	if err == nil {
		err = errors.Join(addSums(small), os.Chmod(filepath.Join(small, payload.Program), 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kedge")
	if _, err := makeFile(file, small); err != nil {
		t.Fatal(err)
	}
	s := launch{file: file, dataDir: t.TempDir()}
	stop := make(chan struct{})
	var removers, starters sync.WaitGroup
	removed := 0
	removers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			gone, err := payload.RemoveOld(s.dataDir, "")
			if err != nil {
				t.Error(err)
				return
			}
			removed += len(gone)
		}
	})
	for range 3 {
		starters.Go(func() {
			for range 15 {
				if a := s.run(t); a.code != 0 {
					t.Errorf("exit code %d: %s", a.code, a.stderr)
				}
			}
		})
	}
	starters.Wait()
	close(stop)
	removers.Wait()
	if removed == 0 {
		t.Error("nothing was ever removed")
	}
}

func TestDamaged(t *testing.T) {
	name := filepath.Join(t.TempDir(), "kedge")
	copyFile(t, name)
	s := launch{file: name, dataDir: t.TempDir()}
	// The file is open for writing only while nothing runs from it.
	change := func(do func(f *os.File) error) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err == nil {
			err = errors.Join(do(f), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, at int64) {
		t.Helper()
		s.mustFail(t, "the file "+name+" is damaged: ", "; download it again")
		if t.Failed() {
			t.Fatalf("%s %d", what, at)
		}
	}
	front, end := built.trailer.Offset, built.trailer.FileSize()
	back := end - payload.TrailerSize

	// Of the launcher, only what it doesn't need in order to say so.
	spots := []int64{front - 1, front, front + 1, front + 4, back - 1, back, back + 8, back + 12, back + 16, back + 47, back + 48, back + 79, back + 80, end - 1}
	random := rand.New(rand.NewPCG(3, 4))
	for range 10 {
		spots = append(spots, front+random.Int64N(back-front))
	}
	for _, at := range spots {
		flip := func(f *os.File) error {
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, at); err != nil {
				return err
			}
			_, err := f.WriteAt([]byte{b[0] ^ 0x20}, at)
			return err
		}
		change(flip)
		check("flipped bit in byte", at)
		change(flip)
	}
	change(func(f *os.File) error { return f.Truncate(end + 1) })
	check("made as long as", end+1)
	for _, size := range []int64{end - 1, back + 50, back + 1, back, back - 1, (front + back) / 2, front + 100, front + 1, front} {
		change(func(f *os.File) error { return f.Truncate(size) })
		check("cut to", size)
	}
}

func TestBadPlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const advice = "choose another directory with --data-dir"
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		launch{dataDir: dir}.mustFail(t, file, "not a directory", advice)
	}
}

func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "tmpfs", 0, "size=2m")
	launch{dataDir: dir}.mustFail(t, dir+" (tmpfs on tmpfs)", "MB needed, 2 MB available", "free some space or choose another directory with --data-dir")
}

func TestReadOnlyDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "tmpfs", 0, "")
	s := launch{dataDir: dir}
	remount(t, dir, unix.MS_RDONLY)
	s.mustFail(t, "read-only file system", "--data-dir")
	remount(t, dir, 0)
	s.mustRun(t)
	remount(t, dir, unix.MS_RDONLY)
	s.mustRun(t) // needs nothing but reading
}

func TestNoExecDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "tmpfs", unix.MS_NOEXEC, "")
	s := launch{dataDir: dir}
	want := []string{dir + " (tmpfs on tmpfs) is mounted noexec", "--data-dir"}
	s.mustFail(t, want...)
	remount(t, dir, 0)
	s.mustRun(t)
	remount(t, dir, unix.MS_NOEXEC)
	a := s.run(t)
	if a.code != 1 || !strings.Contains(a.stderr, want[0]) || !strings.Contains(a.stderr, want[1]) {
		t.Errorf("exit code %d: %s", a.code, a.stderr)
	}
}

func TestOtherUsers(t *testing.T) {
	needRoot(t)
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	// A directory that others can reach, with one of the user's own.
	dir, err := os.MkdirTemp(built.dir, "users")
	if err != nil {
		t.Fatal(err)
	}
	home, shared := filepath.Join(dir, "home"), filepath.Join(dir, "shared")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o700), os.Chown(home, 65534, 65534), os.Mkdir(shared, 0o755)); err != nil {
		t.Fatal(err)
	}
	user := launch{dataDir: shared, env: []string{"HOME=" + home}, attr: nobody}

	cached := program(filepath.Join(home, ".cache", "kedge"))
	if a := user.mustRun(t); a.Exe != cached {
		t.Errorf("nothing unpacked: ran %s", a.Exe)
	}
	launch{dataDir: shared}.mustRun(t)
	if a := user.mustRun(t); a.Exe != program(shared) || a.stderr != "" {
		t.Errorf("root has unpacked: ran %s and said %q", a.Exe, a.stderr)
	}
	if err := os.Chmod(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if a := user.mustRun(t); a.Exe != cached || a.stderr != "" {
		t.Errorf("root's can't be read: ran %s and said %q", a.Exe, a.stderr)
	}

	user.env = []string{"HOME=" + home, "XDG_CACHE_HOME=" + filepath.Join(home, "xdg")}
	if a := user.mustRun(t); a.Exe != program(filepath.Join(home, "xdg", "kedge")) {
		t.Errorf("XDG_CACHE_HOME: ran %s", a.Exe)
	}
	user.dataDir = "" // shared isn't the user's to clean
	user.env = []string{"HOME=" + dir}
	user.mustFail(t, "permission denied", "choose another directory with XDG_CACHE_HOME")
	user.env = nil
	user.mustFail(t, "set XDG_CACHE_HOME")
}

func TestProgramThatCannotRun(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"no program":     {"not a program", "exec format error"},
		"no such loader": {"#!/nonexistent/loader\n", "lacks the loader"},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			if err := errors.Join(add(root, payload.Program, []byte(tt.content)), os.Chmod(filepath.Join(root, payload.Program), 0o755)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "kedge")
			if _, err := makeFile(file, root); err != nil {
				t.Fatal(err)
			}
			a := launch{file: file, dataDir: t.TempDir()}.run(t)
			if a.code != 1 || !strings.Contains(a.stderr, tt.want) {
				t.Errorf("exit code %d: %s", a.code, a.stderr)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	for _, tt := range []struct{ argv, want []string }{
		{nil, nil},
		{[]string{"kedge"}, []string{}},
		{[]string{"/usr/bin/kedge", "server"}, []string{"server"}},
		{[]string{"/usr/bin/kubectl", "logs"}, []string{"kubectl", "logs"}},
	} {
		if got := arguments(tt.argv); !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %q", tt.argv, got)
		}
	}
}

// BenchmarkStart measures what the launcher adds to the start of a program
// whose payload is unpacked: compare "launched" with "direct".
func BenchmarkStart(b *testing.B) {
	s := launch{dataDir: b.TempDir()}
	s.mustRun(b)
	s.argv = []string{"kedge", "do-nothing"}
	direct := s
	direct.file = program(s.dataDir)
	starts := map[string]launch{"launched": s, "direct": direct}
	for _, name := range slices.Sorted(maps.Keys(starts)) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := starts[name].command().Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func mount(t testing.TB, source, dir, fstype string, flags uintptr, options string) {
	t.Helper()
	if err := unix.Mount(source, dir, fstype, flags, options); err != nil {
		t.Skipf("can't mount %s here: %v", fstype, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func remount(t testing.TB, dir string, flags uintptr) {
	t.Helper()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, to string) {
	t.Helper()
	b, err := os.ReadFile(built.file)
	if err == nil {
		err = os.WriteFile(to, b, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}
