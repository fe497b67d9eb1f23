package hostcheck

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// goodMachine has all that files can tell of a machine fit for Kedge.
func goodMachine() map[string]string {
	builtin := ""
	for _, f := range features {
		builtin += "kernel/" + f.module + ".ko\n"
	}
	files := map[string]string{
		"/proc/self/status": "Uid:\t1000\t0\t0\t0\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n",
		"/proc/meminfo":     "MemTotal:        1892476 kB\nMemFree:          5 kB\n",
		"/proc/swaps":       "Filename\n",
		"/proc/sys/fs/inotify/max_user_instances": "128\n",
		"/proc/sys/fs/inotify/max_user_watches":   "14400\n",
		"/proc/sys/kernel/osrelease":              "6.1.21-v8+\n",
		"/proc/filesystems":                       "nodev\tmqueue\n",
		"/lib/modules/6.1.21-v8+/modules.builtin": builtin,
		"/proc/sys/user/max_user_namespaces":      "7000\n",
		"/proc/sys/kernel/seccomp/actions_avail":  "errno\n",
		"/proc/self/mountinfo":                    v2Mount,
		"/proc/self/cgroup":                       "0::/user.slice\n",
		"/sys/fs/cgroup/cgroup.controllers":       "cpuset cpu io memory pids\n",
		"/proc/sys/net/ipv4/ip_forward":           "1\n",
		conntrackMax:                              "131072\n",
		"/etc/resolv.conf":                        "nameserver 192.168.1.1\n",
		"/proc/net/tcp":                           tcpHeading,
		"/proc/1/comm":                            "systemd\n",
	}
	for _, ns := range []string{"pid", "net", "ipc", "uts", "mnt", "user"} {
		files["/proc/self/ns/"+ns] = "-> " + ns + ":[1]"
	}
	return files
}

var request = Request{
	Ports: []Port{
		{Number: 6443, Use: "API server", Option: "--https-listen-port"},
		{Host: "0.0.0.0", Number: 10250, Use: "kubelet"},
	},
	BuildTime: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
}

func TestCheckGoodMachine(t *testing.T) {
	found := machine(t, goodMachine()).Check(t.Context(), request)
	for _, f := range found {
		if f.Level != OK {
			t.Errorf("%+v", f)
		}
		if f.Group == "" || f.Detail == "" || f.Fix != "" {
			t.Errorf("%+v", f)
		}
	}
	if len(found) < 25 {
		t.Errorf("only %d findings", len(found))
	}
}

