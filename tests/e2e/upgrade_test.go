//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/pkg/payload"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// openrc stands for OpenRC on hosts, which have no service manager: it runs what the
// script of a service says.
var openrc = map[string]string{
	"openrc-run": "#!/bin/sh\n",
	"rc-update":  "#!/bin/sh\n",
	"rc-service": `#!/bin/sh
[ "$1" = --ifstarted ] && shift
RC_SVCNAME=$1
. "/etc/init.d/$1"
alive() { [ -f "$pidfile" ] && kill -0 "$(cat "$pidfile")" 2>/dev/null; }
stop() {
	alive && kill "$(cat "$pidfile")"
	while alive; do sleep 0.1; done
}
start() {
	(exec >>"$output_log" 2>&1 </dev/null; eval "exec setsid $command $command_args") &
	echo $! >"$pidfile"
}
case $2 in
restart) stop; start ;;
stop) stop ;;
status) alive ;;
esac
`,
}

// service is a host on which Kedge is installed.
type service struct {
	*testbed.Host
	t *testing.T
}

// install installs a role, with further releases to come from a mirror.
func (s service) install(mirror *releases, role string, args ...string) {
	s.t.Helper()
	for name, content := range openrc {
		put(s.t, s.Host, "/usr/local/sbin/"+name, content, 0o755)
	}
	command := append([]string{"INSTALL_KEDGE_MIRROR_URL=" + mirror.page, s.Binary, "install", "--symlink=skip", role}, args...)
	if out, err := s.Exec(s.t.Context(), "env", command...); err != nil {
		log, _ := s.Exec(s.t.Context(), "sh", "-c", "tail -n 30 /var/log/kedge*.log")
		s.t.Fatalf("%v\n%s\n%s", err, out, log)
	}
}

// upgrade runs the installed program's command.
func (s service) upgrade(args ...string) testbed.Result {
	s.t.Helper()
	result, err := s.Run(s.t.Context(), nil, "/usr/local/bin/kedge", append([]string{"upgrade"}, args...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("kedge upgrade %s on %s ends with code %d\n%s%s", strings.Join(args, " "), s.Name, result.Code, result.Stdout, result.Stderr)
	return result
}

// releases are two that follow the built one, on a host that serves them as the
// project's page does: one that works and one that does not.
type releases struct {
	page         string // its address
	next, broken string // their versions
	files        map[string][]byte
}

func (r *releases) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	version, name, _ := strings.Cut(strings.TrimPrefix(request.URL.Path, "/releases/download/"), "/")
	file, found := r.files[version]
	switch {
	case request.URL.Path == "/releases/latest":
		http.Redirect(w, request, "/releases/tag/"+r.next, http.StatusFound)
	case found && name == "kedge-"+architecture():
		_, _ = w.Write(file)
	case found && name == "sha256sum-"+architecture()+".txt":
		_, _ = fmt.Fprintf(w, "%x  kedge-%s\n", sha256.Sum256(file), architecture())
	default:
		http.NotFound(w, request)
	}
}

// serveReleases makes them from the file that a host runs.
func serveReleases(t *testing.T, bed *testbed.Bed, host *testbed.Host) *releases {
	t.Helper()
	out, err := host.Kedge(t.Context(), "--version") // which unpacks
	if err != nil {
		t.Fatal(err)
	}
	built := strings.Fields(out)[2]
	base, number, _ := strings.Cut(built, "+kedge")
	if number != "1" {
		t.Fatalf("this test knows what follows a first release, not %s", built)
	}
	far := newHost(t, bed, "mirror")
	r := &releases{page: "http://" + far.Address.String(), next: base + "+kedge2", broken: base + "+kedge3"}
	r.files = map[string][]byte{
		r.next:   restamp(t, host, built, r.next),
		r.broken: []byte(brokenProgram(r.broken)),
	}
	listener, err := listen(far, far.Address.String()+":80")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: r}
	go func() { _ = web.Serve(listener) }()
	t.Cleanup(func() { _ = web.Close() })
	return r
}

func architecture() string {
	if runtime.GOARCH == "arm" {
		return "armhf"
	}
	return runtime.GOARCH
}

// brokenProgram says which version it is, and can do nothing else.
func brokenProgram(version string) string {
	return "#!/bin/sh\n[ \"$1\" = --version ] && { echo 'kedge version " + version + " (test)'; exit; }\necho 'this version is broken' >&2\nexit 1\n"
}

