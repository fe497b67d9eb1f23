package netpol

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/knftables"
)

// failing is an nft that refuses transactions for a while.
type failing struct {
	knftables.Interface
	mu       sync.Mutex
	failures int
}

func (f *failing) Run(ctx context.Context, tx *knftables.Transaction) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failures > 0 {
		f.failures--
		return errors.New("no buffer space")
	}
	return f.Interface.Run(ctx, tx)
}

func (f *failing) fail(times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = times
}

// startFake runs a controller on a fake nft.
func startFake(t *testing.T) (*lab, *knftables.Fake, *failing) {
	needRoot(t) // to be told of changes of nftables
	l := &lab{t: t, log: &logBuffer{}, watched: map[string]int{}, hosts: map[string]host{
		"u/a": {addrs: addrsOf("10.0.0.1", "fd00::1")},
		"v/a": {addrs: addrsOf("10.0.0.2", "fd00::2")},
	}}
	l.newClient()
	nft := knftables.NewFake(knftables.InetFamily, TableName)
	unreliable := &failing{Interface: nft}
	l.Controller = New(Options{Client: l.client, NodeName: "node", NFT: unreliable, Log: slog.New(slog.NewTextHandler(l.log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	l.watches("networkpolicies", 1)
	return l, nft, unreliable
}

func (l *lab) eventuallyDump(nft *knftables.Fake, text string, want bool) {
	l.t.Helper()
	l.eventually("right table", func() bool { return strings.Contains(nft.Dump(), text) == want })
}

// Without policies, nothing but policies is watched, and there is no table.
func TestControllerIsIdleWithoutPolicies(t *testing.T) {
	l, nft, _ := startFake(t)
	others := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.watched["pods"] + l.watched["namespaces"]
	}
	if err := l.Admit(t.Context(), "some", nil); err != nil {
		t.Error(err)
	}
	if others() != 0 {
		t.Error("pods or namespaces are watched without a policy")
	}
	for i := range 3 {
		l.set("u/p: {podSelector: {}}")
		l.eventuallyDump(nft, "isolated-ingress-ip4 { 10.0.0.1 }", true)
		if others() != 2*(i+1) {
			t.Errorf("%d watches of pods and namespaces, want %d", others(), 2*(i+1))
		}
		l.set("")
		l.eventuallyDump(nft, "table", false)
		l.eventually("end of the watches", func() bool {
			l.Controller.mu.Lock()
			defer l.Controller.mu.Unlock()
			return l.peers == nil && len(l.cluster.pods) == 0
		})
	}
}

func TestControllerRetries(t *testing.T) {
	l, nft, unreliable := startFake(t)
	l.set("u/p: {podSelector: {}}")
	l.eventuallyDump(nft, "isolated-ingress-ip4 { 10.0.0.1 }", true)

	unreliable.fail(1)
	l.set("u/p: {podSelector: {}}\nv/p: {podSelector: {}}")
	l.eventuallyDump(nft, "isolated-ingress-ip4 { 10.0.0.2 }", true)
	if log := l.log.String(); !strings.Contains(log, "is written anew") || strings.Contains(log, "level=ERROR") {
		t.Errorf("after one failure the log is\n%s", log)
	}
	unreliable.fail(2)
	l.set("v/p: {podSelector: {}}")
	l.eventuallyDump(nft, "isolated-ingress-ip4 { 10.0.0.1 }", false)
	if log := l.log.String(); !strings.Contains(log, "another takes its place") || strings.Contains(log, "level=ERROR") {
		t.Errorf("after two failures the log is\n%s", log)
	}
	unreliable.fail(3)
	l.set("u/p: {podSelector: {}}")
	l.eventuallyDump(nft, "isolated-ingress-ip4 { 10.0.0.1 }", true)
	if log := l.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "no buffer space") {
		t.Errorf("after three failures the log is\n%s", log)
	}
}

func TestControllerSaysWhatCannotBeApplied(t *testing.T) {
	l, nft, _ := startFake(t)
	l.set("u/bad: {podSelector: {matchExpressions: [{key: a, operator: Like}]}}\n" +
		"u/part: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: x}}]}]}\n" +
		"v/good: {podSelector: {}}")
	l.eventuallyDump(nft, "isolated-ingress-ip4 { 10.0.0.2 }", true)
	l.eventuallyDump(nft, "isolated-ingress-ip4 { 10.0.0.1 }", true)
	lines := slices.DeleteFunc(strings.Split(l.log.String(), "\n"), func(line string) bool { return !strings.Contains(line, "WARN") })
	if len(lines) != 2 || !strings.Contains(lines[0], "policy=u/bad") || !strings.Contains(lines[1], "policy=u/part") || !strings.Contains(lines[1], "CIDR address: x") {
		t.Errorf("the log's warnings are\n%s", strings.Join(lines, "\n"))
	}
}

// A policy that can't be applied any more doesn't go on as it was.
func TestControllerForgetsWhatPoliciesWere(t *testing.T) {
	l, nft, _ := startFake(t)
	l.set("u/p: {podSelector: {}}\nv/p: {podSelector: {}}")
	l.eventuallyDump(nft, "isolated-ingress-ip4 { 10.0.0.1 }", true)
	l.set("u/p: {podSelector: {matchExpressions: [{key: a, operator: Like}]}}\nv/p: {podSelector: {}}")
	l.eventuallyDump(nft, "isolated-ingress-ip4 { 10.0.0.1 }", false)
}

func TestStrippedPod(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	p := podObject("u", "a", addrsOf("10.0.0.1", "fd00::1"))
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
		Image: "x",
		Ports: []corev1.ContainerPort{{ContainerPort: 1}, {Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}},
	})
	p.Spec.InitContainers = []corev1.Container{
		{Name: "sidecar", RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "mesh", ContainerPort: 15000}}},
		{Name: "init", Ports: []corev1.ContainerPort{{Name: "init", ContainerPort: 9}}},
	}
	p.Annotations = map[string]string{"large": "text"}
	p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	whole := podOf(p, "node")
	stripPod(p)
	stripped := podOf(p, "node")
	want := []containerPort{{namedPort{"tcp", "serve"}, 80}, {namedPort{"udp", "dns"}, 53}, {namedPort{"tcp", "mesh"}, 15000}}
	for name, info := range map[string]podInfo{"whole": whole, "stripped": stripped} {
		if !slices.Equal(info.ports, want) || info.uid != "u/a" || !info.local || info.labels["pod"] != "a" ||
			!slices.Equal(info.addrs, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}) {
			t.Errorf("of the %s pod is known %+v", name, info)
		}
	}
	if p.Annotations != nil || p.ManagedFields != nil || p.Spec.Containers[1].Image != "" {
		t.Errorf("stripped is %+v", p)
	}
}

