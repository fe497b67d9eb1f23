package hostcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// machine makes up a machine of files by path; "-> x" makes a symbolic link to x.
func machine(t *testing.T, files map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Host{Root: root}
}

// needRoot skips a test of what only root can do.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// find returns the finding of a name.
func find(t *testing.T, findings []Finding, name string) Finding {
	t.Helper()
	for _, f := range findings {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no finding %q in %+v", name, findings)
	return Finding{}
}

func TestHasCapability(t *testing.T) {
	h := machine(t, map[string]string{"/proc/self/status": "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\n"})
	if h.HasCapability(unix.CAP_SYS_RESOURCE) {
		t.Error("has CAP_SYS_RESOURCE, which is permitted but not in effect")
	}
	if !h.HasCapability(unix.CAP_SYS_ADMIN) || !h.HasCapability(unix.CAP_CHECKPOINT_RESTORE) {
		t.Error("lacks a capability that is in effect")
	}
	if machine(t, nil).HasCapability(unix.CAP_SYS_ADMIN) {
		t.Error("has a capability although nothing is known")
	}
}

func TestHasCapabilityAgreesWithKernel(t *testing.T) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	for c := range 40 {
		want := data[c/32].Effective&(1<<(c%32)) != 0
		if got := (Host{}).HasCapability(c); got != want {
			t.Errorf("capability %d: got %v, the kernel says %v", c, got, want)
		}
	}
}

func TestSwapOn(t *testing.T) {
	const heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	for content, want := range map[string]bool{
		heading: false,
		heading + "/dev/zram0                              partition\t1022972\t\t0\t\t100\n": true,
	} {
		got, err := machine(t, map[string]string{"/proc/swaps": content}).SwapOn()
		if err != nil || got != want {
			t.Errorf("SwapOn of %q = %v, %v; want %v", content, got, err, want)
		}
	}
	if _, err := machine(t, nil).SwapOn(); err == nil {
		t.Error("no error though nothing is known")
	}
}

func TestConntrackMaxWritable(t *testing.T) {
	if machine(t, nil).ConntrackMaxWritable() {
		t.Error("writable though nf_conntrack isn't loaded")
	}
	if !machine(t, map[string]string{conntrackMax: "262144\n"}).ConntrackMaxWritable() {
		t.Error("not writable though the file is")
	}
}

func TestConntrackMaxInNewNetwork(t *testing.T) {
	needRoot(t)
	if !(Host{}).exists(conntrackMax) {
		t.Skip("nf_conntrack isn't loaded")
	}
	err := onNewNetwork(func() error {
		before, err := os.ReadFile(conntrackMax)
		if err != nil {
			return err
		}
		// The kernel lets only the first network namespace set it.
		if (Host{}).ConntrackMaxWritable() && os.WriteFile(conntrackMax, before, 0o600) != nil {
			t.Error("said to be writable in a new network namespace, but is not")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStopCommand(t *testing.T) {
	h := machine(t, map[string]string{
		"/proc/10/cgroup": "0::/system.slice/nginx.service\n",
		"/proc/11/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n",
		"/proc/12/cgroup": "12:memory:/system.slice/docker.service\n1:name=systemd:/system.slice/docker.service\n",
		"/proc/13/cgroup": "0::/user.slice/user-1000.slice/user@1000.service\n",
	})
	for pid, want := range map[int]string{
		10: "systemctl disable --now nginx.service",
		11: "kill 11",
		12: "systemctl disable --now docker.service",
		13: "kill 13",
		14: "kill 14",
	} {
		if got := h.stopCommand(pid); got != want {
			t.Errorf("stop %d: got %q, want %q", pid, got, want)
		}
	}
}
