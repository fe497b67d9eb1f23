//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestNetworkPolicy lets only an application reach its database, on a cluster of
// two nodes. The rules themselves are tested in pkg/netpol, packet by packet.
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	s := f.sandbox(t)
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db}}
spec:
	nodeName: agent-1
	terminationGracePeriodSeconds: 0
	containers:
	- {name: main, image: AGNHOST, args: [netexec, --http-port=5432], readinessProbe: {httpGet: {port: 5432}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{port: 5432}]}
`)
	clients := map[string]string{"django-here": "agent-1", "django-there": "node", "other-here": "agent-1", "other-there": "node"}
	for name, node := range clients {
		app, _, _ := strings.Cut(name, "-")
		s.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
	nodeName: %s
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: AGNHOST, args: [pause]}]
`, name, app, node))
	}
	s.wait("condition=Ready", "pod/db", "pod/django-here", "pod/django-there", "pod/other-here", "pod/other-there")
	reach := func(reached ...string) {
		t.Helper()
		for name := range clients {
			want := false
			for _, prefix := range reached {
				want = want || strings.HasPrefix(name, prefix)
			}
			eventually(t, fmt.Sprintf("%s to reach the database: %v", name, want), func() (bool, string) {
				out, err := s.try("exec", name, "--", "/agnhost", "connect", "--timeout=2s", "db:5432")
				// Who may send nothing can't even ask for the address.
				text := fmt.Sprint(out, err)
				return (err == nil) == want && (want || strings.Contains(text, "TIMEOUT") || strings.Contains(text, "DNS")), text
			})
		}
	}
	reach("django", "other")

	s.apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db}
spec:
	podSelector: {matchLabels: {app: db}}
	policyTypes: [Ingress]
	ingress:
	- from: [{podSelector: {matchLabels: {app: django}}}]
	  ports: [{port: 5432}]
`)
	reach("django")
	// Probes are always let through: the pod stays Ready.
	s.check("the database's readiness", s.field("pod/db", `.status.conditions[?(@.type=="Ready")].status`), "True")

	// Policies hold while Kedge is away, on either node.
	a := f.agents[0]
	if _, _, err := a.process.Stop(limit); err != nil {
		t.Fatal(err)
	}
	f.join(t, a)
	f.waitNode(t, "agent-1")
	reach("django")

	s.kubectl("label", "pod/other-there", "app=django", "--overwrite")
	eventually(t, "a relabelled pod to be let in", func() (bool, string) {
		out, err := s.try("exec", "other-there", "--", "/agnhost", "connect", "--timeout=2s", "db:5432")
		return err == nil, fmt.Sprint(out, err)
	})
	s.kubectl("label", "pod/other-there", "app=other", "--overwrite")
	reach("django")

	s.apply(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing-out}
spec: {podSelector: {matchLabels: {app: django}}, policyTypes: [Egress]}
`)
	reach()
	t.Run("from a pod's first packet", func(t *testing.T) {
		db := s.field("pod/db", ".status.podIP")
		const pods = 8
		for i := range pods {
			s.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: first-%d, labels: {app: django, first: packet}}
spec:
	nodeName: %s
	restartPolicy: Never
	containers: [{name: main, image: AGNHOST, args: [connect, --timeout=1s, "%s:5432"]}]
`, i, []string{"agent-1", "node"}[i%2], db))
		}
		eventually(t, "all pods to have tried", func() (bool, string) {
			phases := strings.Fields(s.kubectl("get", "pod", "-l", "first=packet", "-o", "jsonpath={.items[*].status.phase}"))
			if slices.Contains(phases, "Succeeded") {
				t.Fatalf("a pod reached the database before the policies held: %v", phases)
			}
			return len(phases) == pods && !slices.ContainsFunc(phases, func(p string) bool { return p != "Failed" }), fmt.Sprint(phases)
		})
	})
	s.kubectl("delete", "networkpolicy", "--all")
	reach("django", "other")
}
