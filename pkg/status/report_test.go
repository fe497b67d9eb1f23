package status

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kedge-k8s/kedge/pkg/addon"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

func node(name string, ready v1.ConditionStatus, heard time.Duration) v1.Node {
	return v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: ago(time.Hour)},
		Status: v1.NodeStatus{
			Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: ready, Message: "the message", LastHeartbeatTime: ago(heard)}},
			Addresses:  []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.1"}},
			NodeInfo:   v1.NodeSystemInfo{KubeletVersion: "v1.36.3+kedge1"},
		},
	}
}

func addOn(name string, packaged bool, status metav1.ConditionStatus, reason, message string, refs ...addon.Ref) addon.Addon {
	return addon.Addon{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       addon.Spec{Source: name + ".yaml", Packaged: packaged},
		Status:     addon.Status{Objects: refs, Conditions: []metav1.Condition{{Type: "Ready", Status: status, Reason: reason, Message: message}}},
	}
}

func newReport() *Report {
	return &Report{State: Running, Role: "server", Version: "v1.36.3+kedge1", Node: "node1", Taken: now}
}

func wantProblem(t *testing.T, r *Report, texts ...string) {
	t.Helper()
	for _, p := range r.Problems {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(p.What+" → "+p.Do, text)
		}
		if all {
			return
		}
	}
	t.Errorf("no problem says %q: %+v", texts, r.Problems)
}

func TestWell(t *testing.T) {
	r := newReport()
	r.judge(&cluster{
		nodes:  []v1.Node{node("node1", v1.ConditionTrue, time.Second)},
		pods:   []v1.Pod{*runningFor(v1.ConditionTrue, time.Minute)},
		addons: []addon.Addon{addOn("coredns", true, metav1.ConditionTrue, "Applied", "")},
	}, now)
	if r.Code() != CodeWell || len(r.Nodes) != 1 || r.Nodes[0].Pods != 1 || r.Pods.Ready != 1 || r.AddOns[0].State != addOnReady {
		t.Errorf("%+v", r)
	}
}

func TestTrouble(t *testing.T) {
	r := newReport()
	full := node("full", v1.ConditionTrue, time.Second)
	full.Status.Conditions = append(full.Status.Conditions, v1.NodeCondition{Type: v1.NodeDiskPressure, Status: v1.ConditionTrue})
	newer := node("newer", v1.ConditionTrue, time.Second)
	newer.Status.NodeInfo.KubeletVersion = "v1.37.0+kedge1"
	cordoned := node("cordoned", v1.ConditionTrue, time.Second)
	cordoned.Spec.Unschedulable = true
	two, lost := int32(2), crashed("Error", 1)
	lost.Spec.NodeName = "gone"
	same := func(p *v1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID("1")}} }
	r.judge(&cluster{
		nodes: []v1.Node{node("gone", v1.ConditionUnknown, 10*time.Minute), node("broken", v1.ConditionFalse, time.Second), full, newer, cordoned},
		pods:  []v1.Pod{*crashed("Error", 3, same), *crashed("Error", 3, same), *lost},
		addons: []addon.Addon{
			addOn("coredns", true, metav1.ConditionTrue, "Applied", "", addon.Ref{Kind: "Deployment", Namespace: "kube-system", Name: "coredns"}),
			addOn("mine", false, metav1.ConditionFalse, "InvalidManifest", "line 3: odd"),
			addOn("fine", false, metav1.ConditionTrue, "Applied", ""),
		},
		deployments: []appsv1.Deployment{{ObjectMeta: metav1.ObjectMeta{Name: "coredns"}, Spec: appsv1.DeploymentSpec{Replicas: &two}, Status: appsv1.DeploymentStatus{AvailableReplicas: 1}}},
	}, now)
	wantProblem(t, r, "node gone is not Ready", "nothing was heard of it for 10m", "delete node gone")
	wantProblem(t, r, "node broken is not Ready: the message", "kedge doctor")
	wantProblem(t, r, "node full has too little disk space")
	wantProblem(t, r, "node newer runs v1.37.0+kedge1", "upgrade the servers first")
	wantProblem(t, r, "node node1 is not in the cluster")
	wantProblem(t, r, "pod shop/web-1", "and 1 more like it")
	wantProblem(t, r, "manifest mine.yaml", "line 3: odd")
	if len(r.Problems) != 7 || r.Code() != CodeWrong {
		t.Errorf("%d problems, code %d: %+v", len(r.Problems), r.Code(), r.Problems)
	}
	if len(r.AddOns) != 2 || r.AddOns[0].State != addOnStarting || r.AddOns[0].Message != "1 of 2 pods available" {
		t.Errorf("add-ons: %+v", r.AddOns)
	}
	for _, n := range r.Nodes {
		if n.Name == "cordoned" && n.Status != "Ready,SchedulingDisabled" {
			t.Errorf("%+v", n)
		}
	}
}

func TestAgentSeesItself(t *testing.T) {
	r := newReport()
	r.Role = "agent"
	r.Servers = []control.ServerState{{Address: "192.0.2.1:6443", State: "failed", Error: "refused"}, {Address: "192.0.2.2:6443", State: "healthy"}}
	r.judgeServers()
	r.judge(&cluster{nodes: []v1.Node{node("node1", v1.ConditionTrue, 0), node("other", v1.ConditionFalse, 0)}}, now)
	if len(r.Nodes) != 1 || len(r.Problems) != 1 {
		t.Errorf("%+v", r)
	}
	wantProblem(t, r, "server 192.0.2.1:6443 does not answer: refused", "with the other servers")
}

