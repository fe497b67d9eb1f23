//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// storageLimit is how long a claim may take from its making to a running pod on
// a busy machine. On an idle one it takes less than a second.
const storageLimit = 15 * time.Second

// volumes is a sandbox of tests of volumes.
type volumes struct {
	*sandbox
	hosts map[string]*testbed.Host // by node
}

// TestStorage uses local volumes on a server and an agent.
func TestStorage(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	v := &volumes{hosts: map[string]*testbed.Host{"node": f.node, "agent-1": f.agents[0].host}}
	v.sandbox = f.sandbox(t)
	for _, test := range []struct {
		name string
		run  func(*volumes)
	}{
		{"claim", testClaim},
		{"shared", testShared},
		{"StatefulSet", testVolumeClaimTemplates},
		{"policies", testReclaimPolicies},
		{"local", testLocalType},
		{"paths", testVolumePaths},
		{"links", testLinksInVolume},
		{"refused", testRefusedClaims},
		{"interrupted", func(v *volumes) { testInterruptedRemoval(v, f) }},
		{"disconnected", func(v *volumes) { testDisconnectedNode(v, f) }},
		{"deleted node", func(v *volumes) { testDeletedNode(v, f) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := *v.sandbox
			s.t = t
			test.run(&volumes{sandbox: &s, hosts: v.hosts})
		})
	}
}

// claim makes a claim; more are further lines of its spec.
func (v *volumes) claim(name string, more ...string) {
	v.t.Helper()
	v.apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ` + name + `}
spec:
	accessModes: [ReadWriteOnce]
	resources: {requests: {storage: 1Gi}}
	` + strings.Join(more, "\n\t") + "\n")
}

// pod runs a pod on a node that has a claim at /data.
func (v *volumes) pod(name, node, claim string) {
	v.t.Helper()
	v.startPod(name, node, claim)
	v.wait("condition=Ready", "pod/"+name)
}

func (v *volumes) startPod(name, node, claim string) {
	v.t.Helper()
	v.apply(`
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
	nodeSelector: {kubernetes.io/hostname: ` + node + `}
	terminationGracePeriodSeconds: 0
	securityContext: {runAsUser: 1000, runAsGroup: 1000}
	containers:
	- name: main
	  image: BUSYBOX
	  command: [sleep, "36000"]
	  volumeMounts: [{name: data, mountPath: /data}]
	volumes: [{name: data, persistentVolumeClaim: {claimName: ` + claim + `}}]
`)
}

// run runs a command in a pod and returns what it prints.
func (v *volumes) run(pod, command string) string {
	v.t.Helper()
	out, err := v.in(pod, command)
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

// volume returns a claim's volume and its directory.
func (v *volumes) volume(claim string) (name, path string) {
	v.t.Helper()
	name = v.field("pvc/"+claim, ".spec.volumeName")
	return name, v.field("pv/"+name, ".spec.hostPath.path") + v.field("pv/"+name, ".spec.local.path")
}

func (v *volumes) exists(node, path string) bool {
	_, err := os.Lstat(v.hosts[node].Path(path))
	return err == nil
}

// drop deletes pods and a claim.
func (v *volumes) drop(claim string, pods ...string) {
	v.t.Helper()
	if len(pods) > 0 {
		v.kubectl(append([]string{"delete", "pod", "--wait=false"}, pods...)...)
	}
	v.kubectl("delete", "pvc", claim, "--timeout=60s")
}

// gone waits until a volume and its directory are.
func (v *volumes) gone(node, name, path string) {
	v.t.Helper()
	v.wait("delete", "pv/"+name)
	if v.exists(node, path) {
		v.t.Errorf("%s is still on %s", path, node)
	}
	attic := filepath.Join(filepath.Dir(path), ".kedge-removed")
	eventually(v.t, attic+" on "+node+" to be empty", func() (bool, string) {
		entries, err := os.ReadDir(v.hosts[node].Path(attic))
		return err == nil && len(entries) == 0, fmt.Sprint(entries, err)
	})
}

// event waits for an event of an object with the text in it.
func (v *volumes) event(object, namespace, text string) {
	v.t.Helper()
	eventually(v.t, "an event of "+object+" with "+text, func() (bool, string) {
		out, err := v.node.Kubectl(v.t.Context(), "--namespace", namespace, "events", "--for", object)
		return err == nil && strings.Contains(out, text), fmt.Sprint(out, err)
	})
}

// testClaim writes to a volume in one pod and reads in another, on each node,
// and measures how long it takes to get one.
func testClaim(v *volumes) {
	v.check("the default class", v.kubectl("get", "storageclass", "-o",
		`jsonpath={.items[?(@.metadata.annotations.storageclass\.kubernetes\.io/is-default-class=="true")].metadata.name}`), "local-path")
	for node := range v.hosts {
		// The image and the network are warm then: only the claim is new.
		v.apply(`
