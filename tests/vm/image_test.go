package vm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

func TestMirror(t *testing.T) {
	const (
		security = "bookworm-security main http://one.example/security/\n"
		contrib  = "bookworm contrib http://two.example/debian/\n"
		trixie   = "trixie main http://three.example/debian/\n"
		bookworm = "bookworm main http://four.example/debian/\n"
	)
	for sources, want := range map[string]string{
		security + contrib + trixie + bookworm: "http://four.example/debian/",
		security + contrib + trixie:            "http://three.example/debian/",
		security + contrib:                     "",
		"":                                     "",
	} {
		got, err := mirror(sources)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("the mirror of\n%sis %q, error %v, want %q", sources, got, err, want)
		}
	}
}

func TestNeed(t *testing.T) {
	if err := need([]program{{"sh", "dash"}}); err != nil {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	err := need([]program{{"mke2fs", "e2fsprogs"}, {"qemu-img", "qemu-utils"}})
	const want = "mke2fs, qemu-img not found: apt-get install e2fsprogs qemu-utils"
	if err == nil || err.Error() != want {
		t.Errorf("got error %v, want %q", err, want)
	}
}

func TestRecipeIsAScript(t *testing.T) {
	cmd := exec.Command("sh", "-n")
	cmd.Stdin = strings.NewReader(recipe)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestMakeKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	authorized, err := makeKey(path)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(content)
	if err != nil {
		t.Fatal(err)
	}
	if want := string(ssh.MarshalAuthorizedKey(signer.PublicKey())); string(authorized) != want {
		t.Errorf("the public key is %q, the private key's %q", authorized, want)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	first, err := lockWithin(t.Context(), dir, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a second lock ends with %v", err)
	}
	if _, err := lockWithin(t.Context(), dir, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for the lock ends with %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := lockWithin(t.Context(), dir, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
}

func TestSweep(t *testing.T) {
	base := t.TempDir()
	for _, name := range []string{runPrefix + "dead", runPrefix + "alive", "image-1"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := lockDir(filepath.Join(base, runPrefix+"alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := sweep(base); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(base, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("left are %q, error %v", left, err)
	}
}

func TestLastLines(t *testing.T) {
	for text, want := range map[string]string{"": "", "a\n": "a", "a\nb\nc\n": "b\nc", "a\nb": "a\nb"} {
		if got := lastLines(text, 2); got != want {
			t.Errorf("the last lines of %q are %q, want %q", text, got, want)
		}
	}
}
