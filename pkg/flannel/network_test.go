package flannel

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// limit is for what takes a second when the machine is not busy.
const limit = time.Minute

// What this program does on a host instead of testing, as its argument 1.
const (
	runNetwork = "run-network"
	runProbe   = "run-probe"
	runRemove  = "run-remove"
)

func TestMain(m *testing.M) {
	roles := map[string]func() error{runNetwork: networkMain, runProbe: probeMain, runRemove: removeMain}
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		if err := roles[os.Args[1]](); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// probeMain answers connections with the address they come from, and makes them
// as the lines of standard input say: "ADDRESS OTHER" connects to the other.
func probeMain() error {
	listener, err := net.Listen("tcp", probePort)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			from, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			_, _ = fmt.Fprintln(conn, from)
			_ = conn.Close()
		}
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		from, to, _ := strings.Cut(lines.Text(), " ")
		seen, err := connect(from, to)
		if err != nil {
			seen = err.Error()
		}
		fmt.Println(seen)
	}
	return nil
}

const probePort = ":7777"

// connect returns the address that the other sees.
func connect(from, to string) (string, error) {
	dialer := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", net.JoinHostPort(to, probePort[1:]))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	seen, err := io.ReadAll(conn)
	return strings.TrimSpace(string(seen)), err
}

// networkMain starts the network, says so, obeys the lines of standard input,
// and stops the network when that ends.
func networkMain() error {
	config := os.Args[2]
	var c Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	n := New(c)
	begin := time.Now()
	if err := n.Start(ctx); err != nil {
		return err
	}
	fmt.Println("up after", time.Since(begin).Round(time.Millisecond))
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		command, argument, _ := strings.Cut(lines.Text(), " ")
		switch command {
		case "addresses":
			var addresses []netip.Addr
			for a := range strings.SplitSeq(argument, ",") {
				addresses = append(addresses, netip.MustParseAddr(a))
			}
			n.SetAddresses(addresses)
			fmt.Println("done")
		case "memory":
			runtime.GC()
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			fmt.Printf("heap %d kB, %d goroutines\n", stats.HeapAlloc>>10, runtime.NumGoroutine())
		}
	}
	return n.Stop(context.Background())
}

func removeMain() error {
	var c Config
	if err := json.Unmarshal([]byte(os.Args[2]), &c); err != nil {
		return err
	}
	if err := Remove(context.Background(), c); err != nil {
		return err
	}
	fmt.Println("removed")
	return nil
}

// node is a host that runs nothing but a pod network.
type node struct {
	*testbed.Host
	t       *testing.T
	config  Config
	network *child
	probe   *child
	log     *os.File
}

// child is this program in another role on a host.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

