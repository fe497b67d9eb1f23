package vm

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestQuote(t *testing.T) {
	words := []string{"plain", "", "two words", "it's", `"$HOME" \n`, "*", "a\nb"}
	out, err := exec.Command("sh", "-c", `printf '%s\0' `+quoteAll(words)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, words) {
		t.Errorf("the shell makes %q of %q", got, words)
	}
}

func TestUnitFile(t *testing.T) {
	file := unitFile([]string{"server", "--node-label=a=b", `50% "$x" \`})
	const want = `ExecStart=/usr/local/bin/kedge "server" "--node-label=a=b" "50%% \"$$x\" \\"` + "\n"
	if !strings.Contains(file, want) {
		t.Errorf("the unit is\n%swant in it\n%s", file, want)
	}
}

func TestArguments(t *testing.T) {
	v := &VM{Options: Options{Name: "one", KernelArgs: "quiet splash"}, image: "/image", dir: "/a,b", port: 1234, mac: "52:54:00:00:00:01"}
	v.setDefaults()
	value := func(name string) string {
		args := v.arguments()
		i := slices.Index(args, name)
		if i < 0 || i+1 == len(args) {
			t.Fatalf("no %s in %q", name, args)
		}
		return args[i+1]
	}
	for name, want := range map[string]string{
		"-m":      "2048",
		"-smp":    "2",
		"-kernel": "/image/vmlinuz",
		"-drive":  "if=virtio,format=qcow2,cache=writeback,discard=unmap,file=/a,,b/disk.qcow2",
		"-append": "root=/dev/vda ro console=ttyS0 net.ifnames=0 panic=-1 systemd.hostname=one quiet splash",
	} {
		if got := value(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if all := strings.Join(v.arguments(), " "); strings.Contains(all, "switch") || !strings.Contains(all, "127.0.0.1:1234-:22") {
		t.Errorf("a machine without a network is started with %s", all)
	}

	v.Network, v.Address = &Network{}, "10.77.0.1/24"
	if all := strings.Join(v.arguments(), " "); !strings.Contains(all, "netdev=switch,romfile=,mac=52:54:00:00:00:01") {
		t.Errorf("a machine with a network is started with %s", all)
	}
	if kernel := value("-append"); !strings.Contains(kernel, " ip=10.77.0.1:::24::eth1:none") {
		t.Errorf("the kernel's arguments are %q", kernel)
	}
}

func TestProcess(t *testing.T) {
	if p, err := start(exec.Command("/nonexistent")); err == nil {
		t.Errorf("a program that isn't there has started: %v", p)
	}
	p, err := start(exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if !p.running() {
		t.Error("the process has ended by itself")
	}
	p.kill()
	if p.running() {
		t.Error("the process runs after it was killed")
	}
	p.kill() // once more is no harm
}