func TestSnapshot(t *testing.T) {
	r := newReport()
	var c cluster
	const list = `[
	{"metadata": {"name": "old", "creationTimestamp": "2026-11-20T00:00:00Z"}, "status": {"size": 5}},
	{"metadata": {"name": "object"}, "spec": {"snapshotName": "new"}, "status": {"creationTime": "2026-11-21T10:00:00Z", "size": "3Mi", "message": "it is damaged"}}]`
	if err := json.Unmarshal([]byte(list), &c.snapshots); err != nil {
		t.Fatal(err)
	}
	r.judge(&c, now)
	if s := r.Snapshot; s == nil || s.Name != "new" || s.Bytes != 3<<20 || now.Sub(s.Created) != 2*time.Hour {
		t.Errorf("%+v", r.Snapshot)
	}
	wantProblem(t, r, "last snapshot, new, is not as it should be: it is damaged")
}

func TestCertificates(t *testing.T) {
	r := newReport()
	entry := func(status pki.Status, usage string, before, after time.Duration) pki.Entry {
		return pki.Entry{File: "/x/" + string(status) + usage + ".crt", Status: status, Usage: usage, NotBefore: now.Add(before), NotAfter: now.Add(after)}
	}
	r.judgeCertificates([]pki.Entry{
		entry(pki.OK, "client", -time.Hour, time.Hour),
		entry(pki.Expired, "client", -2*time.Hour, -time.Hour),
		entry(pki.Expired, "serving", -2*time.Hour, -time.Hour),
		entry(pki.Warning, "client", time.Hour, 2*time.Hour),
		entry(pki.Warning, "CA", -time.Hour, 2*time.Hour),
		entry(pki.Warning, "serving", -time.Hour, 2*time.Hour),
	}, now)
	wantProblem(t, r, "2 certificates (EXPIREDclient.crt, …) are expired")
	wantProblem(t, r, "WARNINGclient.crt", "not valid yet", "clock")
	wantProblem(t, r, "the authority (CA) WARNINGCA.crt is in the last year")
	wantProblem(t, r, "WARNINGserving.crt", "about to expire")
}

func TestNotRunning(t *testing.T) {
	paths := config.Paths{DataDir: t.TempDir()}
	source := Source{Socket: filepath.Join(t.TempDir(), "none"), Paths: paths}
	r := source.Collect(t.Context())
	if r.Code() != CodeNotRunning || r.Role != "" {
		t.Errorf("%+v", r)
	}
	wantProblem(t, r, "has never run", "--data-dir")
	if err := os.MkdirAll(paths.DB(), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{filepath.Join(paths.Server(), "version"): "v1.36.2+kedge4\n", filepath.Join(paths.DB(), "state.db"): "1234"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r = source.Collect(t.Context())
	if r.Role != "server" || r.Version != "v1.36.2+kedge4" || r.State != Stopped || r.Datastore.Bytes != 4 {
		t.Errorf("%+v", r)
	}
	wantProblem(t, r, "does not run", "systemctl start kedge")
}

func TestPrint(t *testing.T) {
	started := now.Add(-3 * time.Hour)
	r := newReport()
	r.Started, r.PID = &started, 4321
	r.Datastore = &Datastore{Kind: "SQLite", Dir: "/var/lib/kedge/server/db", Bytes: 12 << 20}
	r.Memory = &Memory{Process: 356 << 20, Private: 120 << 20, Total: 4 << 30, Available: 2 << 30}
	r.judge(&cluster{
		nodes:  []v1.Node{node("node1", v1.ConditionTrue, 0)},
		pods:   []v1.Pod{*crashed("OOMKilled", 137), *unschedulable(time.Hour, "0/1 nodes are available: 1 Insufficient memory.")},
		addons: []addon.Addon{addOn("coredns", true, metav1.ConditionFalse, "ApplyFailed", strings.Repeat("long ", 60))},
	}, now)
	for _, form := range []Form{{}, {Width: 80}, {Width: 80, Colour: true}, {Width: 120}} {
		var b strings.Builder
		if err := r.Print(&b, form); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		if form.Colour != strings.Contains(text, "\x1b") {
			t.Errorf("colours with %+v:\n%s", form, text)
		}
		for _, want := range []string{"Kedge server node1", "up 3h", "SQLite, 12 MiB", "356 MiB", "node1", "coredns", "failed", "memory limit"} {
			if !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(text, bold, ""), plain, ""), want) {
				t.Errorf("%q is missing with %+v:\n%s", want, form, text)
			}
		}
		for line := range strings.Lines(text) {
			if n := width(strings.TrimSuffix(line, "\n")); form.Width > 0 && n > form.Width {
				t.Errorf("a line of %d characters with %+v: %s", n, form, line)
			}
			if strings.HasSuffix(line, " \n") {
				t.Errorf("a line ends with a space: %q", line)
			}
		}
		if form.Width == 80 && !form.Colour {
			t.Log("\n" + text)
		}
	}
}