func (n *node) spawn(args ...string) *child {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	c := &child{cmd: n.Command(context.Background(), self, args...)}
	c.cmd.Stderr = n.log
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		n.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.StartCommand(c.cmd); err != nil {
		n.t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	return c
}

// line is the next line of the child.
func (c *child) line() string {
	line, err := c.out.ReadString('\n')
	if err != nil {
		return "ended: " + line
	}
	return strings.TrimSpace(line)
}

func (c *child) tell(command string) string {
	if _, err := fmt.Fprintln(c.stdin, command); err != nil {
		return err.Error()
	}
	return c.line()
}

// run starts the network of the node and returns how it went.
func (n *node) run() string {
	n.t.Helper()
	config, err := json.Marshal(n.config)
	if err != nil {
		n.t.Fatal(err)
	}
	n.network = n.spawn(runNetwork, string(config))
	return n.network.line()
}

func (n *node) start() {
	n.t.Helper()
	if answer := n.run(); !strings.HasPrefix(answer, "up") {
		n.t.Fatalf("the network of %s: %s", n.Name, answer)
	} else {
		n.t.Logf("the network of %s is %s", n.Name, answer)
	}
}

func (n *node) stop() {
	n.t.Helper()
	_ = n.network.stdin.Close()
	if err := n.network.cmd.Wait(); err != nil {
		n.t.Errorf("the network of %s ended with: %v\n%s", n.Name, err, n.said())
	}
}

func (n *node) said() string {
	text, _ := os.ReadFile(n.log.Name())
	return string(text[max(0, len(text)-4000):])
}

func (n *node) sh(script string) string {
	n.t.Helper()
	out, err := n.Exec(n.t.Context(), "sh", "-ec", script)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// shows waits until the output of a command holds some words, and lacks others,
// which begin with "no ".
func (n *node) shows(script string, words ...string) {
	n.t.Helper()
	err := testbed.Wait(n.t.Context(), fmt.Sprintf("%q on %s to show %q", script, n.Name, words), limit, func(ctx context.Context) (bool, string) {
		out, err := n.Exec(ctx, "sh", "-c", script+" 2>&1 || true")
		if err != nil {
			return false, err.Error()
		}
		for _, word := range words {
			word, lacks := strings.CutPrefix(word, "no ")
			if strings.Contains(out, word) == lacks {
				return false, out
			}
		}
		return true, out
	})
	if err != nil {
		n.t.Fatalf("%v\n%s", err, n.said())
	}
}

// reaches waits until the node reaches another from an address of its own, and
// is seen there with the address wanted.
func (n *node) reaches(from, to, seenAs string) {
	n.t.Helper()
	err := testbed.Wait(n.t.Context(), fmt.Sprintf("%s to reach %s from %s, seen as %s", n.Name, to, from, seenAs), limit,
		func(context.Context) (bool, string) {
			seen := n.probe.tell(from + " " + to)
			return seen == seenAs, seen
		})
	if err != nil {
		state, _ := n.Exec(n.t.Context(), "sh", "-c", "ip -d address; ip route; ip -6 route; nft list ruleset")
		n.t.Fatalf("%v\n%s\n%s", err, n.said(), state)
	}
}

// cluster is an API server and hosts with a pod network.
type cluster struct {
	t          *testing.T
	bed        *testbed.Bed
	server     *testbed.Host
	kubeconfig string
}

// access is all that the pod network may do.
const access = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: pod-network, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: pod-network-test}
rules:
- {apiGroups: [""], resources: [nodes], verbs: [list, watch]}
- {apiGroups: [""], resources: [nodes/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: pod-network-test}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: pod-network-test}
subjects:
- {kind: ServiceAccount, name: pod-network, namespace: default}
`

const kubeconfigFormat = `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://%s:6443", certificate-authority-data: "%s"}}]
users: [{name: u, user: {token: "%s"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a server")
	}
	if binary, err := testbed.Binary(); err != nil {
		t.Fatal(err)
	} else if _, err := os.Stat(binary); err != nil {
		t.Skipf("needs the program: %v", err)
	}
	c := &cluster{t: t, bed: testbed.New(t)}
	var err error
	if c.server, err = c.bed.Host("server"); err != nil {
		t.Fatal(err)
	}
	process, err := c.server.Start("server")
	if err != nil {
		t.Fatal(err)
	}
	if err := process.WaitAPI(t.Context(), 2*limit); err != nil {
		t.Fatal(err)
	}
	c.kubectlIn(access, "apply", "-f", "-")
	ca := c.kubectl("config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}")
	token := strings.TrimSpace(c.kubectl("create", "token", "pod-network"))
	c.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(c.kubeconfig, fmt.Appendf(nil, kubeconfigFormat, c.server.Address, ca, token), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) kubectl(args ...string) string { return c.kubectlIn("", args...) }

func (c *cluster) kubectlIn(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.server.KubectlIn(c.t.Context(), stdin, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// host makes a host. The bridge stands for the one of pods: it has the first
// addresses of their ranges.
func (c *cluster) host(name string) *node {
	c.t.Helper()
	host, err := c.bed.Host(name)
	if err != nil {
		c.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(c.t.TempDir(), name+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = log.Close() })
	n := &node{Host: host, t: c.t, log: log, config: Config{
		NodeName: name, NodeIPs: []netip.Addr{host.Address}, Kubeconfig: c.kubeconfig, Kubelet: c.kubeconfig, CNIConfig: "/etc/cni/net.d",
	}}
	n.probe = n.spawn(runProbe)
	return n
}

// join registers a node with pod ranges, as a kubelet and the controller manager
// would, and gives its bridge the first addresses of them.
func (c *cluster) join(n *node, ranges ...string) {
	c.t.Helper()
	c.kubectlIn(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Node",
		"metadata": {"name": %q, "annotations": {"alpha.kubernetes.io/provided-node-ip": %q}},
		"spec": {"podCIDR": %q, "podCIDRs": ["%s"]}}`, n.Name, n.Address, ranges[0], strings.Join(ranges, `","`)), "create", "-f", "-")
	c.kubectl("patch", "node", n.Name, "--subresource=status", "--type=merge", "-p",
		fmt.Sprintf(`{"status": {"addresses": [{"type": "InternalIP", "address": %q}]}}`, n.Address))
	n.sh("ip link show cni0 >/dev/null 2>&1 || ip link add cni0 type bridge; ip link set cni0 up")
	for _, r := range ranges {
		first := netip.MustParsePrefix(r)
		n.sh(fmt.Sprintf("ip address add %s/%d dev cni0 nodad", first.Addr().Next(), first.Bits()))
	}
}

func (c *cluster) annotation(n *node, name string) string {
	c.t.Helper()
	return c.kubectl("get", "node", n.Name, "-o",
		`jsonpath={.metadata.annotations.`+strings.ReplaceAll(annotationPrefix, ".", `\.`)+name+`}`)
}

var ipv4 = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}

func TestNetworks(t *testing.T) {
	c := newCluster(t)
	one, two, three, outside := c.host("one"), c.host("two"), c.host("three"), c.host("outside")
	for i, n := range []*node{one, two, three} {
		n.config.ClusterCIDRs = ipv4
		c.join(n, fmt.Sprintf("10.42.%d.0/24", 101+i))
	}

	one.start()
	two.start()
	one.reaches("10.42.101.1", "10.42.102.1", "10.42.101.1")
	t.Log("the process of the network:", one.network.tell("memory"))
	one.shows("cat /etc/cni/net.d/10-kedge.conflist", `"mtu": 1450`, `"10.42.101.0/24"`)
	// Not from a pod: seen with the tunnel's address, and answered through it.
	one.reaches(one.Address.String(), "10.42.102.1", "10.42.101.0")
	one.reaches("10.42.101.1", outside.Address.String(), one.Address.String())

	// A firewall that is reloaded.
	one.sh("nft flush ruleset")
	one.shows("nft list ruleset", "ip saddr 10.42.0.0/16 ip daddr != { 10.42.0.0/16, 224.0.0.0/4 } masquerade fully-random", `oifname "flannel*"`)
	one.reaches("10.42.101.1", outside.Address.String(), one.Address.String())

	// A node comes and goes.
	entries := "ip route; ip neighbour show dev flannel.1; bridge fdb show dev flannel.1"
	three.start()
	one.reaches("10.42.101.1", "10.42.103.1", "10.42.101.1")
	one.shows(entries, "10.42.103.0/24", "10.42.103.0 ", "dst "+three.Address.String())
	c.kubectl("delete", "node", "three")
	one.shows(entries, "10.42.102.0/24", "no 10.42.103", "no dst "+three.Address.String())

	// It comes back with another range, and announces itself without a restart.
	three.sh("ip address flush dev cni0")
	c.join(three, "10.42.104.0/24")
	one.reaches("10.42.101.1", "10.42.104.1", "10.42.101.1")
	three.shows("cat /etc/cni/net.d/10-kedge.conflist", `"10.42.104.0/24"`, "no 10.42.103")

	// It goes while another isn't looking.
	one.stop()
	one.reaches("10.42.101.1", "10.42.104.1", "10.42.101.1")
	c.kubectl("delete", "node", "three")
	one.start()
	one.shows(entries, "10.42.102.0/24", "no 10.42.104", "no dst "+three.Address.String())
	three.stop()

	// The device goes, and is back under the address that the others know.
	mac := one.sh("cat /sys/class/net/flannel.1/address")
	one.sh("ip link delete flannel.1")
	one.reaches("10.42.101.1", "10.42.102.1", "10.42.101.1")
	one.shows("cat /sys/class/net/flannel.1/address", mac)
	one.sh("ip link set flannel.1 down")
	one.reaches("10.42.101.1", "10.42.102.1", "10.42.101.1")
	one.sh("ip route delete 10.42.102.0/24")
	one.reaches("10.42.101.1", "10.42.102.1", "10.42.101.1")

	// A node gets another address.
	two.sh("ip address delete " + two.Address.String() + "/24 dev eth0; ip address add 198.18.0.77/24 dev eth0")
	two.network.tell("addresses 198.18.0.77")
	one.reaches("10.42.101.1", "10.42.102.1", "10.42.101.1")
	if got := c.annotation(two, "public-ip"); got != "198.18.0.77" {
		t.Errorf("the annotation says %s", got)
	}
	one.shows(entries, "dst 198.18.0.77", "no dst "+two.Address.String())
	two.config.NodeIPs = []netip.Addr{netip.MustParseAddr("198.18.0.77")}

	t.Run("HostGW", func(t *testing.T) {
		for _, n := range []*node{one, two} {
			n.t = t
			n.stop()
			n.config.Backend = HostGW
			n.start()
			n.shows("ip link", "no flannel")
			n.shows("cat /etc/cni/net.d/10-kedge.conflist", `"mtu": 1500`)
		}
		one.shows("ip route", "10.42.102.0/24 via 198.18.0.77 dev eth0")
		one.reaches("10.42.101.1", "10.42.102.1", "10.42.101.1")
		// The kernel takes the routes with the link.
		one.sh("ip link set eth0 down; ip link set eth0 up")
		one.reaches("10.42.101.1", "10.42.102.1", "10.42.101.1")
	})

	t.Run("VXLANAgain", func(t *testing.T) {
		for _, n := range []*node{one, two} {
			n.t = t
			n.stop()
			n.config.Backend = VXLAN
			n.start()
		}
		one.shows("ip route", "10.42.102.0/24 via 10.42.102.0 dev flannel.1", "no 198.18.0.77")
		one.reaches("10.42.101.1", "10.42.102.1", "10.42.101.1")
	})

	t.Run("WireGuardMissing", func(t *testing.T) {
		one.t = t
		if _, err := one.Exec(t.Context(), "ip", "link", "add", "probe", "type", "wireguard"); err == nil {
			t.Skip("this kernel has WireGuard")
		}
		one.stop()
		one.config.Backend = WireGuard
		if answer := one.run(); !strings.Contains(answer, "modprobe wireguard") {
			t.Errorf("the network says %s", answer)
		}
		_ = one.network.cmd.Wait()
	})

	t.Run("None", func(t *testing.T) {
		one.t = t
		one.config.Backend = None
		one.start()
		one.shows("ls /etc/cni/net.d; ip link; ip route; nft list ruleset", "no 10-kedge", "no flannel", "no 10.42.102.0", "no kedge-masquerade", "cni0")
		one.stop()
	})

	t.Run("Remove", func(t *testing.T) {
		two.t = t
		two.stop()
		config, err := json.Marshal(two.config)
		if err != nil {
			t.Fatal(err)
		}
		remove := two.spawn(runRemove, string(config))
		if answer := remove.line(); answer != "removed" {
			t.Fatal(answer)
		}
		_ = remove.cmd.Wait()
		two.shows("ls /etc/cni/net.d; ip link; ip route; nft list ruleset", "no 10-kedge", "no flannel", "no 10.42.", "no kedge-masquerade", "no cni0")
	})
}

func TestDualStack(t *testing.T) {
	c := newCluster(t)
	one, two, outside := c.host("one"), c.host("two"), c.host("outside")
	for i, n := range []*node{one, two, outside} {
		n.sh(fmt.Sprintf("ip address add fd00:18::%d/64 dev eth0 nodad", i+1))
	}
	for i, n := range []*node{one, two} {
		n.config.ClusterCIDRs = append(slices.Clone(ipv4), netip.MustParsePrefix("fd00:42::/56"))
		n.config.NodeIPs = append(n.config.NodeIPs, netip.MustParseAddr(fmt.Sprintf("fd00:18::%d", i+1)))
		n.config.IPv6Masq = true
		c.join(n, fmt.Sprintf("10.42.%d.0/24", 101+i), fmt.Sprintf("fd00:42:0:%d::/64", 11+i))
	}
	both := func() {
		t.Helper()
		one.reaches("10.42.101.1", "10.42.102.1", "10.42.101.1")
		one.reaches("fd00:42:0:11::1", "fd00:42:0:12::1", "fd00:42:0:11::1")
		one.reaches("10.42.101.1", outside.Address.String(), one.Address.String())
		one.reaches("fd00:42:0:11::1", "fd00:18::3", "fd00:18::1")
	}

	one.start()
	two.start()
	both()
	one.reaches("fd00:18::1", "fd00:42:0:12::1", "fd00:42:0:11::")
	one.shows("cat /etc/cni/net.d/10-kedge.conflist; ip link", `"mtu": 1430`, `"10.42.101.0/24"`, `"fd00:42:0:11::/64"`, "flannel.1: ", "flannel-v6.1: ", "no mtu 1450")
	one.sh("ip link delete flannel-v6.1")
	both()

	for _, n := range []*node{one, two} {
		n.stop()
		n.config.Backend = HostGW
		n.start()
	}
	both()
	one.shows("ip -6 route", "fd00:42:0:12::/64 via fd00:18::2 dev eth0", "no flannel")

	// The addresses of one family only.
	for _, n := range []*node{one, two} {
		n.stop()
		n.config.Backend = VXLAN
		n.config.ClusterCIDRs = n.config.ClusterCIDRs[1:]
		n.start()
	}
	one.reaches("fd00:42:0:11::1", "fd00:42:0:12::1", "fd00:42:0:11::1")
	one.shows("ip link", "flannel-v6.1: ", "no flannel.1: ")
	if got := c.annotation(one, "public-ip"); got != "" {
		t.Errorf("a network without IPv4 has the IPv4 address %s", got)
	}
	for _, n := range []*node{one, two} {
		n.stop()
	}
}