// A list names pods with the same address in any order.
func TestListedPodsWithTheSameAddress(t *testing.T) {
	now := metav1.Now()
	before := metav1.NewTime(now.Add(-time.Minute))
	pod := func(name string, start metav1.Time, ending bool) *corev1.Pod {
		p := podObject("u", name, addrsOf("10.0.0.1", "fd00::1"))
		p.Status.StartTime = &start
		if ending {
			p.DeletionTimestamp = &now
		}
		return p
	}
	tests := []struct {
		name     string
		old, new *corev1.Pod
	}{
		{"started earlier", pod("old", before, false), pod("new", now, false)},
		{"is ending", pod("old", now, true), pod("new", before, false)},
		{"no start", podObject("u", "old", addrsOf("10.0.0.1", "fd00::1")), pod("new", now, false)},
	}
	for _, test := range tests {
		for _, list := range [][]any{{test.old, test.new}, {test.new, test.old}} {
			c := newCluster("")
			f := feed[*corev1.Pod]{
				lock: &sync.Mutex{}, order: byStart, done: func() {},
				set:  func(p *corev1.Pod) { c.setPod(podOf(p, "node")) },
				keys: func() []key { return nil },
			}
			if err := f.Replace(list, ""); err != nil {
				t.Fatal(err)
			}
			if owner := c.owner(netip.MustParseAddr("10.0.0.1")); owner.name != "new" {
				t.Errorf("%s: the owner is %s", test.name, owner.name)
			}
		}
	}
}