apiVersion: v1
kind: Pod
metadata: {name: warm}
spec:
	nodeSelector: {kubernetes.io/hostname: ` + node + `}
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: BUSYBOX, command: [sleep, "36000"]}]
`)
		v.wait("condition=Ready", "pod/warm")
		v.kubectl("delete", "pod", "warm")

		began := time.Now()
		claim := "data-" + node
		v.claim(claim)
		v.startPod("writer", node, claim)
		v.wait("jsonpath={.status.phase}=Bound", "pvc/"+claim)
		bound := time.Since(began)
		v.wait("condition=Ready", "pod/writer")
		took := time.Since(began)
		v.t.Logf("on %s: claim bound after %d ms, mounted in a running pod after %d ms, kubectl's own time included",
			node, bound.Milliseconds(), took.Milliseconds())
		v.logTimeline(claim, "writer")
		if took > storageLimit {
			v.t.Errorf("it takes %s from a claim to a running pod", took)
		}
		v.run("writer", "echo written on "+node+" > /data/file; mkdir /data/dir; chmod 0 /data/dir")
		v.kubectl("delete", "pod", "writer")
		v.pod("reader", node, claim)
		v.check("what another pod reads on "+node, v.run("reader", "cat /data/file"), "written on "+node)

		name, path := v.volume(claim)
		v.check("capacity", v.field("pv/"+name, ".spec.capacity.storage"), "1Gi")
		if want := filepath.Join("/var/lib/kedge/storage", name+"_"+v.namespace+"_"+claim); path != want {
			v.t.Errorf("the directory is %s, want %s", path, want)
		}
		if !v.exists(node, filepath.Join(path, "file")) {
			v.t.Errorf("%s is not on %s", path, node)
		}
		v.drop(claim, "reader")
		v.gone(node, name, path)
	}
}

// logTimeline says when what has happened to a claim and its pod.
func (v *volumes) logTimeline(claim, pod string) {
	v.t.Helper()
	name, _ := v.volume(claim)
	v.t.Logf("claim made %s, volume made %s, pod scheduled %s, container started %s",
		v.field("pvc/"+claim, ".metadata.creationTimestamp"),
		v.field("pv/"+name, ".metadata.creationTimestamp"),
		v.field("pod/"+pod, `.status.conditions[?(@.type=="PodScheduled")].lastTransitionTime`),
		v.field("pod/"+pod, ".status.containerStatuses[0].state.running.startedAt"))
}

// testShared has two replicas on a node write to one claim.
func testShared(v *volumes) {
	v.apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared}
spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shared}
spec:
	replicas: 2
	selector: {matchLabels: {app: shared}}
	template:
		metadata: {labels: {app: shared}}
		spec:
			terminationGracePeriodSeconds: 0
			containers:
			- name: main
			  image: BUSYBOX
			  command: [sh, -c, "touch /data/$HOSTNAME; sleep 36000"]
			  volumeMounts: [{name: data, mountPath: /data}]
			volumes: [{name: data, persistentVolumeClaim: {claimName: shared}}]
`)
	v.rollout("deployment/shared")
	pods := strings.Fields(v.kubectl("get", "pods", "-l", "app=shared", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(pods) != 2 {
		v.t.Fatalf("pods %q, want 2", pods)
	}
	for _, pod := range pods {
		eventually(v.t, pod+" to see the files of both", func() (bool, string) {
			out, err := v.in(pod, "ls /data")
			return err == nil && len(strings.Fields(out)) == 2, fmt.Sprint(out, err)
		})
	}
	v.kubectl("delete", "deployment/shared", "pvc/shared", "--timeout=60s")
}

// testVolumeClaimTemplates spreads a StatefulSet over both nodes; its pods find
// their data again.
func testVolumeClaimTemplates(v *volumes) {
	v.apply(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
	replicas: 2
	serviceName: db
	selector: {matchLabels: {app: db}}
	podManagementPolicy: Parallel
	template:
		metadata: {labels: {app: db}}
		spec:
			terminationGracePeriodSeconds: 0
			affinity:
				podAntiAffinity:
					requiredDuringSchedulingIgnoredDuringExecution:
					- {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: db}}}
			containers:
			- name: main
			  image: BUSYBOX
			  command: [sh, -c, "echo started >> /data/starts; sleep 36000"]
			  volumeMounts: [{name: data, mountPath: /data}]
	volumeClaimTemplates:
	- metadata: {name: data}
	  spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
`)
	v.rollout("statefulset/db")
	nodes := map[string]string{} // by pod
	for _, pod := range []string{"db-0", "db-1"} {
		nodes[pod] = v.field("pod/"+pod, ".spec.nodeName")
		if _, path := v.volume("data-" + pod); !v.exists(nodes[pod], path) {
			v.t.Errorf("%s is not on %s", path, nodes[pod])
		}
	}
	if nodes["db-0"] == nodes["db-1"] {
		v.t.Fatalf("both pods run on %s", nodes["db-0"])
	}
	v.kubectl("delete", "pod", "db-0", "db-1", "--timeout=60s")
	v.rollout("statefulset/db")
	for pod, node := range nodes {
		v.wait("condition=Ready", "pod/"+pod)
		v.check("the node of "+pod, v.field("pod/"+pod, ".spec.nodeName"), node)
		eventually(v.t, "the second start of "+pod, func() (bool, string) {
			out, err := v.in(pod, "wc -l < /data/starts")
			return err == nil && out == "2", fmt.Sprint(out, err)
		})
	}
	v.kubectl("delete", "statefulset/db", "pvc/data-db-0", "pvc/data-db-1", "--timeout=60s")
}

// testReclaimPolicies keeps what is to be retained, and takes the directory of a
// volume that is itself deleted too.
func testReclaimPolicies(v *volumes) {
	v.class("keep", "Retain", "kedge.io/local-path")
	v.claim("keep", "storageClassName: keep")
	v.pod("keep", "agent-1", "keep")
	v.run("keep", "touch /data/file")
	name, path := v.volume("keep")
	v.drop("keep", "keep")
	v.wait("jsonpath={.status.phase}=Released", "pv/"+name)
	v.kubectl("delete", "pv", name, "--timeout=60s")
	if !v.exists("agent-1", filepath.Join(path, "file")) {
		v.t.Errorf("%s of a retained volume is gone", path)
	}

	v.claim("go")
	v.pod("go", "agent-1", "go")
	name, path = v.volume("go")
	v.kubectl("delete", "pv", name, "--wait=false")
	v.drop("go", "go")
	v.gone("agent-1", name, path)
}

// class makes a storage class.
func (v *volumes) class(name, policy, provisioner string, more ...string) {
	v.t.Helper()
	v.apply(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ` + name + `}
provisioner: ` + provisioner + `
volumeBindingMode: WaitForFirstConsumer
reclaimPolicy: ` + policy + "\n" + strings.Join(more, "\n") + "\n")
}

