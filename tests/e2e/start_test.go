//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

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

	if failed := s.kubectl("--namespace", "kube-system", "get", "events", "--field-selector=reason=Failed", "-o", "jsonpath={.items[*].message}"); failed != "" {
		s.t.Errorf("a pod did not wait for its packaged image: %s", failed)
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
log: /var/log/kedge.log
vmodule: pod_workers=4
bind-address: 198.18.0.11
tls-san: [kedge.example.com]
cluster-cidr: 10.99.0.0/16
service-cidr: 10.98.0.0/16
service-node-port-range: 31000-31003
cluster-dns: 10.98.0.53
cluster-domain: kedge.test
write-kubeconfig: /opt/admin.yaml
write-kubeconfig-mode: "0644"
write-kubeconfig-group: daemon
default-local-storage-path: /opt/volumes
node-label: [a=file, b=file]
node-internal-dns: [node.internal.example]
pause-image: ` + c.images.Agnhost.Name + `
enable-pprof: true
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
	content, err := os.ReadFile(c.node.Path("/var/log/kedge.log"))
	if err != nil {
		t.Fatal(err)
	}
	// The directory is on an overlay here, on which overlayfs can't keep
	// containers.
	if log := string(content); !regexp.MustCompile(`(?m)^\S+ WARN .*native`).MatchString(log) {
		t.Errorf("no warning tells that overlayfs isn't used:\n%s", log)
	}
	if line := regexp.MustCompile(`(?m)^\S+ (INFO|WARN) .*`).FindString(server.Log()); line != "" {
		t.Errorf("not only the file has the log: %s", line)
	}
	if _, err := os.Stat(c.node.Path("/var/lib/kedge/server")); err == nil {
		t.Error("the default data directory is used as well")
	}
	// Agnhost, which the pause image is here, comes before the first pod has to.
	c.loadImages(t)
	s := c.sandbox(t)
	for path, want := range map[string]string{
		".metadata.labels.a": "file", ".metadata.labels.b": "file", ".metadata.labels.c": "drop-in",
		".spec.podCIDR": "10.99.0.0/24", ".status.allocatable.pods": "42",
		`.status.addresses[?(@.type=="InternalDNS")].address`: "node.internal.example",
	} {
		s.check("the node's "+path, s.field("node/node", path), want)
	}
	s.check("the address of the API in the cluster", s.kubectl("--namespace=default", "get", "service/kubernetes", "-o", "jsonpath={.spec.clusterIP}"), "10.98.0.1")
	s.check("the kubeconfig's server", s.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"), "https://198.18.0.11:7443")
	kubeconfig, err := c.node.Exec(t.Context(), "stat", "--format=%a %U %G", "/opt/admin.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s.check("the kubeconfig's mode, user and group", strings.TrimSpace(kubeconfig), "644 root daemon")
	s.check("the API by another name", s.kubectl("--tls-server-name=kedge.example.com", "get", "--raw", "/readyz"), "ok")
	if conn, err := c.node.Dial(t.Context(), "tcp", "127.0.0.1:7443"); err == nil {
		_ = conn.Close()
		t.Error("the API is served at another address than bind-address too")
	}
	for _, path := range []string{profiles, "/api/v1/nodes/node/proxy" + profiles} {
		if out := s.kubectl("get", "--raw", path); !strings.Contains(out, "goroutine profile: total") {
			t.Errorf("%s gives %.200q, want a profile", path, out)
		}
	}
	s.kubectl("create", "service", "nodeport", "web", "--tcp=80")
	if port := s.field("service/web", ".spec.ports[0].nodePort"); port < "31000" || port > "31003" {
		t.Errorf("the port of a Service is %s, want one from 31000 to 31003", port)
	}
	// kubectl has found the kubeconfig by the configuration, and so do the others. What
	// knows the usual place only is led there.
	if to, err := os.Readlink(c.node.Path("/etc/kedge/kedge.yaml")); err != nil || to != "/opt/admin.yaml" {
		t.Errorf("the usual place of the kubeconfig leads to %q, error %v", to, err)
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
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: inside}
spec:
	restartPolicy: Never
	containers:
	- name: main
		image: BUSYBOX
		command: [sh, -c, cat /etc/resolv.conf && until nslookup kubernetes.default.svc.kedge.test >&2; do sleep 1; done]
		volumeMounts: [{name: data, mountPath: /data}]
	volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/outside", "pod/inside")
	for pod, wanted := range map[string][]string{
		"outside": {"nameserver 198.18.0.1"},
		"inside":  {"nameserver 10.98.0.53", "search " + s.namespace + ".svc.kedge.test svc.kedge.test kedge.test"},
	} {
		out := s.kubectl("logs", pod)
		for _, want := range wanted {
			if !strings.Contains(out, want) || strings.Contains(out, "127.0.0.53") {
				t.Errorf("the resolv.conf of pod %s is %q, want %q in it", pod, out, want)
			}
		}
	}
	if path := s.field("pv/"+s.field("pvc/data", ".spec.volumeName"), ".spec['hostPath','local'].path"); !strings.HasPrefix(path, "/opt/volumes/") {
		t.Errorf("the volume is in %s, want it in /opt/volumes", path)
	}
	sandboxes, err := c.node.Kedge(t.Context(), "ctr", "--namespace=k8s.io", "containers", "list", `labels."io.cri-containerd.kind"==sandbox`)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(sandboxes, c.images.Agnhost.Name); n < 2 || strings.Count(sandboxes, "\n") != n+1 {
		t.Errorf("not all pods have the pause image %s:\n%s", c.images.Agnhost.Name, sandboxes)
	}
	content, err = os.ReadFile(c.node.Path("/var/log/kedge.log"))
	if err != nil || !strings.Contains(string(content), "Pod is being synced for the first time") {
		t.Errorf("the log, error %v, has nothing of vmodule's pod_workers:\n%.5000s", err, content)
	}
	for _, path := range []string{"/etc/cni", "/opt/cni"} {
		if _, err := os.Stat(c.node.Path(path)); err == nil {
			t.Errorf("%s, which other software uses, was made", path)
		}
	}
	// It registers anew.
	s.kubectl("delete", "node/node")
	if took, code, err := server.Stop(30 * time.Second); err != nil || code != 0 {
		t.Errorf("stopping took %s and ended with code %d, error %v", took, code, err)
	}
	t.Run("leaner", func(t *testing.T) {
		s := *s
		s.t = t
		testLeaner(t, c, &s)
	})
}

// testLeaner starts a server that has been stopped again without some of its parts,
// and with a container runtime of the user's.
func testLeaner(t *testing.T, c *cluster, s *sandbox) {
	listener, err := net.Listen("unix", c.node.Path("/run/runtime.sock"))
	if err != nil {
		t.Fatal(err)
	}
	runtime := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(runtime, emptyRuntime{})
	cri.RegisterImageServiceServer(runtime, emptyRuntime{})
	go func() { _ = runtime.Serve(listener) }()
	t.Cleanup(runtime.Stop)
	// Which another runtime has its own of.
	if _, err := c.node.Exec(t.Context(), "sed", "-i", "/^pause-image:/d", "/etc/kedge/config.yaml"); err != nil {
		t.Fatal(err)
	}
	server, err := c.node.Start("server", "--node-name=node", "--https-listen-port=7443", "--log=", "--v=2",
		"--disable-scheduler", "--disable-kube-proxy", "--disable-cloud-controller", "--container-runtime-endpoint=/run/runtime.sock")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.WaitReady(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	s.check("the node's runtime", s.field("node/node", ".status.nodeInfo.containerRuntimeVersion"), "empty://1.2.3")
	s.check("the node's taints", s.field("node/node", ".spec.taints"), "")
	s.check("the node's address", s.field("node/node", `.status.addresses[?(@.type=="InternalIP")].address`), c.node.Address.String())
	if !strings.Contains(server.Log(), "SyncLoop ADD") {
		t.Errorf("the log has nothing that only v=2 shows:\n%s", server.Log())
	}
	const pod = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
	%s
	containers: [{name: main, image: BUSYBOX, imagePullPolicy: Never}]
`
	s.apply(fmt.Sprintf(pod, "unplaced", ""))
	s.apply(fmt.Sprintf(pod, "placed", "nodeName: node"))
	eventually(t, "the kubelet to have seen the pod that has a node", func() (bool, string) {
		state := s.field("pod/placed", ".status")
		return strings.Contains(state, "hostIP"), state
	})
	s.check("the node of the other pod", s.field("pod/unplaced", ".spec.nodeName"), "")
	for port, part := range map[string]string{"10259": "kube-scheduler", "10249": "kube-proxy", "10256": "kube-proxy"} {
		if conn, err := c.node.Dial(t.Context(), "tcp", "127.0.0.1:"+port); err == nil {
			_ = conn.Close()
			t.Errorf("somebody listens on port %s of %s", port, part)
		}
	}
	if took, code, err := server.Stop(30 * time.Second); err != nil || code != 0 {
		t.Errorf("stopping took %s and ended with code %d, error %v", took, code, err)
	}
}

// emptyRuntime is a container runtime that is well and runs nothing.
type emptyRuntime struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer
}

func (emptyRuntime) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: "empty", RuntimeVersion: "1.2.3", RuntimeApiVersion: "v1"}, nil
}

func (emptyRuntime) Status(context.Context, *cri.StatusRequest) (*cri.StatusResponse, error) {
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{
		{Type: cri.RuntimeReady, Status: true}, {Type: cri.NetworkReady, Status: true},
	}}}, nil
}

func (emptyRuntime) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{}, nil
}

func (emptyRuntime) ListContainers(context.Context, *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{}, nil
}

func (emptyRuntime) ListImages(context.Context, *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	return &cri.ListImagesResponse{}, nil
}

func (emptyRuntime) ImageFsInfo(context.Context, *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	return &cri.ImageFsInfoResponse{}, nil
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