// restamp makes a kedge file of another version from the one that the host has
// unpacked. It differs in nothing but that.
func restamp(t *testing.T, host *testbed.Host, built, wanted string) []byte {
	t.Helper()
	module, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	file, err := payload.Open(host.Binary, host.Binary)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	dir := t.TempDir()
	launcher, root, next := filepath.Join(dir, "launcher"), filepath.Join(dir, "root"), filepath.Join(dir, "kedge")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run("sh", "-c", fmt.Sprintf("head -c %d %s > %s && chmod 755 %s", file.Offset, host.Binary, launcher, launcher))
	run("cp", "-a", host.Path(payload.Dir("/var/lib/kedge", file.ID())), root)
	// The stamped version in the program, and in the names of the images that go with it.
	for name, change := range map[string][2]string{
		"bin/kedge":         {built, wanted},
		"images/index.json": {strings.ReplaceAll(built, "+", "-"), strings.ReplaceAll(wanted, "+", "-")},
	} {
		path := filepath.Join(root, name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(content, []byte(change[0])) {
			t.Fatalf("%s does not hold %s", name, change[0])
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.ReplaceAll(content, []byte(change[0]), []byte(change[1])), info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	run("go", "-C", module, "run", "./scripts/pack", "-level=fast", "-launcher="+launcher, "-root="+root, "-out="+next)
	content, err := os.ReadFile(next)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// serverPlan and agentPlan are what the documentation of k3s has people write, for
// Kedge's versions.
const serverPlan = `
apiVersion: upgrade.cattle.io/v1
kind: Plan
metadata: {name: server-plan, namespace: system-upgrade}
spec:
	concurrency: 1
	cordon: true
	nodeSelector:
		matchExpressions:
		- {key: node-role.kubernetes.io/control-plane, operator: In, values: ["true"]}
	serviceAccountName: system-upgrade
	upgrade: {image: rancher/k3s-upgrade}
	VERSION
`

const agentPlan = `
apiVersion: upgrade.cattle.io/v1
kind: Plan
metadata: {name: agent-plan, namespace: system-upgrade}
spec:
	concurrency: 1
	drain: {force: true}
	nodeSelector:
		matchExpressions:
		- {key: node-role.kubernetes.io/control-plane, operator: DoesNotExist}
	prepare: {image: rancher/k3s-upgrade, args: [prepare, server-plan]}
	serviceAccountName: system-upgrade
	upgrade: {image: rancher/k3s-upgrade}
	VERSION
`

// TestUpgrade upgrades a cluster of installed services: a node that can't be drained
// by hand, and all of it by Plans, to a version that works and to others.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	node := newHost(t, bed, "node")
	mirror := serveReleases(t, bed, node)
	f := &fleet{cluster: &cluster{node: node, images: buildImages(t)}, bed: bed}
	server := service{node, t}
	// Which kubectl finds all the same.
	server.install(mirror, "server", "--disable=ingress,metrics-server", "--write-kubeconfig=/opt/admin.yaml")
	var agents []service
	for _, name := range []string{"agent-1", "agent-2"} {
		a := service{newHost(t, bed, name), t}
		f.giveToken(t, a.Host)
		a.install(mirror, "agent", "--server", f.serverURL(), "--token-file", "/etc/kedge/token")
		f.waitNode(t, name)
		agents = append(agents, a)
	}
	if err := agents[0].LoadImage(t.Context(), f.images.Busybox.Archive); err != nil {
		t.Fatal(err)
	}
	s := f.sandbox(t)
	s.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: held}
spec:
	selector: {matchLabels: {app: held}}
	template:
		metadata: {labels: {app: held}}
		spec:
			nodeSelector: {kubernetes.io/hostname: agent-1}
			terminationGracePeriodSeconds: 0
			containers: [{name: main, image: BUSYBOX, command: [sleep, "36000"]}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: hold}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: held}}}