// TestCheckFaults spoils one thing after the other.
func TestCheckFaults(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   map[string]string // "" takes the file away
		finding string
		level   Level
		detail  string
		fix     string
	}{
		{"not root", map[string]string{"/proc/self/status": "Uid:\t0\t1000\t0\t0\nCapEff:\t0\nSeccomp:\t0\n"}, "user", Failure, "user 1000 is not root", "sudo"},
		{"no capabilities", map[string]string{"/proc/self/status": "Uid:\t0\t0\nCapEff:\t00000000a80425fb\n"}, "capabilities", Failure, "lacks CAP_SYS_ADMIN, CAP_NET_ADMIN", "--privileged"},
		{"no CAP_SYS_RESOURCE", map[string]string{"/proc/self/status": "Uid:\t0\t0\nCapEff:\t000001fffeffffff\n"}, "capabilities", Warning, "lacks CAP_SYS_RESOURCE", "--privileged"},
		{"no status", map[string]string{"/proc/self/status": ""}, "user", Unknown, "no such file", ""},
		{"no status", map[string]string{"/proc/self/status": ""}, "capabilities", Unknown, "no such file", ""},
		{"little memory", map[string]string{"/proc/meminfo": "MemTotal: 440000 kB\n"}, "memory", Warning, "429 MiB", "agent"},
		{"unknown memory", map[string]string{"/proc/meminfo": "x\n"}, "memory", Unknown, "MemTotal", ""},
		{"swap", map[string]string{"/proc/swaps": "Filename\n/swapfile file 1 2 3\n"}, "swap", OK, "on", ""},
		{"unknown swap", map[string]string{"/proc/swaps": ""}, "swap", Unknown, "no such file", ""},
		{"few watches", map[string]string{"/proc/sys/fs/inotify/max_user_watches": "100\n"}, "inotify", Warning, "fs.inotify.max_user_watches=100", "sysctl -w fs.inotify.max_user_watches=524288; echo fs.inotify.max_user_watches=524288 >>/etc/sysctl.d/99-kedge.conf"},
		{"unreadable instances", map[string]string{"/proc/sys/fs/inotify/max_user_instances": "many\n"}, "inotify", Unknown, "max_user_instances", ""},
		{"old kernel", map[string]string{"/proc/sys/kernel/osrelease": "4.19.0\n"}, "version", Failure, "4.19.0 is older than 5.13.0", "Debian 12"},
		{"no release", map[string]string{"/proc/sys/kernel/osrelease": ""}, "features", Unknown, "no such file", ""},
		{"nothing about modules", map[string]string{"/lib/modules/6.1.21-v8+/modules.builtin": ""}, "vxlan", Unknown, "neither", ""},
		{"memory cgroup off", map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids", "/boot/firmware/cmdline.txt": "root=x"}, "memory", Failure, "memory control group is off", `"cgroup_memory=1 cgroup_enable=memory" to the end of the one line of /boot/firmware/cmdline.txt and reboot`},
		{"forwarding off", map[string]string{"/proc/sys/net/ipv4/ip_forward": "0\n"}, "IPv4 forwarding", OK, "switched on with", ""},
		{"forwarding unknown", map[string]string{"/proc/sys/net/ipv4/ip_forward": ""}, "IPv4 forwarding", Unknown, "no such file", ""},
		{"conntrack not loaded", map[string]string{conntrackMax: ""}, "tracked connections", Unknown, "isn't loaded", ""},
		{"no resolver", map[string]string{"/etc/resolv.conf": "nameserver 127.0.0.53\n"}, "DNS for pods", Warning, "no nameserver that pods can reach", "--resolv-conf"},
		{"port taken", map[string]string{
			"/proc/net/tcp":     tcpHeading + "   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n",
			"/proc/5/comm":      "nginx\n",
			"/proc/5/fd/3":      "-> socket:[4711]",
			"/proc/5/cgroup":    "0::/system.slice/nginx.service\n",
			"/proc/5/ns/net":    "-> net:[1]",
			"/proc/5/something": "x",
		}, "6443 API server", Failure, `port 6443 is in use by process "nginx" (pid 5)`, "systemctl disable --now nginx.service, or choose another port with --https-listen-port"},
		{"port taken by nobody knows", map[string]string{
			"/proc/net/tcp": tcpHeading + "   0: 00000000:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n",
		}, "10250 kubelet", Failure, "port 10250 is in use by a process that can't be seen", "find it as root with ss -ltnp 'sport = :10250', and stop it"},
		{"Kedge runs already", map[string]string{
			"/proc/net/tcp": tcpHeading + "   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n",
			"/proc/5/comm":  "kedge\n",
			"/proc/5/fd/3":  "-> socket:[4711]",
		}, "6443 API server", OK, "in use by Kedge itself (pid 5)", ""},
		{"k3s", map[string]string{"/proc/77/comm": "k3s-server\n"}, "other Kubernetes", Warning, `k3s is running (process "k3s-server", pid 77)`, "systemctl disable --now k3s"},
		{"kubeadm", map[string]string{"/proc/77/comm": "kube-apiserver\n", "/proc/78/comm": "kubelet\n"}, "other Kubernetes", Warning, "a kubelet is running", "systemctl disable --now kubelet"},
		{"an apiserver alone", map[string]string{"/proc/77/comm": "kube-apiserver\n"}, "other Kubernetes", Warning, "a kube-apiserver is running", "kill 77"},
		{"k0s in a container", map[string]string{"/proc/77/comm": "k0s\n", "/proc/77/ns/net": "-> net:[2]"}, "other Kubernetes", OK, "none running", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := with(goodMachine(), c.files)
			for name, content := range files {
				if content == "" {
					delete(files, name)
				}
			}
			found := machine(t, files).Check(t.Context(), request)
			i := slices.IndexFunc(found, func(f Finding) bool { return f.Name == c.finding && f.Level == c.level })
			if i < 0 {
				t.Fatalf("no finding %q of level %v in %+v", c.finding, c.level, found)
			}
			if f := found[i]; !strings.Contains(f.Detail, c.detail) || !strings.Contains(f.Fix, c.fix) {
				t.Errorf("got %+v, want %q, %q", f, c.detail, c.fix)
			}
			for _, f := range found {
				if f.Level >= Warning && f.Fix == "" {
					t.Errorf("no fix: %+v", f)
				}
			}
		})
	}
}

