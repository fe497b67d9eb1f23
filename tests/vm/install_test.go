//go:build vm

package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// serveRelease serves a release on this machine, and returns its address as virtual
// machines see it.
func serveRelease(t *testing.T) (address string) {
	t.Helper()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := testbed.Binary()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/install.sh", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, filepath.Join(root, "install.sh")) })
	mux.HandleFunc("/good/kedge-amd64", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, binary) })
	sums := hex.EncodeToString(hash.Sum(nil)) + "  kedge-amd64\n"
	for _, dir := range []string{"good", "bad"} {
		mux.HandleFunc("/"+dir+"/sha256sum-amd64.txt", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, sums) })
	}
	mux.HandleFunc("/bad/kedge-amd64", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "damaged") })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	// QEMU's user-mode network calls this machine so.
	return fmt.Sprintf("http://10.0.2.2:%d", listener.Addr().(*net.TCPAddr).Port)
}

// giveWget gives a machine something to download with.
func (n *node) giveWget() {
	n.t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		n.t.Fatalf("find busybox (Debian: apt-get install busybox-static): %v", err)
	}
	if err := n.Copy(n.t.Context(), busybox, "/usr/bin/wget"); err != nil {
		n.t.Fatal(err)
	}
}

// traces lists all that Kedge may leave on a machine.
func (n *node) traces() []string {
	n.t.Helper()
	out := n.execute(`
		find /etc /opt /root /srv /usr/local /usr/share /var/lib /var/log -xdev ! -path '/var/log/journal/*' ! -path '/var/lib/systemd/*' ! -path '/usr/share/doc/*' ! -path '/root/.kube*' | sed 's/^/file /'
		find /run -xdev ! -path '/run/systemd/*' ! -path '/run/udev/*' ! -path '/run/user*' ! -path '/run/log/*' ! -path '/run/credentials*' | sed 's/^/file /'
		sed 's/^[^ ]* \([^ ]*\) .*/mount \1/' /proc/mounts | grep -v -e /run/user -e /run/credentials -e binfmt_misc
		ls /sys/class/net | sed 's/^/interface /'
		ip route | sed 's/^/route /'
		ls -d /sys/fs/cgroup/*/ /sys/fs/cgroup/system.slice/kedge* 2>/dev/null | sed 's/^/cgroup /'
		systemctl list-units --all --plain --no-legend '*kube*' '*kedge*' '*cri-*' | sed 's/ .*//; s/^/unit /'
		ps -eo args --no-headers | grep -e kedge -e containerd -e pause | grep -v -e grep -e sed | sed 's/^/process /'
		cd /proc/sys; for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys fs/inotify/max_user_instances net/ipv4/ip_forward net/ipv6/conf/all/forwarding; do
			echo "setting $name $(cat $name)"
		done`)
	lines := strings.Split(out, "\n")
	slices.Sort(lines)
	return slices.Compact(lines)
}

// installs runs install.sh from the mirror and returns what it says.
func (n *node) installs(mirror, environment string, args ...string) (string, error) {
	n.t.Helper()
	begin := time.Now()
	result, err := n.Run(n.t.Context(), nil, "wget -qO- "+mirror+"/install.sh >/tmp/install.sh; INSTALL_KEDGE_TIMEOUT=10m "+environment+" sh -s - "+quoteAll(args)+" </tmp/install.sh; code=$?; rm /tmp/install.sh; exit $code")
	out := result.Stdout + result.Stderr
	if err == nil && result.Code != 0 {
		err = fmt.Errorf("code %d", result.Code)
	}
	n.t.Logf("install.sh took %s, error %v:\n%s", since(begin), err, out)
	return out, err
}

func (n *node) invocation() string {
	n.t.Helper()
	return n.execute("systemctl show --value --property=InvocationID kedge")
}

