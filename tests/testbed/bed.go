package testbed

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// namePrefix begins the name of everything a bed makes outside of its
// namespaces: one directory and one cgroup.
const namePrefix = "kedge-testbed-"

// Bed is a set of hosts joined by a switch.
type Bed struct {
	name  string
	dir   string
	lock  *os.File
	wires *space // the switch

	mu    sync.Mutex
	hosts []*Host
}

// New makes a bed that ends with the test. When the test has failed, it first
// collects what the hosts know, and names the place in the test's output.
func New(t testing.TB) *Bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making hosts needs root")
	}
	bed, err := Open()
	if err != nil {
		t.Fatalf("make a testbed: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			report, err := bed.Collect(t.Name())
			t.Logf("%s\n(%v)", report, err)
		}
		if err := bed.Close(); err != nil {
			t.Errorf("end the testbed: %v", err)
		}
	})
	return bed
}

// Open makes a bed and removes what beds that died have left. The caller closes
// it.
func Open() (_ *Bed, err error) {
	base := diskDir()
	guard, err := lockDir(base, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer func() { _ = guard.Close() }()
	if err := sweep(base); err != nil {
		return nil, fmt.Errorf("remove what earlier testbeds left: %w", err)
	}

	name := fmt.Sprintf("%s%d-%s", namePrefix, os.Getpid(), strings.ToLower(rand.Text()[:6]))
	b := &Bed{name: name, dir: filepath.Join(base, name)}
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return nil, err
	}
	// Held as long as this process lives: that is how others see it does.
	if b.lock, err = lockDir(b.dir, unix.LOCK_EX); err != nil {
		return nil, err
	}
	if err := b.openSwitch(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Close ends every process of the bed's hosts and removes all that the bed made.
func (b *Bed) Close() error {
	b.mu.Lock()
	hosts := b.hosts
	b.hosts = nil
	b.mu.Unlock()

	var all []error
	for _, host := range hosts {
		all = append(all, host.stop())
	}
	if b.wires != nil {
		all = append(all, b.wires.close())
	}
	if cg, err := newCgroup(b.name); err != nil {
		all = append(all, err)
	} else {
		all = append(all, cg.remove(time.Second))
	}
	all = append(all, os.RemoveAll(b.dir), b.lock.Close())
	return errors.Join(all...)
}

var hostName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// Host makes a host and boots it. The name becomes its host name.
func (b *Bed) Host(name string) (*Host, error) {
	if !hostName.MatchString(name) {
		return nil, fmt.Errorf("%q can't be a host name", name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, host := range b.hosts {
		if host.Name == name {
			return nil, fmt.Errorf("there is a host %s already", name)
		}
	}
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	h := &Host{
		Name:    name,
		Address: netip.AddrFrom4([4]byte{198, 18, 0, byte(firstHost + len(b.hosts))}),
		Binary:  binary,
		bed:     b,
		wire:    fmt.Sprintf("host%d", len(b.hosts)),
		dir:     filepath.Join(b.dir, name),
	}
	for _, dir := range []string{h.dir, h.logs()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := h.Boot(); err != nil {
		return nil, fmt.Errorf("boot host %s: %w", name, err)
	}
	b.hosts = append(b.hosts, h)
	return h, nil
}

// Binary is the program that hosts run: the file KEDGE_BIN names, or dist/kedge
// of the repository.
func Binary() (string, error) {
	if path := os.Getenv("KEDGE_BIN"); path != "" {
		return filepath.Abs(path)
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "dist", "kedge"), nil
}

// ModuleRoot is the directory of the go.mod that the working directory, where go
// test puts a test, belongs to.
func ModuleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod in %s or above", start)
		}
	}
}

// diskDir is where beds keep their directories: the directory for temporary
// files, unless that is in memory, where overlayfs may not work and containers
// would use it up.
func diskDir() string {
	var stat unix.Statfs_t
	dir := os.Getenv("TMPDIR")
	if dir == "" || unix.Statfs(dir, &stat) != nil || stat.Type == unix.TMPFS_MAGIC {
		return "/var/tmp"
	}
	return dir
}

func lockDir(path string, how int) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), how); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return dir, nil
}

// sweep removes the processes, cgroups and directories of beds whose test is
// dead. Their namespaces ended with it.
func sweep(base string) error {
	dirs, err := filepath.Glob(filepath.Join(base, namePrefix+"*"))
	if err != nil {
		return err
	}
	var all []error
	for _, dir := range dirs {
		lock, err := lockDir(dir, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // its test is alive
		}
		cg, err := newCgroup(filepath.Base(dir))
		if err == nil {
			cg.kill()
			err = cg.remove(10 * time.Second)
		}
		all = append(all, err, os.RemoveAll(dir), lock.Close())
	}
	return errors.Join(all...)
}