func TestCheckIPv6(t *testing.T) {
	req := request
	req.PodCIDRs = prefixes("10.42.0.0/16", "2001:db8:42::/56")
	for _, c := range []struct {
		name  string
		files map[string]string
		level Level
	}{
		{"none", nil, Failure},
		{"off", map[string]string{"/proc/net/if_inet6": "", "/proc/sys/net/ipv6/conf/all/disable_ipv6": "1\n"}, Failure},
		{"on", map[string]string{"/proc/net/if_inet6": "", "/proc/sys/net/ipv6/conf/all/disable_ipv6": "0\n", "/proc/sys/net/ipv6/conf/all/forwarding": "1\n"}, OK},
	} {
		found := machine(t, with(goodMachine(), c.files)).Check(t.Context(), req)
		if f := find(t, found, "IPv6"); f.Level != c.level {
			t.Errorf("%s: %+v", c.name, f)
		}
		if f := find(t, found, "address ranges"); f.Level != Unknown {
			t.Errorf("of a machine that is not at hand: %+v", f)
		}
	}
}

func TestCheckClock(t *testing.T) {
	built := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		now, built time.Time
		want       Level
	}{
		{built.Add(time.Hour), built, OK},
		{time.Unix(0, 0), built, Warning},
		{time.Unix(0, 0), time.Time{}, Unknown},
	} {
		if f := clockFinding(c.now, c.built); f.Level != c.want {
			t.Errorf("%v: %+v", c.now, f)
		}
	}
}

func TestReadOnlySysctls(t *testing.T) {
	const forward = "/proc/sys/net/ipv4/ip_forward"
	for uid, want := range map[string]Level{"0": Failure, "1000": Unknown} {
		h := sealedMachine(t, map[string]string{
			"/proc/self/status": "Uid:\t" + uid + "\t" + uid + "\n", forward: "0\n", conntrackMax: "1024\n",
		})
		if f := h.forwardingFinding("forwarding", "net.ipv4.ip_forward"); f.Level != want {
			t.Errorf("user %s: %+v", uid, f)
		}
		if want == Failure {
			want = Warning
		}
		if f := h.conntrackFinding(); f.Level != want {
			t.Errorf("user %s: %+v", uid, f)
		}
	}
	h := sealedMachine(t, map[string]string{conntrackMax: "99999999\n"})
	if f := h.conntrackFinding(); f.Level != OK {
		t.Errorf("a high limit: %+v", f)
	}
}

// sealedMachine makes up a machine on a file system that is then mounted read-only.
func sealedMachine(t *testing.T, files map[string]string) Host {
	t.Helper()
	dir := mounted(t, "tmpfs", "tmpfs", "", 0)
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return Host{Root: dir}
}

// TestCheckNothingKnown has no finding of what is not known say it is fine.
func TestCheckNothingKnown(t *testing.T) {
	for _, f := range machine(t, nil).Check(t.Context(), Request{}) {
		if f.Level != Unknown && f.Name != "DNS for pods" && f.Name != "other Kubernetes" {
			t.Errorf("%+v", f)
		}
	}
}

func TestCheckCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	found := Host{}.Check(ctx, request)
	if len(found) == 0 {
		t.Fatal("no findings")
	}
	for _, f := range found {
		if f.Level != Unknown || !strings.Contains(f.Detail, "canceled") {
			t.Errorf("%+v", f)
		}
	}
}

// TestCheckHere checks the machine at hand, and prints what it finds.
func TestCheckHere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // test
	port := l.Addr().(*net.TCPAddr).Port
	req := Request{
		DataDir:      t.TempDir() + "/kedge",
		Ports:        []Port{{Host: "127.0.0.1", Number: port, Use: "API server", Option: "--https-listen-port"}},
		PodCIDRs:     prefixes("10.42.0.0/16"),
		ServiceCIDRs: prefixes("10.42.8.0/24"),
		BuildTime:    time.Now().Add(-time.Hour),
	}
	found := Host{}.Check(t.Context(), req)
	var b strings.Builder
	if err := Print(&b, found, false); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + b.String())

	if f := find(t, found, fmt.Sprintf("%d API server", port)); f.Level != Failure || !strings.Contains(f.Detail, fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("a taken port: %+v", f)
	}
	if f := find(t, found, "address ranges"); f.Level != Failure || !strings.Contains(f.Fix, "--cluster-cidr") {
		t.Errorf("overlapping ranges: %+v", f)
	}
	if f := find(t, found, "user"); (f.Level == OK) != (os.Geteuid() == 0) {
		t.Errorf("user: %+v", f)
	}
	if _, err := os.Stat(req.DataDir); err == nil {
		t.Error("the data directory was made")
	}
	for _, f := range found {
		if f.Level >= Warning && f.Fix == "" {
			t.Errorf("no fix: %+v", f)
		}
	}
}