// TestInstall installs a server from a mirror, as people do, and does to it what
// happens to machines.
func TestInstall(t *testing.T) {
	mirror := serveRelease(t)
	good := "INSTALL_KEDGE_URL=" + mirror + "/good"
	n := &node{VM: boots(t, Options{Name: "server"}), t: t}
	n.giveWget()
	before := n.traces()

	if out, err := n.installs(mirror, "INSTALL_KEDGE_URL="+mirror+"/bad"); err == nil || !strings.Contains(out, "is damaged") {
		t.Errorf("a damaged file is installed: %v %s", err, out)
	}
	if lines := added(before, n.traces()); len(lines) > 0 {
		t.Errorf("a refused file leaves %q", lines)
	}
	out, err := n.installs(mirror, good+" K3S_KUBECONFIG_MODE=644", "--disable=ingress", "--disable=metrics-server", "--token=secret.word")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"K3S_KUBECONFIG_MODE is of k3s", "node Ready", "kubectl, crictl, ctr", "kedge kubectl get nodes", "KEDGE_URL=https://10.0.2.15:6443"} {
		if !strings.Contains(out, want) {
			t.Errorf("install.sh does not say %q", want)
		}
	}
	n.check("the service", n.execute("systemctl is-active kedge; systemctl is-enabled kedge"), "active\nenabled")
	n.check("the node", n.field("node/server", `.status.conditions[?(@.type=="Ready")].status`), "True")
	n.check("the kubeconfig's mode and the environment's", n.execute("stat -c %a /etc/kedge/kedge.yaml /etc/systemd/system/kedge.service.env | xargs"), "644 600")
	n.check("the token in the unit", n.execute("grep -c secret.word /etc/systemd/system/kedge.service || true"), "0")
	n.check("a link", n.execute("kubectl get nodes -o name"), "node/server")
	n.check("who waits for a shutdown", n.execute("systemd-inhibit --list --no-legend | grep -c kubelet || true"), "1")
	n.loadImage()
	n.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: steady}
spec:
	selector: {matchLabels: {app: steady}}
	template:
		metadata: {labels: {app: steady}}
		spec:
			terminationGracePeriodSeconds: 1
			containers: [{name: main, image: BUSYBOX, command: [sleep, "36000"]}]