`)
	s.rollout("deployment/held")
	pod := s.kubectl("get", "pods", "-l", "app=held", "-o", "jsonpath={.items[0].metadata.name}")
	s.kubectl("wait", "--for=jsonpath={.status.expectedPods}=1", "pdb/hold", "--timeout=60s")
	versionOf := func(name string) string { return s.field("node/"+name, ".status.nodeInfo.kubeletVersion") }
	s.kubectl("label", "node", "--all", "mine=yes")
	s.kubectl("create", "namespace", "system-upgrade")
	apply := func(version string, plans ...string) {
		t.Helper()
		for _, plan := range plans {
			plan = strings.ReplaceAll(strings.ReplaceAll(plan, "VERSION", version), "\t", "  ")
			if _, err := node.KubectlIn(t.Context(), plan, "apply", "-f", "-"); err != nil {
				t.Fatal(err)
			}
		}
	}
	plan := func(name, path string) string {
		t.Helper()
		return s.kubectl("--namespace", "system-upgrade", "get", "plan/"+name, "-o", "jsonpath={"+path+"}")
	}
	// condition waits for one, as reasons tell it; while servers restart nobody answers.
	condition := func(name, kind, want string) string {
		t.Helper()
		var out string
		eventually(t, "the Plan "+name+" to be "+want, func() (bool, string) {
			var err error
			out, err = node.Kubectl(t.Context(), "--namespace", "system-upgrade", "get", "plan/"+name, "-o", `jsonpath={.status.conditions[?(@.type=="`+kind+`")].reason}: {.status.conditions[?(@.type=="`+kind+`")].message}`)
			return err == nil && strings.HasPrefix(out, want+":"), fmt.Sprint(out, err)
		})
		return out
	}

	apply("version: "+mirror.next, serverPlan)
	condition("server-plan", "Complete", "Complete")

	before := versionOf("agent-1")

	// The agent drains its own node with its own rights.
	result := agents[0].upgrade("--version", mirror.next, "--drain", "--drain-timeout=6s")
	if result.Code != 1 || !strings.Contains(result.Stderr, s.namespace+"/"+pod+" (The disruption budget hold needs") {
		t.Errorf("with a pod that may not leave, it says %q", result.Stderr)
	}
	s.check("agent-1's version after that", versionOf("agent-1"), before)
	s.check("whether agent-1 takes no pods", s.field("node/agent-1", ".spec.unschedulable"), "")
	s.check("the pod", s.kubectl("get", "pods", "-l", "app=held", "-o", "jsonpath={.items[0].metadata.name}"), pod)
	s.kubectl("delete", "pdb/hold")

	apply("version: "+mirror.next, agentPlan)
	condition("agent-plan", "Complete", "Complete")
	for _, name := range []string{"node", "agent-1", "agent-2"} {
		own := "agent-plan"
		if name == "node" {
			own = "server-plan"
		}
		s.check(name+"'s version", versionOf(name), mirror.next)
		s.check(name+"'s label", s.field("node/"+name, `.metadata.labels.plan\.upgrade\.cattle\.io/`+own), plan(own, ".status.latestHash"))
		s.check("whether "+name+" takes no pods", s.field("node/"+name, ".spec.unschedulable"), "")
		s.check(name+"'s assignment", s.field("node/"+name, `.metadata.annotations.upgrade\.kedge\.io/assignment`), "")
	}
	s.rollout("deployment/held")
	if after := s.kubectl("get", "pods", "-l", "app=held", "-o", "jsonpath={.items[0].metadata.name}"); after == pod {
		t.Errorf("the pod %s was not drained", pod)
	}
	s.check("the latest version", plan("agent-plan", ".status.latestVersion"), mirror.next)

	// By hand, to a program that does not work: pods come back to the node after that too.
	put(t, agents[1].Host, "/opt/broken", brokenProgram(mirror.next), 0o755)
	result = agents[1].upgrade("--file=/opt/broken", "--drain")
	if result.Code != 1 || !strings.Contains(result.Stdout, "  drained    agent-2\n") || !strings.Contains(result.Stdout, "  uncordon   agent-2\n") || !strings.Contains(result.Stderr, "the previous version runs again, and the node is Ready") {
		t.Error("it does not go back as it should")
	}
	s.check("whether agent-2 takes no pods after that", s.field("node/agent-2", ".spec.unschedulable"), "")

	// The same by the channel is done already.
	apply("channel: "+mirror.page+"/releases/latest", agentPlan)
	eventually(t, "the channel to be asked", func() (bool, string) {
		out := plan("agent-plan", `.status.conditions[?(@.type=="LatestResolved")].reason`) + " " + plan("agent-plan", ".status.latestVersion")
		return out == "Channel "+mirror.next, out
	})
	condition("agent-plan", "Complete", "Complete")

	// A version that does not work stops the Plan at the first node, which goes back.
	s.kubectl("--namespace", "system-upgrade", "delete", "plans", "--all")
	apply("version: "+mirror.broken, serverPlan, agentPlan)
	if why := condition("server-plan", "Complete", "Failed"); !strings.Contains(why, "node node: the new version does not work here") || !strings.Contains(why, "the previous version runs again, and the node is Ready") {
		t.Errorf("the Plan of a broken version says %q", why)
	}
	condition("agent-plan", "Complete", "Waiting")
	for _, name := range []string{"node", "agent-1", "agent-2"} {
		s.check(name+"'s version after that", versionOf(name), mirror.next)
		s.check(name+"'s label of another's", s.field("node/"+name, ".metadata.labels.mine"), "yes")
		s.check("whether "+name+" takes no pods after that", s.field("node/"+name, ".spec.unschedulable"), "")
	}
	s.check("what agent-1 was told", s.field("node/agent-1", `.metadata.annotations.upgrade\.kedge\.io/assignment`), "")
	// Nor does one that is not there change anything.
	apply("version: "+strings.ReplaceAll(mirror.broken, "kedge3", "kedge4"), serverPlan)
	eventually(t, "the missing release to be told of", func() (bool, string) {
		out := plan("server-plan", `.status.conditions[?(@.type=="Complete")].message`)
		return strings.Contains(out, "404 Not Found"), out
	})
	for version, want := range map[string][2]string{
		before:         {"Complete", "VersionSkew"},
		"v1.33.1+k3s1": {"LatestResolved", "Error"},
	} {
		apply("version: "+version, agentPlan)
		condition("agent-plan", want[0], want[1])
	}
}

// TestUpgradeServers has one Plan upgrade three servers, the one that leads too.
func TestUpgradeServers(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	var servers []service
	for i := range 3 {
		servers = append(servers, service{newHost(t, bed, fmt.Sprintf("server-%d", i+1)), t})
	}
	first := servers[0]
	mirror := serveReleases(t, bed, first.Host)
	args := []string{"--disable=ingress,metrics-server,coredns,dashboard"}
	first.install(mirror, "server", append(args, "--cluster-init")...)
	token, err := os.ReadFile(first.Path("/var/lib/kedge/server/token"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers[1:] {
		put(t, s.Host, "/etc/kedge/token", string(token), 0o600)
		s.install(mirror, "server", append(args, "--server=https://"+first.Address.String()+":6443", "--token-file=/etc/kedge/token")...)
	}
	plan := strings.NewReplacer("VERSION", "version: "+mirror.next, "namespace: system-upgrade", "namespace: default", "concurrency: 1", "concurrency: 3", "\t", "  ").Replace(serverPlan)
	if _, err := first.KubectlIn(t.Context(), plan, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	most, last := 0, ""
	err = testbed.Wait(t.Context(), "the Plan to be complete", 3*limit, func(context.Context) (bool, string) {
		for _, s := range servers { // of which one may be away
			out, err := s.Kubectl(t.Context(), "--request-timeout=5s", "get", "plan/server-plan", "-o", `jsonpath={.status.applying[*]}: {.status.conditions[?(@.type=="Complete")].reason} {.status.conditions[?(@.type=="Complete")].message}`)
			if err != nil {
				continue
			}
			if out != last {
				t.Log(out)
			}
			last = out
			applying, _, _ := strings.Cut(out, ":")
			most = max(most, len(strings.Fields(applying)))
			return strings.Contains(out, ": Complete"), out
		}
		return false, "no server answers"
	})
	if err != nil {
		t.Fatal(err)
	}
	if most != 1 {
		t.Errorf("%d servers were upgraded at the same time", most)
	}
	for _, s := range servers {
		out, err := first.Kubectl(t.Context(), "get", "node/"+s.Name, "-o", "jsonpath={.status.nodeInfo.kubeletVersion} {.spec.unschedulable}")
		if err != nil || out != mirror.next+" " {
			t.Errorf("%s is %q, error %v", s.Name, out, err)
		}
	}
}
