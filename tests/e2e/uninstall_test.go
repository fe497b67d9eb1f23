//go:build e2e

package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// shared are settings of the kernel that all hosts of this machine have in
// common: a host must not change them under the others. They are what Kedge
// wants before it starts.
const raiseShared = `
mkdir -p /run/mount # for the test's own mount
cd /proc/sys
echo 8192 >fs/inotify/max_user_instances
[ "$(cat fs/inotify/max_user_watches)" -ge 524288 ] || echo 524288 >fs/inotify/max_user_watches
echo 1 >vm/overcommit_memory
echo 0 >vm/panic_on_oom
echo 10 >kernel/panic
echo 1 >kernel/panic_on_oops
echo 1000000 >kernel/keys/root_maxkeys
echo 25000000 >kernel/keys/root_maxbytes
`

// inventory lists all that Kedge may leave on a host, a line for each.
const inventory = `
find /etc /var/lib /var/log /run /opt -path /var/lib/home -prune -o -print 2>/dev/null | sed 's/^/file /'
sed 's/^[^ ]* \([^ ]*\) .*/mount \1/' /proc/mounts
ls /sys/class/net | sed 's/^/interface /'
nft list ruleset | sed 's/^/rule /'
ip route | sed 's/^/route /'
find /sys/fs/cgroup -type d | sed 's/^/cgroup /'
for pid in /proc/[0-9]*; do
	[ $pid = /proc/$$ ] || tr '\0' ' ' <$pid/cmdline 2>/dev/null | sed 's/^/process /; s/$/\n/'
done | grep -v -e '^process sed' -e '^process tr' -e '^process grep' -e '^process sh'
cd /proc/sys; for name in net/ipv4/ip_forward net/ipv4/conf/all/forwarding net/ipv6/conf/all/forwarding net/netfilter/nf_conntrack_max net/netfilter/nf_conntrack_tcp_timeout_close_wait; do
	echo "setting $name $(cat $name)"
done
`

func takeInventory(t *testing.T, host *testbed.Host) []string {
	t.Helper()
	out, err := host.ExecIn(t.Context(), strings.NewReader(inventory), "sh")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	return slices.Compact(lines)
}

