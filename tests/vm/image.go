package vm

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	_ "embed" // the recipe
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// recipe is the program that makes an image. Another recipe makes another image.
//
//go:embed image.sh
var recipe string

// The files of an image.
const (
	diskFile    = "disk.raw"
	kernelFile  = "vmlinuz"
	initrdFile  = "initrd"
	keyFile     = "key"      // for ssh as root
	hostKeyFile = "host.pub" // sshd's
)

// program is a program of the machine that runs the tests, and Debian's package
// of it.
type program struct{ name, pkg string }

var (
	imagePrograms = []program{
		{"apt-get", "apt"},
		{"debootstrap", "debootstrap"},
		{"mke2fs", "e2fsprogs"},
	}
	machinePrograms = []program{
		{"qemu-system-x86_64", "qemu-system-x86"},
		{"qemu-img", "qemu-utils"},
	}
)

// need says which of the programs are missing, and how to get them.
func need(programs []program) error {
	var names, packages []string
	for _, p := range programs {
		if _, err := exec.LookPath(p.name); err != nil {
			names = append(names, p.name)
			packages = append(packages, p.pkg)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%s not found: apt-get install %s", strings.Join(names, ", "), strings.Join(packages, " "))
}

// Image returns the directory of the image that machines begin with: a disk, its
// kernel and initrd, and the keys of ssh. It is made when it isn't there or the
// recipe has changed, which takes a minute or two, while progress hears about it.
func Image(ctx context.Context, progress io.Writer) (string, error) {
	base, err := stateDir()
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256([]byte(recipe + runtime.GOARCH))
	dir := filepath.Join(base, "image-"+hex.EncodeToString(hash[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("make an image for virtual machines: there is a recipe for amd64, not for %s", runtime.GOARCH)
	}
	if os.Geteuid() != 0 {
		return "", errors.New("make an image for virtual machines: this needs root, once")
	}
	if err := need(imagePrograms); err != nil {
		return "", fmt.Errorf("make an image for virtual machines: %w", err)
	}

	lock, err := lockWithin(ctx, base, lockLimit)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if _, err := os.Stat(dir); err == nil { // made by the one who had the lock
		return dir, nil
	}
	if err := removeImages(base); err != nil {
		return "", err
	}
	begin := time.Now()
	fmt.Fprintln(progress, "making the image for virtual machines")
	made, err := os.MkdirTemp(base, "image-new-")
	if err != nil {
		return "", err
	}
	if err := makeImage(ctx, made); err != nil {
		return "", errors.Join(fmt.Errorf("make an image for virtual machines: %w", err), os.RemoveAll(made))
	}
	if err := os.Rename(made, dir); err != nil {
		return "", err
	}
	fmt.Fprintf(progress, "it was made in %s\n", time.Since(begin).Round(time.Second))
	return dir, nil
}

// stateDir is where images and the files of running machines are.
func stateDir() (string, error) {
	root, err := testbed.ModuleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "vm")
	return dir, os.MkdirAll(dir, 0o755)
}

// removeImages removes images of other recipes, and what interrupted builds left.
func removeImages(base string) error {
	old, err := filepath.Glob(filepath.Join(base, "image-*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an old image: %w", err)
		}
	}
	return nil
}

func makeImage(ctx context.Context, dir string) error {
	mirror, err := findMirror(ctx)
	if err != nil {
		return err
	}
	authorized, err := makeKey(filepath.Join(dir, keyFile))
	if err != nil {
		return err
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, "sh", "-c", recipe, "image.sh", dir, mirror)
	cmd.Stdin = bytes.NewReader(authorized)
	cmd.Stdout, cmd.Stderr = &output, &output
	// Whatever the recipe has started and mounted goes with it, also when it is
	// interrupted.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWPID,
		Unshareflags: unix.CLONE_NEWNS,
		Pdeathsig:    unix.SIGKILL,
	}
	if err := onThread(cmd.Run); err != nil {
		return fmt.Errorf("%w; its last lines:\n%s", err, lastLines(output.String(), 15))
	}
	return nil
}

// makeKey writes a new private key and returns its line for authorized_keys.
func makeKey(path string) ([]byte, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	return ssh.MarshalAuthorizedKey(key), os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

// findMirror asks apt where this machine gets Debian from.
func findMirror(ctx context.Context) (string, error) {
	// Without the release's own information there is no need for package lists.
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--no-release-info",
		"--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its sources: %w", err)
	}
	return mirror(string(out))
}

// mirror chooses from lines of release, component and address. A mirror has all
// releases, so the one of another release will do.
func mirror(sources string) (string, error) {
	other := ""
	for line := range strings.Lines(sources) {
		f := strings.Fields(line)
		if len(f) != 3 || f[1] != "main" {
			continue
		}
		switch {
		case f[0] == "bookworm":
			return f[2], nil
		case other == "" && !strings.Contains(f[0], "-"): // such as bookworm-security
			other = f[2]
		}
	}
	if other == "" {
		return "", errors.New("apt's sources name no Debian mirror (a line such as: deb ADDRESS bookworm main)")
	}
	return other, nil
}

// lockLimit is longer than another process takes to make an image.
const lockLimit = 30 * time.Minute

// lockWithin locks a directory, and waits while another process holds it.
func lockWithin(ctx context.Context, dir string, limit time.Duration) (lock *os.File, err error) {
	waitErr := testbed.Wait(ctx, "the lock of "+dir, limit, func(context.Context) (bool, string) {
		lock, err = lockDir(dir)
		return err == nil || !errors.Is(err, unix.EWOULDBLOCK), "another process holds it"
	})
	return lock, errors.Join(waitErr, err)
}

// lockDir locks a directory for as long as the file is open and this process lives.
func lockDir(path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return dir, nil
}

// lastLines returns the end of a text.
func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// lastLinesOf returns the end of a file, or why it can't be had.
func lastLinesOf(path string, count int) string {
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	return lastLines(string(content), count)
}
