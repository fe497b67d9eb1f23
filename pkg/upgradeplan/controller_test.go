package upgradeplan

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kedge-k8s/kedge/pkg/version"
)

// rig is a controller in a cluster of one node.
type rig struct {
	*Controller
	t *testing.T
}

func newRig(t *testing.T, spec string) *rig {
	t.Helper()
	old := version.Version
	version.Version = now36
	t.Cleanup(func() { version.Version = old })
	plan := &unstructured.Unstructured{}
	text := `{"apiVersion": "upgrade.cattle.io/v1", "kind": "Plan", "metadata": {"namespace": "system-upgrade", "name": "plan", "uid": "uid"}, "spec": ` + spec + `}`
	if err := plan.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	c := New(Config{Log: slog.New(slog.DiscardHandler)})
	c.dynamic = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{plansResource: "PlanList"}, plan)
	c.client = fake.NewClientset(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node", Labels: map[string]string{controlPlaneLabel: "true"}},
		Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: now36},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	})
	return &rig{c, t}
}

// looks has the controller look, and returns the Plan's status and the node.
func (r *rig) looks() (Status, *corev1.Node) {
	r.t.Helper()
	if _, err := r.look(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	plans, err := r.plans(r.t.Context())
	if err != nil || len(plans) != 1 {
		r.t.Fatalf("the Plans are %v, error %v", plans, err)
	}
	node, err := r.client.CoreV1().Nodes().Get(r.t.Context(), "node", metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	if node.Labels[controlPlaneLabel] == "" {
		r.t.Error("the node has lost a label")
	}
	return plans[0].Status, node
}

// reports is what the node says.
func (r *rig) reports(id, state, message, now string) {
	r.t.Helper()
	text, err := json.Marshal(Report{ID: id, State: state, Message: message})
	if err != nil {
		r.t.Fatal(err)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{reportAnnotation: string(text)}},
		"status":   map[string]any{"nodeInfo": map[string]string{"kubeletVersion": now}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.client.CoreV1().Nodes().Patch(r.t.Context(), "node", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) says(s Status, kind, status, reason, message string) {
	r.t.Helper()
	c := s.condition(kind)
	if c == nil || c.Status != status || c.Reason != reason || !strings.Contains(c.Message, message) {
		r.t.Errorf("%s is %+v, want %s, %s: %s", kind, c, status, reason, message)
	}
}

const good = `{"nodeSelector": {}, "version": "v1.36.4-kedge1", "drain": {"force": true}, "upgrade": {"image": "rancher/k3s-upgrade"}}`

// TestLook follows an upgrade that goes well.
func TestLook(t *testing.T) {
	r := newRig(t, good)
	status, node := r.looks()
	a := parse[Assignment](node.Annotations, assignmentAnnotation)
	if a == nil || a.Version != next36 || a.Plan != "system-upgrade/plan" || a.Drain == nil || !a.Drain.Force || a.Since.IsZero() {
		t.Fatalf("the assignment is %+v", a)
	}
	r.says(status, validated, "True", "PlanIsValid", "")
	r.says(status, resolved, "True", "Version", "")
	r.says(status, complete, "False", reasonApplying, "node: to "+next36)
	if status.LatestVersion != next36 || len(status.Applying) != 1 || status.LatestHash == "" {
		t.Errorf("the status is %+v", status)
	}
	r.reports(a.ID, running, "", now36)
	if _, node = r.looks(); parse[Assignment](node.Annotations, assignmentAnnotation).ID != a.ID {
		t.Error("the assignment has changed")
	}
	r.reports(a.ID, done, "", next36)
	r.looks() // which gives the label
	status, node = r.looks()
	r.says(status, complete, "True", reasonComplete, "")
	if node.Labels[labelPrefix+"plan"] != status.LatestHash || parse[Assignment](node.Annotations, assignmentAnnotation) != nil || len(status.Applying) > 0 {
		t.Errorf("the node is %+v, the status %+v", node.ObjectMeta, status)
	}
}

// TestLookFails follows an upgrade that fails, and one of the Plan in another form.
func TestLookFails(t *testing.T) {
	r := newRig(t, good)
	_, node := r.looks()
	a := parse[Assignment](node.Annotations, assignmentAnnotation)
	r.reports(a.ID, failed, "no such release", now36)
	for range 2 {
		status, _ := r.looks()
		r.says(status, complete, "False", reasonFailed, "node node: no such release")
	}
	_, err := r.dynamic.Resource(plansResource).Namespace("system-upgrade").Patch(t.Context(), "plan", types.MergePatchType, []byte(`{"spec": {"drain": null}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	status, node := r.looks()
	r.says(status, complete, "False", reasonApplying, "")
	if again := parse[Assignment](node.Annotations, assignmentAnnotation); again.ID == a.ID || again.Drain != nil {
		t.Errorf("the assignment is %+v", again)
	}
}

// TestForget deletes a Plan before a node begins, and while it is under way.
func TestForget(t *testing.T) {
	for state, stays := range map[string]bool{"": false, running: true, failed: false} {
		r := newRig(t, good)
		_, node := r.looks()
		a := parse[Assignment](node.Annotations, assignmentAnnotation)
		if state != "" {
			r.reports(a.ID, state, "", now36)
		}
		if err := r.dynamic.Resource(plansResource).Namespace("system-upgrade").Delete(t.Context(), "plan", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		wait, err := r.look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		node, err = r.client.CoreV1().Nodes().Get(t.Context(), "node", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := parse[Assignment](node.Annotations, assignmentAnnotation) != nil; got != stays || (wait > 0) != stays {
			t.Errorf("with the report %q the assignment stays: %v, and the next look is in %s", state, got, wait)
		}
	}
}

// TestNamesakes has two Plans of one name, which would take the label from each other.
func TestNamesakes(t *testing.T) {
	r := newRig(t, good)
	first, err := r.dynamic.Resource(plansResource).Namespace("system-upgrade").Get(t.Context(), "plan", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := first.DeepCopy()
	second.SetNamespace("z")
	second.SetUID("other")
	if _, err := r.dynamic.Resource(plansResource).Namespace("z").Create(t.Context(), second, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	plans, err := r.plans(t.Context())
	if err != nil || len(plans) != 2 {
		t.Fatalf("the Plans are %v, error %v", plans, err)
	}
	r.says(plans[0].Status, complete, "False", reasonApplying, "")
	r.says(plans[1].Status, validated, "False", "PlanNotValid", "in the namespace system-upgrade")
}

// TestLookRefuses has Plans that nothing comes of.
func TestLookRefuses(t *testing.T) {
	for name, test := range map[string]struct{ spec, kind, reason, message string }{
		"another image": {`{"nodeSelector": {}, "version": "1", "upgrade": {"image": "ubuntu"}}`, validated, reasonImage, "for ubuntu"},
		"a command":     {`{"nodeSelector": {}, "version": "1", "upgrade": {"image": "k3s-upgrade", "command": ["sh"]}}`, validated, "PlanNotValid", "no command"},
		"k3s":           {`{"nodeSelector": {}, "version": "v1.33.1+k3s1", "upgrade": {"image": "k3s-upgrade"}}`, resolved, "Error", "v1.33.1+k3s1 is no version of Kedge"},
		"a way back":    {`{"nodeSelector": {}, "version": "v1.36.2+kedge1", "upgrade": {"image": "k3s-upgrade"}}`, complete, reasonSkew, "can't go back"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, test.spec)
			status, node := r.looks()
			r.says(status, test.kind, "False", test.reason, test.message)
			if len(node.Annotations) > 0 {
				t.Errorf("the node is told %v", node.Annotations)
			}
		})
	}
}
