//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// hostFirewall is a firewall that administrators run on their machines.
type hostFirewall struct {
	on     func(t *testing.T, host *testbed.Host) // with the rules it has when it was just installed
	reload string                                 // a command; empty if it would forget what the commands opened
	server string                                 // what is to be typed on a server
	agent  string                                 // and on an agent
}

func TestFirewalld(t *testing.T) {
	t.Parallel()
	testHostFirewall(t, hostFirewall{
		on:     startFirewalld,
		reload: "firewall-cmd --reload",
		server: "firewall-cmd --permanent --add-port=6443/tcp --add-port=8472/udp && firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 && firewall-cmd --reload",
		agent:  "firewall-cmd --permanent --add-port=8472/udp && firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 && firewall-cmd --reload",
	})
}

func TestUFW(t *testing.T) {
	t.Parallel()
	const pods = "ufw allow 8472/udp && ufw allow from 10.42.0.0/16 && ufw route allow from 10.42.0.0/16 && ufw route allow to 10.42.0.0/16"
	testHostFirewall(t, hostFirewall{
		on:     startUFW,
		reload: "ufw reload",
		server: "ufw allow 6443/tcp && " + pods,
		agent:  pods,
	})
}

func TestOwnFirewall(t *testing.T) {
	t.Parallel()
	const pods = "nft insert rule inet filter input udp dport 8472 accept && nft insert rule inet filter input ip saddr 10.42.0.0/16 accept" +
		" && nft insert rule inet filter forward ip saddr 10.42.0.0/16 accept && nft insert rule inet filter forward ip daddr 10.42.0.0/16 accept"
	testHostFirewall(t, hostFirewall{
		on: func(t *testing.T, host *testbed.Host) {
			const rules = `
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ct state established,related accept
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
		counter reject
	}
}
`
			if _, err := host.ExecIn(t.Context(), strings.NewReader(rules), "nft", "-f", "-"); err != nil {
				t.Fatal(err)
			}
		},
		server: "nft insert rule inet filter input tcp dport 6443 accept && " + pods,
		agent:  pods,
	})
}

// testHostFirewall has a firewall on before anything of Kedge starts, types what
// the log says, and expects that everything works from then on.
func testHostFirewall(t *testing.T, firewall hostFirewall) {
	bed := testbed.New(t)
	f := &fleet{cluster: &cluster{node: newHost(t, bed, "node"), beside: newHost(t, bed, "beside"), images: buildImages(t)}, bed: bed}
	a := &agent{name: "agent-1", host: newHost(t, bed, "agent-1")}
	f.agents = append(f.agents, a)
	for _, host := range []*testbed.Host{f.node, a.host} {
		firewall.on(t, host)
	}

	out, err := f.node.Kedge(t.Context(), "check-config")
	if err != nil || !strings.Contains(out, "fix: "+firewall.server+"\n") {
		t.Errorf("check-config says, error %v:\n%s", err, out)
	}
	f.start(t)
	f.join(t, a)
	eventually(t, "the agent to wait for the server", func() (bool, string) {
		return strings.Contains(a.process.Log(), "waiting for a server"), a.process.Log()
	})
	openHost(t, f.node, f.server, firewall.server)
	f.waitNode(t, a.name)
	openHost(t, a.host, a.process, firewall.agent)

	f.loadImages(t)
	if err := a.host.LoadImage(t.Context(), f.images.Agnhost.Archive); err != nil {
		t.Fatal(err)
	}
	s := f.sandbox(t)
	s.apply(everywhere)
	s.apply(`
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {type: NodePort, selector: {app: far}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: far}}
spec:
	nodeName: agent-1
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: AGNHOST, args: [netexec, --http-port=80]}]
`)
	s.rollout("daemonset/web")
	s.wait("condition=Ready", "pod/far")
	outside := f.beside.Command(t.Context(), f.images.AgnhostProgram, "netexec", "--http-port=8080")
	if err := f.beside.StartCommand(outside); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = outside.Process.Kill()
		_ = outside.Wait()
	})
	f.passes(t, s)

	if firewall.reload != "" {
		for _, host := range []*testbed.Host{f.node, a.host} {
			if _, err := host.Exec(t.Context(), "sh", "-c", firewall.reload); err != nil {
				t.Fatal(err)
			}
		}
		f.passes(t, s)
	}

	for _, process := range []*testbed.Process{a.process, f.server} {
		if _, _, err := process.Stop(limit); err != nil {
			t.Fatal(err)
		}
	}
	f.start(t, "--debug")
	f.join(t, a, "--debug")
	f.waitNode(t, a.name)
	for _, process := range []*testbed.Process{f.server, a.process} {
		eventually(t, "the firewall to be asked", func() (bool, string) {
			line := lastLine(process.Log(), " firewall ")
			return strings.Contains(process.Log(), "the machine's firewalls were asked"), line
		})
		if line := lastLine(process.Log(), "not open for the cluster"); line != "" {
			t.Errorf("with everything open the log says %q", line)
		}
	}
	f.passes(t, s)
}

