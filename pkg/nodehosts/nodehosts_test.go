package nodehosts

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func node(name string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func named(n *corev1.Node, kind corev1.NodeAddressType, name string) *corev1.Node {
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: name})
	return n
}

func TestRender(t *testing.T) {
	for _, test := range []struct {
		name  string
		nodes []*corev1.Node
		want  string
	}{
		{"none", nil, ""},
		{"by name", []*corev1.Node{node("b", "192.0.2.2"), node("a", "192.0.2.1")}, "192.0.2.1 a\n192.0.2.2 b\n"},
		{"both families", []*corev1.Node{node("a", "192.0.2.1", "2001:db8::1")}, "192.0.2.1 a\n2001:db8::1 a\n"},
		{"no address yet", []*corev1.Node{node("a"), node("b", "192.0.2.2")}, "192.0.2.2 b\n"},
		{"no address at all", []*corev1.Node{node("a", "", "a.example.com", "fe80::1%eth0")}, ""},
		{"twice", []*corev1.Node{node("a", "2001:db8::1", "2001:DB8:0::1")}, "2001:db8::1 a\n"},
		{"host name", []*corev1.Node{named(node("a", "192.0.2.1"), corev1.NodeHostName, "A-Host")}, "192.0.2.1 a a-host\n"},
		{"its own host name", []*corev1.Node{named(node("a", "192.0.2.1"), corev1.NodeHostName, "a")}, "192.0.2.1 a\n"},
		{"internal name", []*corev1.Node{named(node("a", "192.0.2.1"), corev1.NodeInternalDNS, "a.lan")}, "192.0.2.1 a a.lan\n"},
		{"for others", []*corev1.Node{named(named(node("a", "192.0.2.1"), corev1.NodeExternalDNS, "a.example.com"), corev1.NodeExternalIP, "198.51.100.1")}, "192.0.2.1 a\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Render(test.nodes); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// await waits for the ConfigMap to hold the hosts.
func await(t *testing.T, client kubernetes.Interface, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		stored, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(t.Context(), ConfigMap, metav1.GetOptions{})
		if err == nil {
			got = stored.Data[Key]
		}
		if got == want {
			return
		}
	}
	t.Fatalf("the ConfigMap holds %q, want %q", got, want)
}

// TestController follows nodes through their lives. The first write fails.
func TestController(t *testing.T) {
	client := fake.NewClientset(node("a", "192.0.2.1"), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: ConfigMap, Namespace: metav1.NamespaceSystem},
		Data:       map[string]string{"Corefile": "."},
	})
	var writes atomic.Int32
	client.PrependReactor("patch", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		if writes.Add(1) == 1 {
			return true, nil, errors.New("not now")
		}
		return false, nil, nil
	})
	c := NewController("", slog.New(slog.DiscardHandler))
	if err := c.follow(client, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	await(t, client, "192.0.2.1 a\n")

	nodes := client.CoreV1().Nodes()
	if _, err := nodes.Create(t.Context(), node("b", "192.0.2.2"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, client, "192.0.2.1 a\n192.0.2.2 b\n")
	before := writes.Load()
	// A heartbeat, and then a new address.
	beating := node("b", "192.0.2.2")
	beating.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
	for _, n := range []*corev1.Node{beating, node("a", "192.0.2.9")} {
		if _, err := nodes.Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, client, "192.0.2.9 a\n192.0.2.2 b\n")
	if got := writes.Load() - before; got != 1 {
		t.Errorf("a heartbeat and a new address are written %d times, want 1", got)
	}
	if err := nodes.Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, client, "192.0.2.9 a\n")
	stored, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(t.Context(), ConfigMap, metav1.GetOptions{})
	if err != nil || stored.Data["Corefile"] != "." {
		t.Errorf("the other keys are %q, error %v", stored.Data, err)
	}
}
