//go:build vm

package vm

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// boots makes a machine and switches it on.
func boots(t *testing.T, options Options) *VM {
	t.Helper()
	v := New(t, options)
	boot(t, v)
	return v
}

func boot(t *testing.T, v *VM) {
	t.Helper()
	begin := time.Now()
	if err := v.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("ssh of %s answered after %s", v.Name, since(begin))
}

func since(begin time.Time) time.Duration { return time.Since(begin).Round(100 * time.Millisecond) }

// execute runs a script that has to succeed.
func execute(t *testing.T, v *VM, script string) string {
	t.Helper()
	out, err := v.Exec(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// TestVM looks at the machines themselves.
func TestVM(t *testing.T) {
	v := boots(t, Options{Name: "alone", Memory: 512, CPUs: 1, Disk: 20, KernelArgs: "quiet"})
	for script, want := range map[string]string{
		"hostname":                               "alone",
		"cat /proc/1/comm":                       "systemd",
		"stat -f -c %T /sys/fs/cgroup":           "cgroup2fs",
		"nproc":                                  "1",
		"grep -o quiet /proc/cmdline":            "quiet",
		"systemctl --failed --plain --no-legend": "",
		"cat /sys/class/net/eth0/operstate":      "up",
		"ls -d /sys/class/net/eth1 2>&1 || true": "ls: cannot access '/sys/class/net/eth1': No such file or directory",
		// What Kedge may need is there, and nobody has loaded it.
		"modinfo -F name br_netfilter overlay vxlan wireguard nf_tables nf_conntrack | xargs":       "br_netfilter overlay vxlan wireguard nf_tables nf_conntrack",
		"lsmod | grep -E '^(br_netfilter|overlay|vxlan|wireguard|nf_tables|nf_conntrack) ' || true": "",
		"which nft iptables curl docker || true":                                                    "",
	} {
		if got := execute(t, v, script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if size := execute(t, v, "df --output=size --block-size=1G / | tail -1"); size != "20" {
		t.Errorf("the file system has %s GiB, want 20", size)
	}

	if _, err := v.Exec(t.Context(), "echo why >&2; exit 3"); err == nil ||
		!strings.Contains(err.Error(), "code 3") || !strings.Contains(err.Error(), "why") {
		t.Errorf("got error %v, want the code and standard error", err)
	}
	local := filepath.Join(t.TempDir(), "it's a file")
	if err := os.WriteFile(local, []byte("content\n"), 0o751); err != nil {
		t.Fatal(err)
	}
	if err := v.Copy(t.Context(), local, "/srv/it's a file"); err != nil {
		t.Fatal(err)
	}
	if got := execute(t, v, `cd /srv; cat *; stat -c %a *; ls`); got != "content\n751\nit's a file" {
		t.Errorf("the copied file is %q", got)
	}

	// What is on the disk stays, what is in memory doesn't.
	id := execute(t, v, "cat /proc/sys/kernel/random/boot_id")
	execute(t, v, "echo synced >/srv/synced; sync; echo cached >/srv/cached; touch /run/volatile")
	v.PowerCut()
	if v.On() {
		t.Error("the machine is on after a power cut")
	}
	if _, err := v.Exec(t.Context(), "true"); err == nil || !strings.Contains(err.Error(), "is off") {
		t.Errorf("a command on a machine that is off ends with %v", err)
	}
	boot(t, v)
	if got := execute(t, v, "cat /srv/synced; ls /srv/cached /run/volatile 2>/dev/null || true"); got != "synced" {
		t.Errorf("after a power cut, %q is left", got)
	}
	begin := time.Now()
	if err := v.Reboot(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	t.Logf("a reboot took %s", since(begin))
	if again := execute(t, v, "cat /proc/sys/kernel/random/boot_id"); again == id {
		t.Errorf("the machine has not booted: its boot is still %s", id)
	}
}

// TestNetwork lets two machines talk to each other.
func TestNetwork(t *testing.T) {
	network := NewNetwork(t)
	one := boots(t, Options{Name: "one", Memory: 512, CPUs: 1, Network: network, Address: "10.77.0.1/24"})
	two := boots(t, Options{Name: "two", Memory: 512, CPUs: 1, Network: network, Address: "10.77.0.2/24"})
	execute(t, one, "ping -c 3 -i 0.2 -W 5 10.77.0.2")
	execute(t, two, "ping -c 3 -i 0.2 -W 5 10.77.0.1")

	// Full frames, and many of them.
	execute(t, two, "head -c 20000000 /dev/urandom >/srv/data")
	sum := execute(t, two, "sha256sum </srv/data")
	key, err := os.ReadFile(filepath.Join(one.image, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.ExecIn(t.Context(), strings.NewReader(string(key)), "umask 077; cat >/root/key"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	got := execute(t, one, "ssh -i /root/key -o StrictHostKeyChecking=no -o LogLevel=ERROR 10.77.0.2 cat /srv/data | sha256sum")
	if got != sum {
		t.Errorf("20 MB through the network came as %s, want %s", got, sum)
	}
	t.Logf("20 MB from machine to machine took %s", since(begin))

	// The address is there again after a boot, by itself.
	two.PowerCut()
	if _, err := one.Exec(t.Context(), "ping -c 1 -W 2 10.77.0.2"); err == nil {
		t.Error("a machine that is off answers")
	}
	boot(t, two)
	execute(t, one, "ping -c 1 -W 20 10.77.0.2")
}

// TestKilled kills a test that has a machine: this program, once more.
func TestKilled(t *testing.T) {
	const victim, said = "VM_TEST_VICTIM", "running: "
	if os.Getenv(victim) != "" {
		v := New(t, Options{Memory: 256})
		if err := v.switchOn(); err != nil {
			t.Fatal(err)
		}
		fmt.Println(said, v.process.cmd.Process.Pid, v.dir)
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKilled$")
	cmd.Env = append(os.Environ(), victim+"=1")
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var dir string
	for scanner := bufio.NewScanner(output); pid == 0 && scanner.Scan(); {
		_, _ = fmt.Sscanf(scanner.Text(), said+"%d %s", &pid, &dir)
	}
	err = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil || pid == 0 {
		t.Fatalf("the other test has no machine (error %v)", err)
	}
	err = testbed.Wait(t.Context(), "QEMU to end", 30*time.Second, func(context.Context) (bool, string) {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
		return err != nil, "it runs"
	})
	if err != nil {
		t.Error(err)
	}
	New(t, Options{})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("what the other test left is still there: %s (error %v)", dir, err)
	}
}