// A list that lacks an object is how its end is learned after a broken watch.
func TestListReplacesAll(t *testing.T) {
	c := newCluster("")
	changes := 0
	f := feed[*corev1.Pod]{
		lock: &sync.Mutex{}, done: func() { changes++ },
		set:    func(p *corev1.Pod) { c.setPod(podOf(p, "node")) },
		remove: c.deletePod,
		keys: func() []key {
			var all []key
			for k := range c.pods {
				all = append(all, k)
			}
			return all
		},
	}
	a, b := podObject("u", "a", addrsOf("10.0.0.1", "fd00::1")), podObject("u", "b", addrsOf("10.0.0.2", "fd00::2"))
	for _, list := range [][]any{{a, b}, {b}, {}} {
		if err := f.Replace(list, ""); err != nil {
			t.Fatal(err)
		}
		if len(c.pods) != len(list) || len(c.claims) != 2*len(list) {
			t.Errorf("after a list of %d there are %d pods and %d addresses", len(list), len(c.pods), len(c.claims))
		}
	}
	if changes != 3 || !f.synced {
		t.Errorf("%d changes were told, synced is %v", changes, f.synced)
	}
}

// A server may stream the list, with a bookmark at its end.
func TestStreamedList(t *testing.T) {
	stream := watch.NewFakeWithOptions(watch.FakeOptions{ChannelSize: 3})
	whole := podObject("u", "a", addrsOf("10.0.0.1", "fd00::1"))
	whole.ResourceVersion, whole.Spec.Containers[0].Image = "1", "x"
	end := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
	stream.Add(whole)
	stream.Action(watch.Bookmark, end)
	deleted := podObject("u", "a", addrsOf("10.0.0.1", "fd00::1"))
	deleted.ResourceVersion = "2"
	stream.Delete(deleted)

	events := make(chan string, 3)
	f := feed[*corev1.Pod]{
		lock: &sync.Mutex{}, done: func() {}, strip: stripPod,
		set:    func(p *corev1.Pod) { events <- "set " + p.Name + p.Spec.Containers[0].Image },
		remove: func(k key) { events <- "remove " + k.name },
		keys:   func() []key { return nil },
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			return nil, errors.New("lists are streamed")
		},
		WatchFuncWithContext: func(_ context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			if opts.SendInitialEvents == nil {
				return nil, errors.New("this is a stream")
			}
			return stream, nil
		},
	}
	running.Go(func() { f.run(ctx, "Pods", nil, lw) })
	for _, want := range []string{"set a", "remove a"} {
		select {
		case got := <-events:
			if got != want {
				t.Errorf("%q, want %q", got, want)
			}
		case <-time.After(limit):
			t.Fatalf("no %q", want)
		}
	}
}

func TestTableDeleted(t *testing.T) {
	message := func(kind uint16, family byte, table string) []byte {
		var b bytes.Buffer
		name := append([]byte(table), 0)
		length := 16 + 4 + 4 + len(name)
		b.Write([]byte{byte(length), 0, 0, 0, byte(kind), byte(kind >> 8), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		b.Write([]byte{family, 0, 0, 0})
		b.Write([]byte{byte(4 + len(name)), 0, 1, 0})
		b.Write(name)
		b.Write(make([]byte, align(length)-length))
		return b.Bytes()
	}
	const deleteTable, newTable, inet, ipv4 = 0xa02, 0xa00, 1, 2
	ours := message(deleteTable, inet, TableName)
	tests := []struct {
		name     string
		messages []byte
		want     bool
	}{
		{"nothing", nil, false},
		{"ours", ours, true},
		{"made", message(newTable, inet, TableName), false},
		{"another", message(deleteTable, inet, "filter"), false},
		{"another family", message(deleteTable, ipv4, TableName), false},
		{"after others", slices.Concat(message(deleteTable, inet, "filter"), message(newTable, inet, "x"), ours), true},
		{"cut off", ours[:len(ours)-8], false},
		{"no length", make([]byte, 64), false},
	}
	for _, test := range tests {
		if got := tableDeleted(test.messages); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}
