package datadir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/pkg/version"
)

func newDir(t *testing.T) Dir {
	root := filepath.Join(t.TempDir(), "kedge")
	return Dir{Root: root, Role: filepath.Join(root, "server")}
}

func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got error %v, want %q in it", err, text)
		}
	}
}

func TestClaimIsExclusive(t *testing.T) {
	d := newDir(t)
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.Root); err == nil {
		t.Error("checking has made the directory")
	}
	release, err := d.Claim()
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, d.Check(), "another server is running on "+d.Root, "--data-dir")
	_, err = d.Claim()
	wantError(t, err, "another server is running")
	other := Dir{Root: d.Root, Role: filepath.Join(d.Root, "agent")}
	if err := other.Check(); err != nil {
		t.Errorf("another role is kept out: %v", err)
	}
	release()
	again, err := d.Claim()
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestNewerVersionIsRefused(t *testing.T) {
	saved := version.Version
	t.Cleanup(func() { version.Version = saved })
	version.Version = "v1.37.0+kedge1"
	d := newDir(t)
	release, err := d.Claim()
	if err != nil {
		t.Fatal(err)
	}
	release()
	version.Version = "v1.36.3+kedge2"
	wantError(t, d.Check(), d.Root, "v1.37.0+kedge1", "v1.36.3+kedge2")
	version.Version = "v1.37.1+kedge1"
	if err := d.Check(); err != nil {
		t.Errorf("an upgrade is refused: %v", err)
	}
}

func TestHolder(t *testing.T) {
	d := newDir(t)
	if pid := d.Holder(); pid != 0 {
		t.Errorf("process %d holds a directory that is not there", pid)
	}
	release, err := d.Claim()
	if err != nil {
		t.Fatal(err)
	}
	if pid := d.Holder(); pid != os.Getpid() {
		t.Errorf("process %d holds the directory, want %d", pid, os.Getpid())
	}
	release()
	if pid := d.Holder(); pid != 0 {
		t.Errorf("process %d holds the directory after its release", pid)
	}
}

func TestHolderInLocks(t *testing.T) {
	const locks = `1: POSIX  ADVISORY  WRITE 11 fd:01:567 0 EOF
2: FLOCK  ADVISORY  WRITE -1 fd:01:568 0 EOF
3: FLOCK  ADVISORY  WRITE 33 00:2f:569 0 EOF
3: -> FLOCK  ADVISORY  WRITE 34 00:2f:569 0 EOF
odd
`
	for inode, want := range map[uint64]int{567: 0, 568: 0, 569: 33, 570: 0} {
		if got := holder(locks, inode); got != want {
			t.Errorf("the holder of %d is %d, want %d", inode, got, want)
		}
	}
}