// added are the lines of the one inventory that the other lacks.
func added(before, after []string) (lines []string) {
	for _, line := range after {
		if _, found := slices.BinarySearch(before, line); !found {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestUninstall has a server leave traces of all kinds, and removes them.
func TestUninstall(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}
	if _, err := c.node.ExecIn(t.Context(), strings.NewReader(raiseShared), "sh"); err != nil {
		t.Fatal(err)
	}
	before := takeInventory(t, c.node)
	c.start(t)
	c.loadImages(t)
	s := c.sandbox(t)
	s.apply(web + `
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
	accessModes: [ReadWriteOnce]
	resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata:
	name: full
	annotations: {kubernetes.io/ingress-bandwidth: 10M, kubernetes.io/egress-bandwidth: 10M}
spec:
	containers:
	- name: main
		image: BUSYBOX
		command: [sleep, "100000"]
		ports: [{containerPort: 80, hostPort: 8080}]
		volumeMounts: [{name: data, mountPath: /data}, {name: memory, mountPath: /memory}]
	volumes:
	- {name: data, persistentVolumeClaim: {claimName: data}}
	- {name: memory, emptyDir: {medium: Memory}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{}]}
`)
	s.rollout("deployment/web")
	s.wait("condition=Ready", "pod/full")

	clean := func(command string) {
		t.Helper()
		out, err := c.node.Kedge(t.Context(), command)
		t.Log(out)
		if err != nil {
			t.Fatal(err)
		}
		if c.server.Running() {
			t.Errorf("after %s the server runs", command)
		}
	}
	t.Run("another Kubernetes", func(t *testing.T) {
		if _, err := c.node.Exec(t.Context(), "cp", "/bin/sleep", "/run/k3s-server"); err != nil {
			t.Fatal(err)
		}
		other := c.node.Command(t.Context(), "/run/k3s-server", "100000")
		if err := c.node.StartCommand(other); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = other.Process.Kill()
			_ = other.Wait()
			if _, err := c.node.Exec(t.Context(), "rm", "/run/k3s-server"); err != nil {
				t.Error(err)
			}
		}()
		for _, command := range []string{"killall", "uninstall"} {
			result, err := c.node.Run(t.Context(), nil, c.node.Binary, command)
			if err != nil || result.Code != 1 || !strings.Contains(result.Stderr, `k3s (process "k3s-server"`) {
				t.Errorf("%s beside k3s ends with code %d: %s (error %v)", command, result.Code, result.Stderr, err)
			}
		}
		if !c.server.Running() {
			t.Error("the server was stopped")
		}
	})
	t.Run("killall", func(t *testing.T) {
		clean("killall")
		for _, line := range added(before, takeInventory(t, c.node)) {
			kind, name, _ := strings.Cut(line, " ")
			// What lies on the disk, and what Kedge needs to start again.
			if kind != "file" && kind != "setting" {
				t.Errorf("killall leaves %s %s", kind, name)
			}
		}
		if _, err := os.Stat(c.node.Path("/var/lib/kedge/server/db")); err != nil {
			t.Error(err)
		}
		// With nothing to do it does nothing.
		clean("killall")
	})
	c.start(t)
	s.rollout("deployment/web")
	s.wait("condition=Ready", "pod/full")

	// A disk that somebody has mounted is not Kedge's.
	disks := []string{"/var/lib/kedge/server/db/snapshots", "/var/lib/kedge/storage"}
	for _, disk := range disks {
		if _, err := c.node.Exec(t.Context(), "sh", "-c", "mkdir -p $1 && mount -t tmpfs tmpfs $1 && touch $1/precious", "sh", disk); err != nil {
			t.Fatal(err)
		}
	}
	result, err := c.node.Run(t.Context(), nil, c.node.Binary, "uninstall")
	if err != nil || result.Code != 1 {
		t.Errorf("with disks mounted in the data directory, uninstall ends with code %d: %s (error %v)", result.Code, result.Stderr, err)
	}
	for _, disk := range disks {
		if !strings.Contains(result.Stderr, disk+": unmount it") {
			t.Errorf("%s is not named: %s", disk, result.Stderr)
		}
		if _, err := os.Stat(c.node.Path(disk + "/precious")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.node.Exec(t.Context(), "umount", disk); err != nil {
			t.Fatal(err)
		}
	}
	clean("uninstall")
	after := takeInventory(t, c.node)
	for _, line := range added(before, after) {
		t.Errorf("uninstall leaves %s", line)
	}
	for _, line := range added(after, before) {
		t.Errorf("uninstall has removed %s", line)
	}
}

// TestInstallRefused asks for installations that can't be, on a host without a
// service manager.
func TestInstallRefused(t *testing.T) {
	t.Parallel()
	host := newHost(t, testbed.New(t), "node")
	if _, err := host.Kedge(t.Context(), "version"); err != nil { // which unpacks
		t.Fatal(err)
	}
	before := takeInventory(t, host)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"install"}, "neither systemd nor OpenRC"},
		{[]string{"install", "sever"}, `"sever" is neither server nor agent`},
		{[]string{"install", "--node-lable=a=b"}, `did you mean "--node-label"?`},
		{[]string{"install", "server", "--cluster-cidr=10.0.0.0"}, "--cluster-cidr"},
		{[]string{"install", "--symlink=perhaps"}, `--symlink: "perhaps" is neither skip nor force`},
		{[]string{"install", "agent", "--server=https://192.0.2.1:6443"}, "KEDGE_TOKEN"},
		{[]string{"upgrade"}, "no service of this machine"},
		{[]string{"upgrade", "--file=/x", "--channel=stable"}, "one of --version, --channel and --file"},
		{[]string{"killall", "now"}, `unexpected argument "now"`},
	} {
		result, err := host.Run(t.Context(), nil, host.Binary, test.args...)
		if err != nil || result.Code != 1 || !strings.Contains(result.Stderr, test.want) || strings.Count(result.Stderr, "\n") != 1 {
			t.Errorf("%s ends with code %d (error %v) and says %q, want %q", test.args, result.Code, err, result.Stderr, test.want)
		}
	}
	if lines := added(before, takeInventory(t, host)); len(lines) > 0 {
		t.Errorf("refused installations leave %q", lines)
	}
	// An installation that was never started can be upgraded.
	if _, err := host.ExecIn(t.Context(), strings.NewReader(`{"name": "kedge", "role": "server", "dataDir": "/var/lib/kedge"}`), "sh", "-c", "mkdir -p /etc/kedge && cat >/etc/kedge/install.json"); err != nil {
		t.Fatal(err)
	}
	result, err := host.Run(t.Context(), nil, host.Binary, "upgrade", "--file=/x")
	if err != nil || !strings.Contains(result.Stderr, "neither systemd nor OpenRC") {
		t.Errorf("after an installation without a start, an upgrade says %q (error %v)", result.Stderr, err)
	}
}