// testLocalType makes a volume of type local of a class that names another
// provisioner.
func testLocalType(v *volumes) {
	v.class("rancher", "Delete", "rancher.io/local-path")
	v.apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: local, annotations: {volumeType: local}}
spec: {accessModes: [ReadWriteOnce], storageClassName: rancher, resources: {requests: {storage: 1Mi}}}
`)
	v.pod("local", "agent-1", "local")
	v.run("local", "touch /data/file")
	name, path := v.volume("local")
	v.check("the path of type local", v.field("pv/"+name, ".spec.local.path"), path)
	v.drop("local", "local")
	v.gone("agent-1", name, path)
}

// testVolumePaths changes where volumes lie on a node, with a volume at the old
// place.
func testVolumePaths(v *volumes) {
	v.claim("old")
	v.pod("old", "agent-1", "old")
	oldName, oldPath := v.volume("old")
	v.setPaths(`{"nodePathMap":[
		{"node":"DEFAULT_PATH_FOR_NON_LISTED_NODES","paths":["/var/lib/kedge/storage"]},
		{"node":"agent-1","paths":["/var/lib/disk1","/var/lib/disk2"]}
	],"permissions":"0750"}`)
	v.class("disk2", "Delete", "kedge.io/local-path", "parameters: {nodePath: /var/lib/disk2}")
	v.claim("new", "storageClassName: disk2")
	v.startPod("new", "agent-1", "new")
	v.wait("jsonpath={.status.phase}=Bound", "pvc/new")
	name, path := v.volume("new")
	if filepath.Dir(path) != "/var/lib/disk2" {
		v.t.Errorf("the directory is %s, want one in /var/lib/disk2", path)
	}
	if info, err := os.Stat(v.hosts["agent-1"].Path(path)); err != nil || info.Mode().Perm() != 0o750 {
		v.t.Errorf("the directory's mode is %v, want 0750; error %v", info, err)
	}
	v.drop("new", "new")
	v.gone("agent-1", name, path)
	v.drop("old", "old")
	v.gone("agent-1", oldName, oldPath)

	v.setPaths(`{"nodePathMap":[{"node":"agent-1","paths":["relative"]}]}`)
	v.claim("waits")
	v.startPod("waits", "agent-1", "waits")
	v.event("pvc/waits", v.namespace, `path "relative" of node agent-1: it is not absolute`)
	v.setPaths(`{"nodePathMap":[{"node":"DEFAULT_PATH_FOR_NON_LISTED_NODES","paths":["/var/lib/kedge/storage"]}]}`)
	v.wait("condition=Ready", "pod/waits")
	v.drop("waits", "waits")
}

func (v *volumes) setPaths(config string) {
	v.t.Helper()
	v.kubectl("--namespace", "kube-system", "patch", "configmap/local-path-config", "--type=merge", "-p", fmt.Sprintf(`{"data":{"config.json":%q}}`, config))
}

// testLinksInVolume has a pod, as root, leave links to the host's files in its
// volume.
func testLinksInVolume(v *volumes) {
	host := v.hosts["agent-1"]
	secret := "/var/lib/secret"
	if err := os.MkdirAll(host.Path(secret), 0o755); err != nil {
		v.t.Fatal(err)
	}
	if err := os.WriteFile(host.Path(secret+"/file"), []byte("x"), 0o600); err != nil {
		v.t.Fatal(err)
	}
	v.claim("links")
	v.pod("links", "agent-1", "links")
	name, path := v.volume("links")
	v.run("links", "cd /data; ln -s "+secret+" dir; ln -s "+secret+"/file file; ln -s ../../secret up; ln -s .. above; mkdir -p a/b/c; ln -s / a/b/c/root")
	v.drop("links", "links")
	v.gone("agent-1", name, path)
	if !v.exists("agent-1", secret+"/file") {
		v.t.Error("a file behind a link in a volume was removed")
	}
	if !v.exists("agent-1", "/var/lib/kedge/agent") {
		v.t.Error("Kedge's own files were removed")
	}
}

// testRefusedClaims asks for what can't be had.
func testRefusedClaims(v *volumes) {
	v.class("pattern", "Delete", "rancher.io/local-path", `parameters: {pathPattern: "{{ .PVC.Name }}"}`)
	v.claim("pattern", "storageClassName: pattern")
	v.startPod("pattern", "node", "pattern")
	v.event("pvc/pattern", v.namespace, `parameter "pathPattern", which is not supported`)

	v.apply(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: immediate}
provisioner: kedge.io/local-path
volumeBindingMode: Immediate
`)
	v.claim("immediate", "storageClassName: immediate")
	v.event("pvc/immediate", v.namespace, "needs volumeBindingMode: WaitForFirstConsumer")
	v.drop("immediate")
	v.drop("pattern", "pattern")

	v.claim("small")
	v.pod("small", "node", "small")
	out, err := v.try("patch", "pvc/small", "-p", `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
	if err == nil {
		v.t.Errorf("a larger size is not refused: %s", out)
	} else {
		v.t.Logf("a larger size is refused: %v", err)
	}
	v.drop("small", "small")
}

// testInterruptedRemoval kills the agent while it removes a large volume.
func testInterruptedRemoval(v *volumes, f *fleet) {
	v.claim("large")
	v.pod("large", "agent-1", "large")
	name, path := v.volume("large")
	v.run("large", "mkdir /data/a && cd /data/a && seq 1 60000 | xargs touch")
	v.kubectl("delete", "pod", "large")
	v.kubectl("delete", "pvc", "large", "--wait=false")
	attic := v.hosts["agent-1"].Path(filepath.Join(filepath.Dir(path), ".kedge-removed"))
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		if entries, err := os.ReadDir(attic); err == nil && len(entries) > 0 {
			break
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("the volume is not removed after %s", limit)
		}
	}
	if err := f.agents[0].process.Kill(); err != nil {
		v.t.Fatal(err)
	}
	if entries, err := os.ReadDir(attic); err != nil || len(entries) == 0 {
		v.t.Errorf("the removal was faster than the kill: %v, %v", entries, err)
	}
	f.join(v.t, f.agents[0])
	v.gone("agent-1", name, path)
}

// testDisconnectedNode makes and deletes claims on a node whose agent is stopped.
func testDisconnectedNode(v *volumes, f *fleet) {
	v.claim("before")
	v.pod("before", "agent-1", "before")
	name, path := v.volume("before")
	v.kubectl("delete", "pod", "before")
	if _, _, err := f.agents[0].process.Stop(30 * time.Second); err != nil {
		v.t.Fatal(err)
	}
	v.claim("during")
	v.startPod("during", "agent-1", "during")
	v.event("pvc/during", v.namespace, "node agent-1 has no connection to the server now")
	v.kubectl("delete", "pvc", "before", "--timeout=60s")
	v.event("pv/"+name, "default", "node agent-1 has no connection to the server now")
	if !v.exists("agent-1", path) {
		v.t.Error("the directory of a node that is not connected is gone")
	}
	f.join(v.t, f.agents[0])
	v.wait("condition=Ready", "pod/during")
	v.gone("agent-1", name, path)
	v.drop("during", "during")
}

// testDeletedNode deletes a node under its volumes.
func testDeletedNode(v *volumes, f *fleet) {
	v.claim("left")
	v.pod("left", "agent-1", "left")
	name, path := v.volume("left")
	if _, _, err := f.agents[0].process.Stop(30 * time.Second); err != nil {
		v.t.Fatal(err)
	}
	v.kubectl("delete", "node", "agent-1", "--timeout=60s")
	v.kubectl("delete", "pod", "left", "--force", "--grace-period=0")
	v.kubectl("delete", "pvc", "left", "--timeout=60s")
	began := time.Now()
	v.wait("delete", "pv/"+name)
	v.t.Logf("the volume of a deleted node is gone after %s", time.Since(began).Round(time.Millisecond))
	v.event("pv/"+name, "default", path+" is left on it")
	if !v.exists("agent-1", path) {
		v.t.Error("the directory is gone: who removed it?")
	}
}
