package drain

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// newNode makes a node with pods, of which those named held are kept by a budget.
func newNode(t *testing.T, unschedulable bool, pods, held []string) (*Node, *fake.Clientset, func() []string) {
	t.Helper()
	objects := []runtime.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{Unschedulable: unschedulable}}}
	controller := true
	for _, name := range pods {
		objects = append(objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: name, OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", Controller: &controller}}},
			Spec:       corev1.PodSpec{NodeName: "node"},
		})
	}
	client := fake.NewClientset(objects...)
	client.Resources = []*metav1.APIResourceList{{
		GroupVersion: "v1",
		APIResources: []metav1.APIResource{{Name: "pods/eviction", Kind: "Eviction", Group: "policy", Version: "v1"}},
	}}
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		create, ok := action.(clienttesting.CreateAction)
		if !ok || action.GetSubresource() != "eviction" {
			return false, nil, nil
		}
		eviction, ok := create.GetObject().(*policyv1.Eviction)
		if !ok {
			return false, nil, nil
		}
		if slices.Contains(held, eviction.Name) {
			err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
			err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: "The disruption budget hold needs 1 healthy pods"})
			return true, nil, err
		}
		return true, nil, client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "web", eviction.Name)
	})
	var mu sync.Mutex
	var said []string
	n := &Node{Name: "node", Client: client, Say: func(what, text string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, what+" "+text)
	}}
	return n, client, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(said)
	}
}

func unschedulable(t *testing.T, client *fake.Clientset) bool {
	t.Helper()
	node, err := client.CoreV1().Nodes().Get(t.Context(), "node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node.Spec.Unschedulable
}

func TestDrain(t *testing.T) {
	for _, before := range []bool{false, true} {
		n, client, said := newNode(t, before, []string{"a", "b"}, nil)
		undo, err := n.Drain(t.Context(), Default())
		if err != nil {
			t.Fatal(err)
		}
		if !unschedulable(t, client) {
			t.Error("the node still takes pods")
		}
		if list, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) > 0 {
			t.Errorf("left are %v, error %v", list.Items, err)
		}
		undo(t.Context())
		if unschedulable(t, client) != before {
			t.Errorf("of a node whose unschedulable was %v it is %v after", before, !before)
		}
		for _, want := range []string{"evict web/a", "gone web/a", "gone web/b", "drained node"} {
			if !slices.Contains(said(), want) {
				t.Errorf("it says %q, not %q", said(), want)
			}
		}
	}
}

// TestHeld has a pod that may not leave: it is named with the reason, and the node
// takes pods as before.
func TestHeld(t *testing.T) {
	n, client, said := newNode(t, false, []string{"a", "b"}, []string{"b"})
	o := Default()
	o.Timeout = 100 * time.Millisecond
	_, err := n.Drain(t.Context(), o)
	if err == nil || !strings.HasSuffix(err.Error(), "these pods did not leave within 100ms: web/b (The disruption budget hold needs 1 healthy pods)") {
		t.Errorf("got error %v", err)
	}
	if unschedulable(t, client) {
		t.Error("the node takes no pods any more")
	}
	if !slices.ContainsFunc(said(), func(line string) bool { return strings.HasPrefix(line, "waiting ") }) {
		t.Errorf("it says %q", said())
	}
}

// TestUncordon has nobody to ask for a moment, as when a server restarts.
func TestUncordon(t *testing.T) {
	n, client, said := newNode(t, true, nil, nil)
	calls := 0
	client.PrependReactor("get", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		calls++
		if calls == 1 {
			return true, nil, fmt.Errorf("refused")
		}
		return false, nil, nil
	})
	n.uncordon(t.Context())
	if unschedulable(t, client) {
		t.Errorf("the node takes no pods: %q", said())
	}
}

func TestUncordonGivesUp(t *testing.T) {
	n, client, said := newNode(t, true, nil, nil)
	client.PrependReactor("get", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, fmt.Errorf("refused")
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.uncordon(ctx)
	if all := strings.Join(said(), "\n"); !strings.Contains(all, "kedge kubectl uncordon node") {
		t.Errorf("it says %q", all)
	}
}

type named string

func (n named) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("%s", string(n))
}

func TestSplit(t *testing.T) {
	for method, want := range map[string]string{http.MethodGet: "reads", http.MethodPatch: "writes", http.MethodPost: "writes", http.MethodDelete: "writes"} {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://node", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := split{named("reads"), named("writes")}.RoundTrip(r)
		if response != nil {
			_ = response.Body.Close()
		}
		if err == nil || err.Error() != want {
			t.Errorf("%s goes as the one that %v", method, err)
		}
	}
}
