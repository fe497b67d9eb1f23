//go:build vm

package vm

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/images"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// limit is how long a test waits for what takes some ten seconds in a machine.
const limit = 5 * time.Minute

// node is a machine that has Kedge, and the test that uses it.
type node struct {
	*VM
	t *testing.T
}

// newNode boots a machine and installs Kedge.
func newNode(t *testing.T, options Options) *node {
	t.Helper()
	if options.Name == "" {
		options.Name = "node"
	}
	n := &node{VM: boots(t, options), t: t}
	if err := n.InstallKedge(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// run runs a subtest with the machine.
func (n *node) run(name string, test func(*node)) bool {
	return n.t.Run(name, func(t *testing.T) { test(&node{VM: n.VM, t: t}) })
}

func (n *node) execute(script string) string {
	n.t.Helper()
	return execute(n.t, n.VM, script)
}

// kubectl runs kubectl; an error fails the test.
func (n *node) kubectl(args ...string) string {
	n.t.Helper()
	out, err := n.Kubectl(n.t.Context(), args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// wait waits for a condition of objects, as kubectl wait has them.
func (n *node) wait(condition string, objects ...string) {
	n.t.Helper()
	n.kubectl(append([]string{"wait", "--for=" + condition, fmt.Sprintf("--timeout=%.0fs", limit.Seconds())}, objects...)...)
}

// field returns a field of an object, as a JSONPath.
func (n *node) field(object, path string) string {
	n.t.Helper()
	return n.kubectl("get", object, "-o", "jsonpath={"+path+"}")
}

// apply applies a manifest in which BUSYBOX stands for the image.
func (n *node) apply(manifest string) {
	n.t.Helper()
	// People indent with tabs in Go; YAML knows spaces only.
	manifest = strings.NewReplacer("BUSYBOX", images.Busybox, "\t", "  ").Replace(manifest)
	n.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
	if _, err := n.KubectlIn(n.t.Context(), manifest, "apply", "-f", "-"); err != nil {
		n.t.Fatalf("%v\n%s", err, manifest)
	}
}

func (n *node) check(what, got, want string) {
	n.t.Helper()
	if got != want {
		n.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// eventually waits for a check to say true, or fails the test.
func (n *node) eventually(what string, check func() (done bool, state string)) {
	n.t.Helper()
	err := testbed.Wait(n.t.Context(), what, limit, func(context.Context) (bool, string) { return check() })
	if err != nil {
		n.t.Fatal(err)
	}
}

// start starts the server and waits until its node is Ready.
func (n *node) start(args ...string) {
	n.t.Helper()
	begin := time.Now()
	if err := n.Start(n.t.Context(), append([]string{"server"}, args...)...); err != nil {
		n.t.Fatal(err)
	}
	n.waitReady(begin)
}

func (n *node) waitReady(begin time.Time) {
	n.t.Helper()
	if err := n.WaitReady(n.t.Context(), limit); err != nil {
		n.t.Fatal(err)
	}
	n.t.Logf("the node was Ready after %s", since(begin))
}

// buildImage makes the image that the tests' pods run.
func buildImage(t *testing.T) (archive string) {
	t.Helper()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	set, err := images.Build(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return set.Busybox.Archive
}

func (n *node) loadImage() {
	n.t.Helper()
	if err := n.LoadImage(n.t.Context(), buildImage(n.t)); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) log() string {
	n.t.Helper()
	log, err := n.Log(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return log
}

// lines returns the lines of a log that match.
func lines(log, pattern string) []string {
	match := regexp.MustCompile(pattern)
	var found []string
	for line := range strings.Lines(log) {
		if match.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// noErrors waits until the start-up is summed up, and fails for errors before.
func (n *node) noErrors() {
	n.t.Helper()
	const summary = "is ready after"
	log := ""
	n.eventually("the start-up to be summed up", func() (bool, string) {
		log = n.log()
		return strings.Contains(log, summary), lastLines(log, 10)
	})
	startup, _, _ := strings.Cut(log, summary)
	for _, line := range lines(startup, ` ERROR `) {
		n.t.Errorf("a healthy start logs an error: %s", line)
	}
}

// modules that the kernel has loaded.
func (n *node) modules() []string {
	n.t.Helper()
	return strings.Fields(n.execute("lsmod | tail -n +2 | cut -d' ' -f1"))
}

// steady is a pod that does nothing for long, with a limit on its processor time.
const steady = `
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
	terminationGracePeriodSeconds: 0
	containers:
	- name: main
		image: BUSYBOX
		command: [sleep, "36000"]
		resources: {limits: {cpu: 200m, memory: 64Mi}}
`

// TestMachine runs Kedge on a machine as people have it, through stops, starts
// and a power cut.
func TestMachine(t *testing.T) {
	n := newNode(t, Options{})
	before := n.modules()
	n.run("WithoutLibc", testWithoutLibc)
	n.run("CheckConfig", testCheckConfig)
	// The checks have had modules loaded: the server shall begin without.
	if err := n.Reboot(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	n.execute("fallocate -l 512M /swap && chmod 600 /swap && mkswap -q /swap && swapon /swap")
	if !n.run("Start", func(n *node) { n.start(); n.noErrors() }) {
		return
	}
	n.loadImage()
	n.run("Modules", func(n *node) {
		after := n.modules()
		for _, module := range []string{"br_netfilter", "overlay", "nf_tables", "nf_conntrack"} {
			if slices.Contains(before, module) || !slices.Contains(after, module) {
				t.Errorf("module %s: loaded before %t, after %t", module, slices.Contains(before, module), slices.Contains(after, module))
			}
		}
	})
	n.run("Swap", func(n *node) {
		if found := lines(n.log(), `(?i)swap`); len(found) > 1 {
			n.t.Errorf("swap is mentioned %d times:\n%s", len(found), strings.Join(found, "\n"))
		}
	})
	n.run("Limits", testLimits)
	n.run("Restart", testRestart)
	n.run("PowerCut", testPowerCut)
}

// testWithoutLibc runs Kedge where there is nothing but a shell.
func testWithoutLibc(n *node) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		n.t.Fatalf("find busybox (Debian: apt-get install busybox-static): %v", err)
	}
	n.execute("mkdir -p /srv/bare/bin /srv/bare/dev /srv/bare/proc /srv/bare/sys")
	if err := n.Copy(n.t.Context(), busybox, "/srv/bare/bin/sh"); err != nil {
		n.t.Fatal(err)
	}
	out := n.execute(`cd /srv/bare
		ln ` + Binary + ` bin/kedge
		for dir in dev proc sys; do mount --rbind --make-rslave /$dir $dir; done
		chroot . /bin/sh -c 'kedge version && kedge check-config'
		code=$?
		umount --recursive dev proc sys && rm -r --one-file-system /srv/bare
		exit $code`)
	if !strings.Contains(out, "kedge version v") || !strings.Contains(out, " 0 failures") {
		n.t.Errorf("in a root file system with nothing but a shell, Kedge says:\n%s", out)
	}
}

func testCheckConfig(n *node) {
	out, err := n.Kedge(n.t.Context(), "check-config")
	if err != nil {
		n.t.Errorf("check-config finds faults: %v", err)
	}
	if !strings.Contains(out, " 0 failures") {
		n.t.Errorf("check-config says:\n%s", out)
	}
}

func testLimits(n *node) {
	n.apply(steady + `
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
	restartPolicy: Never
	containers:
	- name: main
		image: BUSYBOX
		command: [tail, /dev/zero]
		resources: {limits: {memory: 24Mi}}
`)
	n.wait("condition=Ready", "pod/steady")
	n.check("what a command in the pod says", n.kubectl("exec", "steady", "--", "sh", "-c", "echo out of $HOSTNAME"), "out of steady")
	n.wait("jsonpath={.status.phase}=Failed", "pod/greedy")
	// containerd may come too late to find out why: systemd removes the cgroup of a
	// container that has ended, and the reason is Error then. The kernel always tells.
	n.t.Logf("the container over its limit ended because of %s", n.field("pod/greedy", ".status.containerStatuses[0].state.terminated.reason"))
	n.check("the code of the container over its limit", n.field("pod/greedy", ".status.containerStatuses[0].state.terminated.exitCode"), "137")
	n.check("what the kernel killed for the limit", n.execute("dmesg | grep -o 'oom-kill:.*oom_memcg=[^,]*pod"+n.cgroupID("greedy")+".*task=[a-z]*' | sed 's/.*task=//' | sort -u"), "tail")
	n.kubectl("delete", "pod/greedy")

	// systemd's driver, with systemd's names.
	dir := "/sys/fs/cgroup/kubepods.slice/kubepods-pod" + n.cgroupID("steady") + ".slice"
	n.check("the pod's share of a processor", n.execute("cat "+dir+"/cpu.max"), "20000 100000")
	n.check("the containers' shares", n.execute("cat "+dir+"/cri-containerd-*.scope/cpu.max | sort -u"), "20000 100000\nmax 100000")
	n.check("the pod's memory", n.execute("cat "+dir+"/memory.max"), fmt.Sprint(64<<20))
	n.execute("systemctl status kubepods.slice >/dev/null")
}

// cgroupID is what systemd's names of a pod's cgroups have in them.
func (n *node) cgroupID(pod string) string {
	n.t.Helper()
	return strings.ReplaceAll(n.field("pod/"+pod, ".metadata.uid"), "-", "_")
}

// identity tells a container from one that took its place.
func (n *node) identity() string {
	n.t.Helper()
	return n.kubectl("get", "pods", "--all-namespaces", "--sort-by=.metadata.uid", "-o",
		`jsonpath={range .items[*]}{.metadata.name}{range .status.containerStatuses[*]} {.containerID} {.state.running.startedAt} {.restartCount}{"\n"}{end}{end}`)
}

func testRestart(n *node) {
	n.kubectl("--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=300s")
	before := n.identity()
	const sleeper = "pgrep --full --exact 'sleep 36000'"
	pid := n.execute(sleeper)
	took, err := n.Stop(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Logf("stopping took %s", took.Round(10*time.Millisecond))
	if took > 10*time.Second {
		n.t.Errorf("stopping took %s, more than 10 s", took)
	}
	n.check("the pod's process while the server is stopped", n.execute(sleeper), pid)

	begin := time.Now()
	n.start()
	n.noErrors()
	// A kubelet that were to restart containers would do so at its first look at
	// them; the status it sends after that is awaited here.
	n.eventually("a heartbeat of the new kubelet", func() (bool, string) {
		beat := n.field("node/node", `.status.conditions[?(@.type=="Ready")].lastHeartbeatTime`)
		at, err := time.Parse(time.RFC3339, beat)
		return err == nil && at.After(begin), beat
	})
	n.kubectl("run", "new", "--image="+images.Busybox, "--restart=Never", "--", "true")
	n.wait("jsonpath={.status.phase}=Succeeded", "pod/new")
	n.kubectl("delete", "pod/new")
	n.check("the containers after a restart", n.identity(), before)
	n.check("the pod's process after a restart", n.execute(sleeper), pid)
}

// counter counts lines, and calls a function when there are enough.
type counter struct {
	text   strings.Builder
	enough int
	then   func()
	lines  atomic.Int32
}

func (c *counter) Write(p []byte) (int, error) {
	before := int(c.lines.Load())
	after := int(c.lines.Add(int32(strings.Count(string(p), "\n"))))
	if before < c.enough && after >= c.enough {
		c.then()
	}
	return c.text.Write(p)
}

// testPowerCut cuts the power while objects are made, without warning.
func testPowerCut(n *node) {
	uid := n.field("pod/steady", ".metadata.uid")
	container := n.field("pod/steady", ".status.containerStatuses[0].containerID")
	var list strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&list, "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: written-%d}, data: {number: \"%d\"}}\n", i, i)
	}
	session, err := n.client.NewSession()
	if err != nil {
		n.t.Fatal(err)
	}
	cut := make(chan struct{})
	acknowledged := &counter{enough: 100, then: func() { close(cut) }}
	session.Stdin, session.Stdout = strings.NewReader(list.String()), acknowledged
	if err := session.Start(Binary + " kubectl create -f -"); err != nil {
		n.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case <-cut:
	case err := <-ended:
		n.t.Fatalf("objects can't be made: %v", err)
	case <-time.After(limit):
		n.t.Fatal("no 100 objects were made")
	}
	n.PowerCut()
	if err := <-ended; err == nil {
		n.t.Error("all objects were made before the power was cut")
	}

	boot(n.t, n.VM)
	n.start()
	n.noErrors()
	n.eventually("the pod to come back", func() (bool, string) {
		state := n.field("pod/steady", `.metadata.uid} {.status.containerStatuses[0].containerID} {.status.conditions[?(@.type=="Ready")].status`)
		f := strings.Fields(state)
		return len(f) == 3 && f[0] == uid && f[1] != container && f[2] == "True", state
	})
	n.check("what a command in the pod says", n.kubectl("exec", "steady", "--", "echo", "back"), "back")
	there := strings.Fields(n.kubectl("get", "configmaps", "-o", `jsonpath={range .items[*]}configmap/{.metadata.name}={.data.number}{"\n"}{end}`))
	count := 0
	for line := range strings.Lines(acknowledged.text.String()) {
		name, _, ok := strings.Cut(line, " created")
		if !ok || !strings.HasSuffix(line, "\n") {
			continue
		}
		count++
		want := name + "=" + strings.TrimPrefix(name, "configmap/written-")
		if !slices.Contains(there, want) {
			n.t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	n.t.Logf("%d objects were acknowledged before the power was cut", count)
}

// TestWithoutMemoryCgroup boots as a Raspberry Pi does.
func TestWithoutMemoryCgroup(t *testing.T) {
	n := newNode(t, Options{KernelArgs: "cgroup_disable=memory"})
	n.execute("mkdir -p /boot/firmware && cp /proc/cmdline /boot/firmware/cmdline.txt")
	if _, err := n.Kedge(t.Context(), "version"); err != nil { // unpacks
		t.Fatal(err)
	}
	const files = "find /var/lib/kedge /etc/kedge /var/lib/kubelet /run/kedge 2>/dev/null | sort"
	before := n.execute(files)
	result, err := n.Run(t.Context(), nil, Binary+" server")
	if err != nil {
		t.Fatal(err)
	}
	if result.Code == 0 {
		t.Error("the server ended with code 0")
	}
	said := strings.TrimSpace(result.Stdout + result.Stderr)
	if strings.Contains(said, "\n") {
		t.Errorf("the server says more than one line:\n%s", said)
	}
	for _, want := range []string{`"cgroup_memory=1 cgroup_enable=memory"`, "/boot/firmware/cmdline.txt"} {
		if !strings.Contains(said, want) {
			t.Errorf("the server says %q, want %q in it", said, want)
		}
	}
	n.check("the files after a refused start", n.execute(files), before)

	check, err := n.Run(t.Context(), nil, Binary+" check-config")
	if err != nil || check.Code != 1 || !strings.Contains(check.Stdout, "cgroup_memory=1 cgroup_enable=memory") {
		t.Errorf("check-config ends with code %d, error %v, and says\n%s", check.Code, err, check.Stdout)
	}
}

// TestLegacyCgroups boots with cgroup v1.
func TestLegacyCgroups(t *testing.T) {
	n := newNode(t, Options{KernelArgs: "systemd.unified_cgroup_hierarchy=0"})
	n.check("what is mounted for cgroups", n.execute("stat -f -c %T /sys/fs/cgroup /sys/fs/cgroup/memory"), "tmpfs\ncgroupfs")
	n.start()
	n.noErrors()
	if found := lines(n.log(), `(?i)cgroup.?v1`); len(found) != 1 || !strings.Contains(found[0], " WARN ") {
		t.Errorf("the server mentions cgroup v1 in %d lines, want one warning:\n%s", len(found), strings.Join(found, "\n"))
	}
	n.loadImage()
	n.apply(steady)
	n.wait("condition=Ready", "pod/steady")
	n.check("what a command in the pod says", n.kubectl("exec", "steady", "--", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"), fmt.Sprint(64<<20))
}

// nested runs Kedge as a container does that has a cgroup namespace: its process 1
// is in the root of what it sees, which is not the machine's root. What starts it
// is outside, as a container's shim is.
const nested = `
set -e
own=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir $own/shim $own/container
echo $$ >$own/shim/cgroup.procs
for controller in $(cat $own/cgroup.controllers); do echo +$controller >$own/cgroup.subtree_control; done
exec unshare --pid --fork --kill-child --mount --mount-proc sh -ec '
	echo 0 >'$own'/container/cgroup.procs
	exec unshare --cgroup sh -ec "
		umount /sys/fs/cgroup
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		mount -t tmpfs tmpfs /run
		mount --make-rshared /
		exec ` + Binary + ` server
	"
'
`

// TestNested runs Kedge in a nested cgroup, version 2.
func TestNested(t *testing.T) {
	n := newNode(t, Options{})
	if _, err := n.ExecIn(t.Context(), strings.NewReader(nested), "cat >/srv/nested"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	n.execute("systemd-run --quiet --unit " + unit + " -p Delegate=yes -p TasksMax=infinity sh /srv/nested")
	n.waitReady(begin)
	n.noErrors()
	pid := n.execute("systemctl show --value -p MainPID " + unit)
	inside := fmt.Sprintf("nsenter --all --target $(pgrep --parent %s) ", pid)
	n.check("the processes in the root cgroup", n.execute(inside+"cat /sys/fs/cgroup/cgroup.procs"), "")
	n.execute(inside + "test -d /sys/fs/cgroup/kubepods")
	if err := n.Copy(t.Context(), buildImage(t), "/srv/busybox.tar"); err != nil {
		t.Fatal(err)
	}
	n.execute(inside + Binary + " ctr --namespace k8s.io images import /srv/busybox.tar")
	n.apply(steady)
	n.wait("condition=Ready", "pod/steady")
	n.check("the pod's share of a processor", n.kubectl("exec", "steady", "--", "cat", "/sys/fs/cgroup/cpu.max"), "20000 100000")
	n.check("the pod's memory", n.kubectl("exec", "steady", "--", "cat", "/sys/fs/cgroup/memory.max"), fmt.Sprint(64<<20))
}