// openHost types what the log of a server or agent says.
func openHost(t *testing.T, host *testbed.Host, process *testbed.Process, want string) {
	t.Helper()
	const warning = "not open for the cluster"
	eventually(t, "the warning on "+host.Name, func() (bool, string) {
		return strings.Contains(process.Log(), warning), process.Log()
	})
	if n := strings.Count(process.Log(), warning); n != 1 {
		t.Errorf("%s warns %d times", host.Name, n)
	}
	line := lastLine(process.Log(), warning)
	t.Log(line)
	_, commands, _ := strings.Cut(line, "as root run: ")
	if !strings.Contains(line, " WARN ") || commands != want {
		t.Errorf("%s says\n\t%s\nwant\n\t%s", host.Name, commands, want)
	}
	if _, err := host.Exec(t.Context(), "sh", "-c", commands); err != nil {
		t.Fatal(err)
	}
}

// passes expects everything to pass that a cluster is for.
func (f *fleet) passes(t *testing.T, s *sandbox) {
	t.Helper()
	addresses := map[string]string{} // of pods, by node
	names := map[string]string{}
	for _, line := range strings.Split(s.kubectl("get", "pods", "-l", "app=web", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name} {.status.podIP}{"\n"}{end}`), "\n") {
		var node, pod, address string
		if _, err := fmt.Sscan(line, &node, &pod, &address); err != nil {
			t.Fatal(err)
		}
		addresses[node], names[node] = address, pod
	}
	if len(names) != 2 {
		t.Fatalf("pods run on %v, want 2 nodes", names)
	}
	hosts := map[string]*testbed.Host{"node": f.node, "agent-1": f.agents[0].host}
	for node, pod := range names {
		for what, to := range map[string]string{
			"the pod on node":      addresses["node"] + ":80",
			"the pod on agent-1":   addresses["agent-1"] + ":80",
			"a Service by name":    "far:80",
			"the API":              "kubernetes.default:443",
			"its own node":         hosts[node].Address.String() + ":10250",
			"the world outside":    f.beside.Address.String() + ":8080",
			"a NodePort":           f.node.Address.String() + ":30080",
			"a NodePort elsewhere": f.agents[0].host.Address.String() + ":30080",
		} {
			eventually(t, "the pod on "+node+" to reach "+what, func() (bool, string) {
				out, err := s.try("exec", pod, "--", "/agnhost", "connect", "--timeout=2s", to)
				return err == nil, fmt.Sprint(out, err)
			})
		}
		if out := s.kubectl("logs", pod); !strings.Contains(out, "Started HTTP server") {
			t.Errorf("the log of %s is %q", pod, out)
		}
		for other, address := range addresses {
			eventually(t, node+" to reach the pod on "+other, func() (bool, string) { return answers(t, hosts[node], address+":80") })
		}
		eventually(t, "a NodePort on "+node+" from outside", func() (bool, string) {
			return answers(t, f.beside, hosts[node].Address.String()+":30080")
		})
	}
}

func answers(t *testing.T, from *testbed.Host, address string) (bool, string) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	out, err := get(ctx, from, "http://"+address+"/hostname")
	return err == nil && out != "", fmt.Sprint(out, err)
}

// firewallPrograms unpacks Debian's firewalld and ufw, with what they need that
// the machine lacks. Installed, firewalld would start on a machine with systemd.
var firewallPrograms = sync.OnceValues(func() (root string, err error) {
	module, err := testbed.ModuleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(module, "build", "firewalls")
	root = filepath.Join(dir, "root")
	done := filepath.Join(dir, "done")
	if _, err := os.Stat(done); err == nil {
		return root, nil
	}
	const script = `set -e
rm -rf "$1" && mkdir -p "$1/deb/partial" "$1/root"
fetch() {
	apt-get install -qq --reinstall --no-install-recommends --download-only -y \
		-o APT::Sandbox::User=root -o Dir::Cache::archives="$1/deb" dbus firewalld iptables ufw
}
fetch "$1" || { apt-get update -qq && fetch "$1"; }
for deb in "$1"/deb/*.deb; do dpkg-deb -x "$deb" "$1/root"; done
cd "$1/root"
# Where /lib is a link, it has to stay one.
for dir in bin sbin lib; do
	[ ! -d "$dir" ] || { mkdir -p "usr/$dir" && cp -a "$dir/." "usr/$dir" && rm -r "$dir"; }
done
# What the packages do when they are installed.
for name in iptables ip6tables; do
	for suffix in "" -restore -save; do ln -sf xtables-nft-multi "usr/sbin/$name$suffix"; done
done
cp usr/share/ufw/iptables/*.rules usr/share/ufw/*.init usr/share/ufw/ufw.conf etc/ufw/
chmod 640 etc/ufw/*.rules etc/ufw/*.init
touch ../done
`
	if out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack firewalld and ufw: %w: %s", err, out)
	}
	return root, nil
})

// installFirewalls gives a host the programs, and the files in /etc that come
// with them.
func installFirewalls(t *testing.T, host *testbed.Host) {
	t.Helper()
	root, err := firewallPrograms()
	if err != nil {
		t.Fatal(err)
	}
	const script = `mount -t overlay overlay -o lowerdir="$1/usr":/usr /usr && cp -a "$1/etc/." /etc/`
	if _, err := host.Exec(t.Context(), "sh", "-c", script, "sh", root); err != nil {
		t.Fatal(err)
	}
}

// bus is a D-Bus on which everybody may do everything, without services that it
// would start.
const bus = `
<busconfig>
	<type>system</type>
	<listen>unix:path=/run/dbus/system_bus_socket</listen>
	<auth>EXTERNAL</auth>
	<policy context="default">
		<allow user="*"/>
		<allow own="*"/>
		<allow send_destination="*"/>
		<allow send_type="*"/>
		<allow receive_type="*"/>
	</policy>
</busconfig>
`

func startFirewalld(t *testing.T, host *testbed.Host) {
	t.Helper()
	installFirewalls(t, host)
	const start = "mkdir -p /run/dbus && cat >/etc/test-bus.conf && exec dbus-daemon --config-file=/etc/test-bus.conf --fork --nopidfile"
	if _, err := host.ExecIn(t.Context(), strings.NewReader(bus), "sh", "-c", start); err != nil {
		t.Fatal(err)
	}
	// It ends with the host.
	daemon := host.Command(context.Background(), "firewalld", "--nofork", "--nopid")
	if err := host.StartCommand(daemon); err != nil {
		t.Fatal(err)
	}
	go func() { _ = daemon.Wait() }()
	eventually(t, "firewalld on "+host.Name, func() (bool, string) {
		out, err := host.Exec(t.Context(), "firewall-cmd", "--state")
		return err == nil, fmt.Sprint(out, err)
	})
}

func startUFW(t *testing.T, host *testbed.Host) {
	t.Helper()
	installFirewalls(t, host)
	if _, err := host.Exec(t.Context(), "ufw", "--force", "enable"); err != nil {
		t.Fatal(err)
	}
}
