//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// testAddOns looks at what a server brings with it, and at how it tells.
func testAddOns(s *sandbox) {
	s.kubectl("--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
	eventually(s.t, "the start-up to be summed up", func() (bool, string) {
		log := s.server.Log()
		return regexp.MustCompile(`ready after [0-9.]+ s`).MatchString(log), log
	})
	log := s.server.Log()
	for _, want := range []string{"node", s.node.Name, "kube-system/coredns", "kubectl get nodes", "/etc/kedge/kedge.yaml"} {
		_, summary, _ := strings.Cut(log, "is ready after")
		if !strings.Contains(summary, want) {
			s.t.Errorf("the start-up ends without %q:\n%s", want, summary)
		}
	}
	// Up to there: tests that run beside this one may well cause errors later.
	startup, _, _ := strings.Cut(log, "is ready after")
	for line := range strings.Lines(startup) {
		if strings.Contains(line, " ERROR ") {
			s.t.Errorf("a healthy start logs an error: %s", line)
		}
	}

	version, err := s.node.Kedge(s.t.Context(), "version")
	if err != nil {
		s.t.Fatal(err)
	}
	kubelet := s.field("node/"+s.node.Name, ".status.nodeInfo.kubeletVersion")
	if !regexp.MustCompile(`^v1\.\d+\.\d+\+kedge\d+`).MatchString(kubelet) || !strings.Contains(version, kubelet) {
		s.t.Errorf("the node's version is %s and kedge's %q", kubelet, version)
	}
	s.check("the node's address", s.field("node/"+s.node.Name, `.status.addresses[?(@.type=="InternalIP")].address`), s.node.Address.String())
	s.check("taints of the node", s.field("node/"+s.node.Name, ".spec.taints"), "")

	info, err := os.Stat(s.node.Path("/etc/kedge/kedge.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.check("the kubeconfig's mode", info.Mode().String(), "-rw-------")
	rules, err := s.node.Exec(s.t.Context(), "sh", "-c", "cat /proc/net/ip_tables_names 2>/dev/null || true")
	if err != nil || strings.TrimSpace(rules) != "" {
		s.t.Errorf("tables of iptables are in use: %q, error %v", rules, err)
	}
}

// TestCommands tries the commands that need no running server.
func TestCommands(t *testing.T) {
	t.Parallel()
	host := newHost(t, testbed.New(t), "node")
	run := func(name string, args ...string) testbed.Result {
		t.Helper()
		result, err := host.Run(t.Context(), nil, name, args...)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	if _, err := host.Exec(t.Context(), "sh", "-c",
		"mkdir -p /usr/local/bin && for name in kedge kubectl ctr; do ln -sf "+host.Binary+" /usr/local/bin/$name; done"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		command []string
		code    int
		want    []string
	}{
		{"version", []string{"kedge", "version"}, 0, []string{"kedge version v1.", "+kedge"}},
		{"version flag", []string{"kedge", "--version"}, 0, []string{"kedge version v1.", "+kedge"}},
		{"help", []string{"kedge", "--help"}, 0, []string{"server", "kubectl", "ctr", "check-config", "completion"}},
		{"server help", []string{"kedge", "server", "--help"}, 0, []string{"--data-dir", "--cluster-cidr", "--kubelet-arg", "/var/lib/kedge"}},
		{"no arguments", []string{"kedge"}, 0, []string{"server"}},
		{"unknown command", []string{"kedge", "sever"}, 1, []string{`"sever"`, `did you mean "server"`}},
		{"completion", []string{"kedge", "completion", "bash"}, 0, []string{"complete", "kedge"}},
		{"completion of an unknown shell", []string{"kedge", "completion", "dash"}, 1, []string{"dash", "bash"}},
		{"check-config", []string{"kedge", "check-config"}, 0, []string{"cgroup", "overlayfs", "6443"}},
		{"check-config of an agent", []string{"kedge", "check-config", "agent", "--server", "https://127.0.0.1:1"}, 1, []string{"overlayfs", "6444", "127.0.0.1:1 can't be reached", "--server"}},
		{"kubectl", []string{"kedge", "kubectl", "version", "--client"}, 0, []string{"Client Version: v1."}},
		{"kubectl by a link", []string{"kubectl", "version", "--client"}, 0, []string{"Client Version: v1."}},
		{"kubectl without a cluster", []string{"kubectl", "get", "nodes"}, 1, []string{"kedge server"}},
		{"ctr by a link", []string{"ctr", "--help"}, 0, []string{"containerd"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			result := run(test.command[0], test.command[1:]...)
			if result.Code != test.code {
				t.Errorf("%s ends with code %d, want %d", test.command, result.Code, test.code)
			}
			for _, want := range test.want {
				if !strings.Contains(result.Stdout+result.Stderr, want) {
					t.Errorf("%s doesn't say %q, but: %s%s", test.command, want, result.Stdout, result.Stderr)
				}
			}
		})
	}
	t.Run("kubeconfig of root alone", func(t *testing.T) { testUnreadable(t, host) })
}

// testUnreadable gives a user who is not root commands that need the administrator's
// kubeconfig, which is for root alone.
func testUnreadable(t *testing.T, host *testbed.Host) {
	// Anybody can run it there, and it is unpacked.
	if _, err := host.Exec(t.Context(), "sh", "-c", "mkdir -p /etc/kedge /opt/bin && install -m 600 /dev/null /etc/kedge/kedge.yaml && cp "+host.Binary+" /opt/bin/kedge && chmod 755 /opt/bin/kedge"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"kubectl", "get", "nodes"}, {"token", "list"}} {
		cmd := host.Command(t.Context(), "/opt/bin/kedge", args...)
		cmd.Env = append(cmd.Env, "HOME=/nonexistent")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := host.StartCommand(cmd); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the code tells more
		refused(t, testbed.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()},
			"you may not read /etc/kedge/kedge.yaml", "sudo", "--write-kubeconfig-group")
	}
}

// TestConfiguration starts a server whose options come from everywhere, on a
// machine whose resolver only listens on a loopback address.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}
	files := map[string]string{
		// What systemd-resolved leaves.
		"/etc/resolv.conf":                 "nameserver 127.0.0.53\noptions edns0\n",
		"/run/systemd/resolve/resolv.conf": "nameserver 198.18.0.1\n",
		"/etc/kedge/config.yaml": `
data-dir: /opt/kedge
node-name: from-file
cluster-cidr: 10.99.0.0/16
service-cidr: 10.98.0.0/16
write-kubeconfig: /opt/admin.yaml
write-kubeconfig-mode: "0644"
node-label: [a=file, b=file]
kubelet-arg: max-pods=42
`,
		"/etc/kedge/config.yaml.d/1.yaml": "node-label+: [c=drop-in]\n",
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(c.node.Path(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.node.Path(path), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	server, err := c.node.Start("server", "--node-name", "node", "--https-listen-port=7443")
	if err != nil {
		t.Fatal(err)
	}
	c.server = server
	if err := server.WaitReady(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	// The directory is on an overlay here, on which overlayfs can't keep
	// containers.
	if !regexp.MustCompile(`(?m)^\S+ WARN .*native`).MatchString(server.Log()) {
		t.Errorf("no warning tells that overlayfs isn't used:\n%s", server.Log())
	}
	if _, err := os.Stat(c.node.Path("/var/lib/kedge/server")); err == nil {
		t.Error("the default data directory is used as well")
	}
	if err := c.node.LoadImage(t.Context(), c.images.Busybox.Archive); err != nil {
		t.Fatal(err)
	}
	s := c.sandbox(t)
	for path, want := range map[string]string{
		".metadata.labels.a": "file", ".metadata.labels.b": "file", ".metadata.labels.c": "drop-in",
		".spec.podCIDR": "10.99.0.0/24", ".status.allocatable.pods": "42",
	} {
		s.check("the node's "+path, s.field("node/node", path), want)
	}
	s.check("the address of the API in the cluster", s.kubectl("--namespace=default", "get", "service/kubernetes", "-o", "jsonpath={.spec.clusterIP}"), "10.98.0.1")
	s.check("the kubeconfig's server", s.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"), "https://127.0.0.1:7443")
	// kubectl has found the kubeconfig by the configuration, and so do the others.
	if _, err := os.Stat(c.node.Path("/etc/kedge/kedge.yaml")); err == nil {
		t.Error("the kubeconfig is at its default place, too")
	}
	if info, err := os.Stat(c.node.Path("/opt/admin.yaml")); err != nil {
		t.Error(err)
	} else if info.Mode().Perm() != 0o644 {
		t.Errorf("the kubeconfig has mode %v, want 644", info.Mode())
	}
	if out, err := c.node.Kedge(t.Context(), "token", "create", "--description=found"); err != nil || !strings.HasPrefix(out, "K10") {
		t.Errorf("kedge token create says %q, error %v", out, err)
	}
	if out, err := c.node.Kedge(t.Context(), "token", "list"); err != nil || !strings.Contains(out, "found") {
		t.Errorf("kedge token list says %q, error %v", out, err)
	}

	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: outside}
spec:
	dnsPolicy: Default
	restartPolicy: Never
	containers: [{name: main, image: BUSYBOX, command: [cat, /etc/resolv.conf]}]
---
apiVersion: v1
kind: Pod
metadata: {name: inside}
spec:
	restartPolicy: Never
	containers: [{name: main, image: BUSYBOX, command: [cat, /etc/resolv.conf]}]
`)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/outside", "pod/inside")
	for pod, want := range map[string]string{"outside": "nameserver 198.18.0.1", "inside": "nameserver 10.98.0.10"} {
		if out := s.kubectl("logs", pod); !strings.Contains(out, want) || strings.Contains(out, "127.0.0.53") {
			t.Errorf("the resolv.conf of pod %s is %q, want %q in it", pod, out, want)
		}
	}
	for _, path := range []string{"/etc/cni", "/opt/cni"} {
		if _, err := os.Stat(c.node.Path(path)); err == nil {
			t.Errorf("%s, which other software uses, was made", path)
		}
	}
	if took, code, err := server.Stop(30 * time.Second); err != nil || code != 0 {
		t.Errorf("stopping took %s and ended with code %d, error %v", took, code, err)
	}
}

// testSecondServer starts another server on the data directory of the first.
func testSecondServer(s *sandbox) {
	result, err := s.node.Run(s.t.Context(), nil, s.node.Binary, "server", "--https-listen-port=7443")
	if err != nil || result.Code == 0 {
		s.t.Errorf("a second server ended with code %d, error %v", result.Code, err)
	}
	refused(s.t, result, "another server", "/var/lib/kedge")
	s.check("the first server", s.kubectl("get", "--raw", "/readyz"), "ok")
}

// TestReadme does what the README's tour says, word by word.
func TestReadme(t *testing.T) {
	t.Parallel()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := tour(string(readme))
	if len(commands) < 4 {
		t.Fatalf("the README's tour has only the commands %q", commands)
	}
	c := newCluster(t)
	// No registry can be reached from here: agnhost answers in nginx's place.
	adapt := strings.NewReplacer("sudo ", "", "dist/kedge", c.node.Binary, "--image=busybox ", "--image="+c.images.Busybox.Name+" ")
	nginx := regexp.MustCompile(`--image=nginx\S*(.*)`)
	answered := false
	for _, command := range commands {
		t.Log("$ ", command)
		command = adapt.Replace(command)
		command = nginx.ReplaceAllString(command, "--image="+c.images.Agnhost.Name+"$1 -- /agnhost netexec --http-port=80")
		http := strings.Contains(command, "http://")
		err := testbed.Wait(t.Context(), command, limit, func(ctx context.Context) (bool, string) {
			out, err := c.node.Exec(ctx, "sh", "-c", command)
			// kubectl run may miss what a container writes that ends at once.
			done := err == nil && (!http || strings.Contains(out, "NOW: "))
			if done {
				t.Log(out)
			}
			return done, fmt.Sprint(out, err)
		})
		if err != nil {
			t.Fatal(err)
		}
		answered = answered || http
	}
	if !answered {
		t.Error("the tour has no answer over HTTP")
	}
}

// tour returns the README's commands that use kubectl, aliases replaced.
func tour(readme string) []string {
	var commands []string
	aliases := map[string]string{}
	for _, block := range regexp.MustCompile("(?s)```\\w*\n(.*?)```").FindAllStringSubmatch(readme, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", "")) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
			if alias := regexp.MustCompile(`^alias (\w+)='(.*)'$`).FindStringSubmatch(line); alias != nil {
				aliases[alias[1]] = alias[2]
				continue
			}
			first, rest, _ := strings.Cut(line, " ")
			if command, ok := aliases[first]; ok {
				line = command + " " + rest
			}
			if strings.Contains(line, "kedge kubectl ") {
				commands = append(commands, line)
			}
		}
	}
	return commands
}

// refused checks that a command ended with one line that says why.
func refused(t *testing.T, result testbed.Result, want ...string) {
	t.Helper()
	if result.Code <= 0 {
		t.Errorf("ends with code %d", result.Code)
	}
	lines := strings.Split(strings.TrimRight(result.Stdout+result.Stderr, "\n"), "\n")
	if len(lines) != 1 || result.Stdout != "" {
		t.Errorf("says %d lines instead of 1, at the end:\n%s", len(lines), strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	for _, text := range want {
		if !strings.Contains(result.Stderr, text) {
			t.Errorf("doesn't say %q, but: %s", text, lines[len(lines)-1])
		}
	}
}