`)
	n.wait("condition=Available", "deployment/steady")

	was := n.invocation()
	n.run("again", func(n *node) {
		if _, err := n.installs(mirror, good+" K3S_KUBECONFIG_MODE=644", "--disable=ingress", "--disable=metrics-server", "--token=secret.word"); err != nil {
			n.t.Fatal(err)
		}
		n.check("the run of the service", n.invocation(), was)
	})
	n.run("refused", func(n *node) {
		out, err := n.installs(mirror, good, "--node-lable=a=b")
		if err == nil || !strings.Contains(out, `did you mean "--node-label"?`) {
			n.t.Errorf("a wrong option: %v", err)
		}
		n.check("the run of the service", n.invocation(), was)
	})
	n.run("changed", func(n *node) {
		if _, err := n.installs(mirror, good, "--disable=ingress", "--disable=metrics-server", "--token=secret.word", "--node-label=a=b"); err != nil {
			n.t.Fatal(err)
		}
		if n.invocation() == was {
			n.t.Error("a changed configuration does not restart the service")
		}
	})
	n.run("stop", func(n *node) {
		pid := n.execute("pgrep -f 'sleep 36000'")
		took, err := n.Stop(n.t.Context())
		if err != nil {
			n.t.Fatal(err)
		}
		n.t.Logf("systemctl stop took %s", took.Round(100*time.Millisecond))
		n.check("the pod's process", n.execute("pgrep -f 'sleep 36000'"), pid)
		n.execute("systemctl start kedge")
	})
	n.run("reboot", func(n *node) {
		begin := time.Now()
		if err := n.Reboot(n.t.Context(), 2*time.Minute); err != nil {
			n.t.Fatal(err)
		}
		n.t.Logf("the machine was off and on again after %s", since(begin))
		begin = time.Now()
		n.eventually("the service to be started", func() (bool, string) {
			out, err := n.Exec(n.t.Context(), "systemctl is-active kedge || true")
			return err == nil && strings.TrimSpace(out) != "inactive", fmt.Sprint(out, err)
		})
		n.waitReady(begin)
		n.eventually("the pod to run again", func() (bool, string) {
			out, err := n.Exec(n.t.Context(), "pgrep -f 'sleep 36000'")
			return err == nil && out != "", fmt.Sprint(out, err)
		})
		n.t.Logf("the pod ran again %s after ssh answered", since(begin))
		if strings.Contains(n.log(), "imported image") {
			n.t.Error("images are imported again")
		}
	})
	n.run("upgrade", testUpgrade)
	n.run("killall", func(n *node) {
		n.t.Log(n.execute("/usr/local/bin/kedge-killall.sh 2>&1"))
		for _, line := range added(before, n.traces()) {
			if !strings.HasPrefix(line, "file ") && !strings.HasPrefix(line, "setting ") && line != "unit kedge.service" {
				n.t.Errorf("killall leaves %s", line)
			}
		}
	})
	n.execute("systemctl start kedge")
	n.waitReady(time.Now())
	n.t.Log(n.execute("/usr/local/bin/kedge-uninstall.sh 2>&1"))
	after := n.traces()
	for _, line := range added(before, after) {
		t.Errorf("uninstall leaves %s", line)
	}
	for _, line := range added(after, before) {
		t.Errorf("uninstall has removed %s", line)
	}
}

// TestInstallAgent has a small machine join a server that was installed the same
// way, and reboots both.
func TestInstallAgent(t *testing.T) {
	mirror := serveRelease(t)
	good := "INSTALL_KEDGE_URL=" + mirror + "/good"
	network := NewNetwork(t)
	server := &node{VM: boots(t, Options{Name: "server", Memory: 1024, Network: network, Address: "10.77.0.1/24"}), t: t}
	server.giveWget()
	if _, err := server.installs(mirror, good, "--node-ip=10.77.0.1", "--flannel-iface=eth1", "--disable=ingress,metrics-server"); err != nil {
		t.Fatal(err)
	}
	agent := &node{VM: boots(t, Options{Name: "agent", Memory: 512, CPUs: 1, Network: network, Address: "10.77.0.2/24"}), t: t}
	agent.giveWget()
	before := agent.traces()
	environment := good + " KEDGE_URL=https://10.77.0.1:6443 KEDGE_NODE_IP=10.77.0.2 KEDGE_FLANNEL_IFACE=eth1"
	if out, err := agent.installs(mirror, environment); err == nil || !strings.Contains(out, "KEDGE_TOKEN") {
		t.Errorf("an agent without a token: %v", err)
	}
	token := server.execute("cat /var/lib/kedge/server/node-token")
	if _, err := agent.installs(mirror, environment+" KEDGE_TOKEN="+token); err != nil {
		t.Fatal(err)
	}
	agent.check("the service", agent.execute("systemctl is-active kedge-agent"), "active")
	server.check("the nodes", server.execute("kubectl get nodes --no-headers | awk '{ print $1, $2 }' | sort | xargs"), "agent Ready server Ready")
	t.Log("memory in MiB, of the server and the agent:", server.execute("free -m | awk '/^Mem/ { print $3, $7 }'"), agent.execute("free -m | awk '/^Mem/ { print $3, $7 }'"))

	for _, n := range []*node{server, agent} {
		if err := n.Reboot(t.Context(), 2*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	agent.eventually("the agent to be Ready after the reboot", func() (bool, string) {
		out, err := agent.Exec(t.Context(), "systemctl is-active kedge-agent || true")
		return err == nil && strings.TrimSpace(out) == "active", fmt.Sprint(out, err)
	})
	t.Log(agent.execute("/usr/local/bin/kedge-agent-uninstall.sh 2>&1"))
	for _, line := range added(before, agent.traces()) {
		t.Errorf("uninstall leaves %s", line)
	}
}

// testUpgrade puts a version in place that does not work, and one that does.
func testUpgrade(n *node) {
	dir := n.t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\n[ \"$1\" = --version ] && { echo 'kedge version v1.36.3+kedge99 (test)'; exit; }\necho 'this version is broken' >&2\nexit 1\n"), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := n.Copy(n.t.Context(), broken, "/var/tmp/broken"); err != nil {
		n.t.Fatal(err)
	}
	result, err := n.Run(n.t.Context(), nil, Binary+" upgrade --file /var/tmp/broken; code=$?; rm /var/tmp/broken; exit $code")
	n.t.Log(result.Stdout, result.Stderr)
	if err != nil || result.Code != 1 || !strings.Contains(result.Stdout, "this version is broken") || !strings.Contains(result.Stderr, "the previous version runs again, and the node is Ready") {
		n.t.Errorf("the upgrade to a broken version ends with code %d, error %v", result.Code, err)
	}
	n.check("the node", n.field("node/server", `.status.conditions[?(@.type=="Ready")].status`), "True")

	pid := n.execute("pgrep -f 'sleep 36000'")
	if err := n.Copy(n.t.Context(), repack(n.t), "/var/tmp/next"); err != nil {
		n.t.Fatal(err)
	}
	n.t.Log(n.execute(Binary + " upgrade --file /var/tmp/next --timeout 10m 2>&1 && rm /var/tmp/next"))
	n.check("the pod's process", n.execute("pgrep -f 'sleep 36000'"), pid)
	n.check("what the new version brings", n.execute("ls /var/lib/kedge/data/*/next | wc -l"), "1")
}

// repack makes a kedge file that differs from the built one in nothing but one
// more file.
func repack(t *testing.T) string {
	t.Helper()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	next := filepath.Join(dir, "kedge")
	for _, command := range [][]string{
		{"cp", "-a", filepath.Join(root, "build", "payload"), filepath.Join(dir, "payload")},
		{"touch", filepath.Join(dir, "payload", "next")},
		{filepath.Join(root, "build", "bin", "pack"), "-launcher", filepath.Join(root, "build", "bin", "launcher"), "-root", filepath.Join(dir, "payload"), "-out", next, "-level", "fast"},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	return next
}

// added are the lines of the one list that the other lacks.
func added(before, after []string) (lines []string) {
	for _, line := range after {
		if _, found := slices.BinarySearch(before, line); !found {
			lines = append(lines, line)
		}
	}
	return lines
}
