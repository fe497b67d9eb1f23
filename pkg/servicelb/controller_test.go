package servicelb

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

const limit = 30 * time.Second

// background runs a function until the test ends.
func background(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, what string, state func() string, want string) {
	t.Helper()
	got := ""
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got = state(); got == want {
			return
		}
	}
	t.Fatalf("%s: got  %q\nwant %q", what, got, want)
}

// status is a Service's addresses and what its condition says.
func status(t *testing.T, client kubernetes.Interface, name string) func() string {
	return func() string {
		s, err := client.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		var list []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			mode := "no mode"
			if i.IPMode != nil {
				mode = string(*i.IPMode)
			}
			list = append(list, i.IP+" "+mode)
		}
		for _, c := range s.Status.Conditions {
			list = append(list, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
		}
		return strings.Join(list, ", ")
	}
}

// warnings are the reasons of warnings about a Service.
func warnings(t *testing.T, client kubernetes.Interface, name string) func() string {
	return func() string {
		events, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		var list []string
		for _, e := range events.Items {
			if e.InvolvedObject.Name == name && e.Type == corev1.EventTypeWarning {
				list = append(list, e.Reason)
			}
		}
		return strings.Join(list, " ")
	}
}

func TestController(t *testing.T) {
	other := metav1.Condition{Type: "example.com/other", Status: metav1.ConditionTrue, Reason: "Theirs"}
	web := service("web", 0, "80/TCP", func(s *corev1.Service) { s.Status.Conditions = []metav1.Condition{other} })
	a := node("a", "192.0.2.1", saying(""))
	client := fake.NewClientset([]runtime.Object{web, service("late", 1, "80/TCP"), service("local", 2, "443/TCP", onlyLocal), a}...)
	c := New(Options{Client: client, Log: slog.New(slog.DiscardHandler)})
	background(t, c.Run)
	const theirs, served, taken = "example.com/other=True Theirs", "kedge.io/servicelb=True Served", "kedge.io/servicelb=False PortTaken"
	core := client.CoreV1()

	eventually(t, "a Service whose ports no node has said to be free", status(t, client, "web"), theirs+", "+served)
	eventually(t, "a Service that is too late", status(t, client, "late"), taken)

	if _, err := core.Nodes().Update(t.Context(), node("a", "192.0.2.1"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a Service with a node", status(t, client, "web"), "192.0.2.1 VIP, "+theirs+", "+served)
	eventually(t, "the warnings about the other", warnings(t, client, "late"), ReasonTaken)

	if _, err := client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice("local", "a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a Local Service with an endpoint", status(t, client, "local"), "192.0.2.1 VIP, "+served)

	if err := core.Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other once the first is gone", status(t, client, "late"), "192.0.2.1 VIP, "+served)

	if _, err := core.Nodes().Update(t.Context(), node("a", "192.0.2.1", notReady), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a Service without a Ready node", status(t, client, "late"), served)
}

func TestUnchangedStatusIsNotWritten(t *testing.T) {
	s := service("web", 0, "80/TCP", having(true, "192.0.2.1"))
	v := Verdict{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	if (change{s, v}).needed() {
		t.Error("a status that is right is written")
	}
	v.Problem = &Problem{ReasonTaken, "by another"}
	if !(change{s, v}).needed() {
		t.Error("a new problem is not written")
	}
	if (change{s, v}).loses() || !(change{s, Verdict{}}).loses() {
		t.Error("who loses addresses is not seen")
	}
}

func TestSilence(t *testing.T) {
	c := New(Options{Client: fake.NewClientset(), Log: slog.New(slog.DiscardHandler)})
	s := service("web", 0, "80/TCP")
	decide := func() Verdict {
		v := Decide(Cluster{Services: []*corev1.Service{s}, Nodes: []*corev1.Node{node("a", "192.0.2.1", saying(""))}})
		c.complain(v)
		return v[nameOf(s)]
	}
	if v := decide(); v.Problem != nil {
		t.Errorf("a node that has just been asked is complained about: %s", v.Problem.Message)
	}
	c.waiting[nameOf(s)] = time.Now().Add(-silenceLimit)
	if v := decide(); v.Problem == nil || v.Problem.Reason != ReasonSilentNode || !strings.Contains(v.Problem.Message, "on node a,") {
		t.Errorf("a silent node is not complained about: %v", v.Problem)
	}
}

func TestClear(t *testing.T) {
	client := fake.NewClientset(
		service("ours", 0, "80/TCP", having(true, "192.0.2.1")),
		service("theirs", 0, "80/TCP", having(false, "203.0.113.1")),
	)
	cleared, err := Clear(t.Context(), client)
	if err != nil || cleared != 1 {
		t.Errorf("cleared %d Services, error %v", cleared, err)
	}
	if got := status(t, client, "ours")(); got != "" {
		t.Errorf("left is %q", got)
	}
	if got := status(t, client, "theirs")(); got != "203.0.113.1 no mode" {
		t.Errorf("another load balancer's status is now %q", got)
	}
}

// made is a Machine with sshd.
type made struct{}

func (made) Used(wanted []Port, at []netip.Addr) map[Port]string {
	used := map[Port]string{}
	for _, p := range wanted {
		if p.Number == 22 && len(at) == 2 {
			used[p] = "sshd"
		}
	}
	return used
}

func (made) Addresses() ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")}, nil
}

// pod makes one with host ports such as 80/TCP or 192.0.2.1:80/TCP.
func pod(name string, ports ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	for _, text := range ports {
		ip, number, found := strings.Cut(text, ":")
		if !found {
			ip, number = "", text
		}
		host := port(number)
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Ports: []corev1.ContainerPort{
			{ContainerPort: 1}, {HostIP: ip, HostPort: int32(host.Number), Protocol: host.Protocol},
		}})
	}
	return p
}

func TestReporter(t *testing.T) {
	client := fake.NewClientset(
		node("a", "192.0.2.1", saying("old")), pod("exporter", "9100/TCP", "127.0.0.1:443/TCP", "192.0.2.1:53/UDP"),
		service("ssh", 0, "22/TCP 80/TCP"), service("metrics", 0, "53/UDP 443/TCP 9100/TCP"), service("web", 0, "80/TCP"), service("other", 0, "443/TCP", class("example.com/lb")),
	)
	r := &Reporter{Client: client, Node: "a", Machine: made{}, External: []netip.Addr{netip.MustParseAddr("203.0.113.9")}, Log: slog.New(slog.DiscardHandler)}
	background(t, r.Run)
	said := func() string {
		n, err := client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return n.Annotations[ReportAnnotation]
	}
	eventually(t, "the report", said, `{"free":["80/TCP","443/TCP"],`+
		`"used":{"22/TCP":"sshd","53/UDP":"pod default/exporter","9100/TCP":"pod default/exporter"},"elsewhere":["203.0.113.9"]}`)
	for _, name := range []string{"ssh", "metrics", "web"} {
		if err := client.CoreV1().Services("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the report when no Service wants ports", said, "")
}

func TestStripKeepsWhatIsDecidedFrom(t *testing.T) {
	s := service("web", 0, "80/TCP", having(true, "192.0.2.1"), onlyLocal)
	n := node("a", "192.0.2.1", external("203.0.113.9"))
	n.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
	n.Status.Images = []corev1.ContainerImage{{Names: []string{"x"}}}
	e := slice("web", "a b:unready")
	before := Decide(Cluster{Services: []*corev1.Service{s}, Nodes: []*corev1.Node{n}, Slices: []*discoveryv1.EndpointSlice{e}})
	strippedNode := stripped(t, n)
	after := Decide(Cluster{
		Services: []*corev1.Service{stripped(t, s)}, Nodes: []*corev1.Node{strippedNode}, Slices: []*discoveryv1.EndpointSlice{stripped(t, e)},
	})
	if got, want := show(after[nameOf(s)]), show(before[nameOf(s)]); got != want || want != "203.0.113.9" {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(strippedNode.Status.Images) > 0 {
		t.Error("a node's images are kept")
	}
	alive := n.DeepCopy()
	alive.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(time.Now().Add(time.Minute))
	if nodeChanged(strippedNode, stripped(t, alive)) {
		t.Error("a sign of life is a change")
	}
	notReady(alive)
	if !nodeChanged(strippedNode, stripped(t, alive)) {
		t.Error("the end of a node's readiness is no change")
	}
	if nodesChanged(e, slice("web", "a a b:unready")) || !nodesChanged(e, slice("web", "a b")) {
		t.Error("nodes with ready endpoints are not told from others")
	}
	if meta.FindStatusCondition(stripped(t, s).Status.Conditions, ConditionType) == nil {
		t.Error("the mark is lost")
	}
}

func stripped[T any](t *testing.T, o T) T {
	t.Helper()
	left, err := strip(o)
	if err != nil {
		t.Fatal(err)
	}
	return left.(T)
}
