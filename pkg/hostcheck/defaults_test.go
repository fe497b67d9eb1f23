package hostcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelDefaults(t *testing.T) {
	root := t.TempDir()
	set := func(sysctl, value string) {
		t.Helper()
		path := filepath.Join(root, "proc/sys", strings.ReplaceAll(sysctl, ".", "/"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for sysctl, value := range map[string]string{
		"vm.overcommit_memory": "1", "vm.panic_on_oom": "0", "kernel.panic": "10", "kernel.panic_on_oops": "1",
		"kernel.keys.root_maxkeys": "1000000", "kernel.keys.root_maxbytes": "25000000",
	} {
		set(sysctl, value)
	}
	h := Host{Root: root}
	if err := Errs(h.KernelDefaults()); err != nil {
		t.Errorf("a kernel as the kubelet wants it: %v", err)
	}
	set("vm.overcommit_memory", "0")
	set("kernel.panic", "0")
	if err := os.Remove(filepath.Join(root, "proc/sys/kernel/keys/root_maxkeys")); err != nil {
		t.Fatal(err)
	}
	err := Errs(h.KernelDefaults())
	if err == nil {
		t.Fatal("another kernel is not refused")
	}
	for _, want := range []string{"vm.overcommit_memory is 0, not 1", "sysctl -w vm.overcommit_memory=1", "sysctl -w kernel.panic=10", "kernel.keys.root_maxkeys can't be read"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("doesn't say %q: %v", want, err)
		}
	}
	if n := len(strings.Split(err.Error(), "\n")); n != 3 {
		t.Errorf("%d failures: %v", n, err)
	}
}

func TestPrivateFiles(t *testing.T) {
	root := t.TempDir()
	for name, mode := range map[string]os.FileMode{"etc/a.yaml": 0o600, "etc/d/b.yaml": 0o644, "etc/d/c.yaml": 0o400} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	findings := Host{Root: root}.PrivateFiles("/etc/a.yaml", "/etc/d", "/etc/absent")
	if err := Errs(findings); len(findings) != 3 || err == nil || err.Error() != "/etc/d/b.yaml has mode 0644, so that others than its owner have rights on it: chmod 600 /etc/d/b.yaml" {
		t.Errorf("%+v: %v", findings, err)
	}
}
