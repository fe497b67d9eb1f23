package testbed

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newHost(t *testing.T, bed *Bed, name string) *Host {
	t.Helper()
	host, err := bed.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func execute(t *testing.T, h *Host, command string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), "sh", "-c", command)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// program gives a host a shell script in place of kedge.
func program(t *testing.T, h *Host, script string) {
	t.Helper()
	h.Binary = filepath.Join(t.TempDir(), "kedge")
	if err := os.WriteFile(h.Binary, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestHostIsItsOwnMachine(t *testing.T) {
	bed := New(t)
	one, two := newHost(t, bed, "one"), newHost(t, bed, "two")

	for command, want := range map[string]string{
		"hostname":             "one",
		"cat /etc/hostname":    "one",
		"cat /etc/resolv.conf": "nameserver 198.18.0.1",
		"ls -A /var/lib/kedge; ls -d /etc/cni 2> /dev/null || true": "",
		"ls /sys/class/net":                       "eth0\nlo",
		"env | grep KEDGE || true":                "",
		"cat /proc/1/comm":                        "exe",
		"ip route show default | cut -d' ' -f1-3": "default via 198.18.0.1",
		"findmnt -n -o PROPAGATION /":             "shared",
		"grep -v ':/$' /proc/1/cgroup | grep -v ':/init$' | grep -v '^0::'": "",
	} {
		result, err := one.Run(t.Context(), nil, "sh", "-c", command)
		if got := strings.TrimSpace(result.Stdout); err != nil || got != want || strings.TrimSpace(result.Stderr) != "" && want != "" {
			t.Errorf("%s: %q %q, error %v, want %q", command, got, result.Stderr, err, want)
		}
	}

	execute(t, one, "mkdir -p /etc/kedge && echo secret > /etc/kedge/token && echo x > /var/lib/kedge/x && echo y > /run/y && rm /etc/passwd")
	if out := execute(t, two, "ls /etc/passwd; ls /etc/kedge /var/lib/kedge/x /run/y 2>/dev/null || true"); out != "/etc/passwd" {
		t.Errorf("host two sees %q of host one", out)
	}
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Errorf("a host has changed the machine's files: %v", err)
	}
	if content, err := os.ReadFile(one.Path("/etc/kedge/token")); err != nil || string(content) != "secret\n" {
		t.Errorf("Path leads to %q, error %v", content, err)
	}
}

func TestHostCanHoldContainers(t *testing.T) {
	host := newHost(t, New(t), "node")
	execute(t, host, `
		cd /var/lib/kedge && mkdir lower upper work all && touch lower/file
		mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work all && test -e all/file && umount all`)
	execute(t, host, `
		set -e
		for procs in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do
			test -e $procs || continue
			child=$(dirname $procs)/kubepods
			mkdir $child
			# As the runtime does for version 1.
			for file in cpuset.cpus cpuset.mems; do
				test ! -e $child/$file || test -e $child/cgroup.controllers || cat $child/../$file > $child/$file
			done
			sleep 1000 > /dev/null 2>&1 &
			echo $! > $child/cgroup.procs
			grep -qx $! $child/cgroup.procs
		done >&2`)
	// The processes above are the bed's to end, with what they keep busy.
}

func TestRun(t *testing.T) {
	host := newHost(t, New(t), "node")
	result, err := host.Run(t.Context(), strings.NewReader("in"), "sh", "-c", "cat; echo err >&2; exit 3")
	if want := (Result{"in", "err\n", 3}); err != nil || result != want {
		t.Errorf("got %+v, error %v, want %+v", result, err, want)
	}
	if _, err := host.Exec(t.Context(), "sh", "-c", "echo why >&2; exit 3"); err == nil ||
		!strings.Contains(err.Error(), "code 3") || !strings.Contains(err.Error(), "why") {
		t.Errorf("got error %v, want the code and standard error", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := host.Run(ctx, nil, "sleep", "1000"); err == nil {
		t.Error("a command that the context ended has no error")
	}
}

func TestNetwork(t *testing.T) {
	bed := New(t)
	server, client := newHost(t, bed, "server"), newHost(t, bed, "client")

	listener := make(chan net.Listener, 1)
	err := onThread(func() error {
		if err := server.space.enter(unix.CLONE_NEWNET); err != nil {
			return err
		}
		l, err := net.Listen("tcp", server.Address.String()+":80")
		listener <- l
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l := <-listener
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "hello ", strings.Split(r.RemoteAddr, ":")[0])
		}))
	}()
	defer func() { _ = l.Close() }()

	get := func() (string, error) {
		web := client.HTTP()
		web.Timeout = time.Second
		response, err := web.Get("http://" + server.Address.String())
		if err != nil {
			return "", err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	if body, err := get(); err != nil || body != "hello "+client.Address.String() {
		t.Errorf("got %q, error %v", body, err)
	}
	if err := bed.Cut(server); err != nil {
		t.Fatal(err)
	}
	if body, err := get(); err == nil {
		t.Errorf("got %q over a network that is cut", body)
	}
	if err := bed.Mend(server); err != nil {
		t.Fatal(err)
	}
	if body, err := get(); err != nil || body != "hello "+client.Address.String() {
		t.Errorf("got %q, error %v after the network was mended", body, err)
	}
}

func TestProcess(t *testing.T) {
	host := newHost(t, New(t), "node")
	program(t, host, `
		case $1 in
		kubectl) test -e /run/ready && echo -n "${4:+Ready=True}${3:+ok}" | tail -c 2 ;;
		server) trap 'echo stopping; exit 7' TERM; echo started; while :; do sleep 0.05; done ;;
		agent) echo broken >&2; exit 5 ;;
		esac`)

	server, err := host.Start("server", "--flag")
	if err != nil {
		t.Fatal(err)
	}
	err = Wait(t.Context(), "the first line", 10*time.Second, func(context.Context) (bool, string) {
		return server.Log() == "started\n", server.Log()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.WaitAPI(t.Context(), 200*time.Millisecond); err == nil {
		t.Error("the API is ready before it is")
	}
	execute(t, host, "touch /run/ready")
	if err := server.WaitAPI(t.Context(), 10*time.Second); err != nil {
		t.Error(err)
	}
	if took, code, err := server.Stop(10 * time.Second); err != nil || code != 7 || took <= 0 {
		t.Errorf("stopped with code %d after %s, error %v, want code 7", code, took, err)
	}

	broken, err := host.Start("agent")
	if err != nil {
		t.Fatal(err)
	}
	execute(t, host, "rm /run/ready")
	if err := broken.WaitAPI(t.Context(), time.Minute); err == nil ||
		!strings.Contains(err.Error(), "code 5") || !strings.Contains(err.Error(), "broken") {
		t.Errorf("got error %v, want the code and the log of the process that ended", err)
	}

	killed, err := host.Start("server")
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Kill(); err != nil {
		t.Error(err)
	}
	if code, err := killed.Wait(0); code != -1 || err != nil {
		t.Errorf("got code %d, error %v of a killed process", code, err)
	}
}

func TestPowerCut(t *testing.T) {
	host := newHost(t, New(t), "node")
	program(t, host, "(sleep 1000 & sleep 1000 & sleep 1000) & exec sleep 1000")
	server, err := host.Start("server")
	if err != nil {
		t.Fatal(err)
	}
	execute(t, host, "echo kept > /var/lib/kedge/file; echo kept > /etc/file; echo lost > /run/file")

	if err := host.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if server.Running() {
		t.Error("the server runs without power")
	}
	if _, err := host.Exec(t.Context(), "true"); err == nil {
		t.Error("a host that is off ran a command")
	}
	if err := host.Boot(); err != nil {
		t.Fatal(err)
	}
	if out := execute(t, host, "cat /var/lib/kedge/file /etc/file; ls /run/file 2>/dev/null || true"); out != "kept\nkept" {
		t.Errorf("after the power cut the disk holds %q", out)
	}
	if out := execute(t, host, "pgrep -x sleep || true"); out != "" {
		t.Errorf("processes %q have survived the power cut", out)
	}
	if out := execute(t, host, "ip -br address show eth0 | awk '{print $3}'"); out != host.Address.String()+"/24" {
		t.Errorf("after the power cut the address is %q", out)
	}
}

func TestCloseWithoutWait(t *testing.T) {
	host := newHost(t, New(t), "node")
	if err := host.StartCommand(host.Command(t.Context(), "sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	// The end of the bed, which the test's end brings, must not wait for it.
}

func TestDisk(t *testing.T) {
	host := newHost(t, New(t), "node")
	state := func() Disk {
		disk, err := host.Disk()
		if err != nil {
			t.Fatal(err)
		}
		return disk
	}
	before := state()
	if err := state().Compare(before); err != nil {
		t.Errorf("nothing was changed: %v", err)
	}
	for _, change := range []struct{ command, path string }{
		{"mkdir /etc/kedge", "/etc/kedge"},
		{"echo one > /var/lib/kedge/file", "/var/lib/kedge/file"},
		{"echo two > /var/lib/kedge/file", "/var/lib/kedge/file"},
		{"chmod 600 /var/lib/kedge/file", "/var/lib/kedge/file"},
		{"ln -s x /opt/link", "/opt/link"},
		{"rm /var/lib/kedge/file", "/var/lib/kedge/file"},
		{"rm /etc/passwd", "/etc/passwd"},
	} {
		before = state()
		execute(t, host, change.command)
		err := state().Compare(before)
		if err == nil || !strings.HasPrefix(err.Error(), change.path+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the differences are %v, want only %s", change.command, err, change.path)
		}
		if err := state().Compare(before, change.path); err != nil {
			t.Errorf("%s: the differences are %v although excepted", change.command, err)
		}
	}
}

func TestCollect(t *testing.T) {
	t.Setenv("KEDGE_TEST_LOGS", t.TempDir())
	bed := New(t)
	host := newHost(t, bed, "node")
	program(t, host, `case $1 in kubectl) shift; echo "answer to $*" ;; *) seq 100; echo last ;; esac`)
	server, err := host.Start("server")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Wait(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	execute(t, host, "mkdir -p /var/log/pods/a/b && echo line > /var/log/pods/a/b/0.log")
	report, err := bed.Collect("Test/with odd name")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(report, "99\n100\nlast") || strings.Contains(report, "\n10\n") {
		t.Errorf("the report doesn't end with the end of the log: %s", report)
	}
	dir := strings.Fields(report)[2]
	for file, want := range map[string]string{
		"node/logs/1-kedge-server.log": "last",
		"node/pods/a/b/0.log":          "line",
		"node/objects.txt":             "answer to get all",
		"node/mounts.txt":              "overlay",
	} {
		content, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(content), want) {
			t.Errorf("%s holds %.100q, error %v, want %q in it", file, content, err, want)
		}
	}
}

func TestWait(t *testing.T) {
	count := 0
	err := Wait(t.Context(), "three", time.Minute, func(context.Context) (bool, string) {
		count++
		return count == 3, ""
	})
	if err != nil || count != 3 {
		t.Errorf("got error %v after %d checks", err, count)
	}
	err = Wait(t.Context(), "the moon", 100*time.Millisecond, func(context.Context) (bool, string) { return false, "no moon" })
	if err == nil || !strings.Contains(err.Error(), "the moon") || !strings.Contains(err.Error(), "no moon") {
		t.Errorf("got error %v, want what was waited for and the last state", err)
	}
}

func TestHierarchies(t *testing.T) {
	const hybrid = `22 1 8:1 / / rw,relatime - ext4 /dev/sda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 / /elsewhere rw,relatime - cgroup2 cgroup2 rw
`
	const unified = `32 31 0:29 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`
	for mountinfo, want := range map[string]string{
		hybrid: "[{/sys/fs/cgroup/cpu,cpuacct false cpu,cpuacct} {/sys/fs/cgroup/systemd false name=systemd}" +
			" {/sys/fs/cgroup/unified true }]",
		unified:    "[{/sys/fs/cgroup true }]",
		"":         "[]",
		"nonsense": "error",
	} {
		found, err := hierarchies(strings.NewReader(mountinfo))
		got := fmt.Sprint(found)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", mountinfo, got, want)
		}
	}
}

// TestNothingIsLeft kills a test in the middle and looks for what it leaves.
func TestNothingIsLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making hosts needs root")
	}
	base := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestVictim$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR="+base, "KEDGE_TEST_VICTIM=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	name, pids := "", ""
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "bed %s pid %s", &name, &pids); err == nil {
			break
		}
	}
	if name == "" {
		t.Fatal("the victim didn't make a bed")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()

	// Its processes end without any help.
	err = Wait(t.Context(), "process "+pids+" to end", 20*time.Second, func(context.Context) (bool, string) {
		_, err := os.Stat("/proc/" + pids)
		return err != nil, "is there"
	})
	if err != nil {
		t.Error(err)
	}
	// The rest goes with the next bed.
	t.Setenv("TMPDIR", base)
	bed, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := bed.Close(); err != nil {
		t.Error(err)
	}
	for _, gone := range []string{filepath.Join(base, name), bed.dir} {
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is left", gone)
		}
	}
	for _, name := range []string{name, bed.name} {
		cg, err := newCgroup(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range cg.hierarchies {
			if _, err := os.Stat(cg.dir(h)); err == nil {
				t.Errorf("%s is left", cg.dir(h))
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), base) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}

// TestVictim makes a host with processes, and waits for TestNothingIsLeft to
// kill it.
func TestVictim(t *testing.T) {
	if os.Getenv("KEDGE_TEST_VICTIM") == "" {
		t.Skip("only another test runs this one")
	}
	bed := New(t)
	host := newHost(t, bed, "node")
	program(t, host, "trap '' TERM HUP INT; setsid sleep 1000 & exec sleep 1000")
	server, err := host.Start("server")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("bed %s pid %d\n", bed.name, server.PID())
	time.Sleep(time.Minute)
}
