//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
)

// web is a Deployment whose pods answer HTTP requests, with a Service.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
	replicas: 2
	selector: {matchLabels: {app: web}}
	template:
		metadata: {labels: {app: web}}
		spec:
			terminationGracePeriodSeconds: 1
			containers:
			- name: web
				image: AGNHOST
				args: [netexec, --http-port=8080]
				ports: [{containerPort: 8080}]
				readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
	selector: {app: web}
	ports: [{port: 80, targetPort: 8080}]
`

// pods returns the names of the pods with a label, sorted.
func (s *sandbox) pods(label string) []string {
	s.t.Helper()
	return strings.Fields(s.kubectl("get", "pods", "-l", label, "--field-selector=status.phase=Running",
		"--sort-by=.metadata.name", "-o", "jsonpath={.items[*].metadata.name}"))
}

// answers waits until the answers to a request are those wanted, in any order
// and more than once each.
func (s *sandbox) answers(what string, want []string, request func() (string, error)) {
	s.t.Helper()
	got := map[string]int{}
	eventually(s.t, what+" to be answered by each of "+strings.Join(want, ", "), func() (bool, string) {
		answer, err := request()
		if err != nil {
			return false, err.Error()
		}
		if !slices.Contains(want, answer) {
			s.t.Fatalf("%s: an answer is %q, want one of %q", what, answer, want)
		}
		got[answer]++
		return len(got) == len(want), fmt.Sprint("answers so far: ", slices.Sorted(maps.Keys(got)))
	})
}

func testService(s *sandbox) {
	s.apply(web)
	s.shell("client")
	s.rollout("deployment/web")
	pods := s.pods("app=web")
	if len(pods) != 2 {
		s.t.Fatalf("the Deployment has pods %q, want 2", pods)
	}
	for _, name := range []string{"web", "web." + s.namespace, "web." + s.namespace + ".svc.cluster.local"} {
		s.answers("the Service as "+name, pods, func() (string, error) {
			return s.in("client", "timeout 5 wget -q -O - http://"+name+"/hostname")
		})
	}
	address := s.field("service/web", ".spec.clusterIP")
	s.answers("the Service from the node", pods, func() (string, error) {
		return get(s.t.Context(), s.node, "http://"+address+"/hostname")
	})

	s.kubectl("scale", "deployment/web", "--replicas=1")
	s.rollout("deployment/web")
	eventually(s.t, "one pod to be left", func() (bool, string) {
		pods = s.pods("app=web")
		return len(pods) == 1, fmt.Sprint(pods)
	})
	// kube-proxy writes its rules at most once a second, and the pod may be gone
	// before that.
	eventually(s.t, "five answers in a row from the pod that is left", func() (bool, string) {
		for range 5 {
			answer, err := get(s.t.Context(), s.node, "http://"+address+"/hostname")
			if err != nil || answer != pods[0] {
				return false, fmt.Sprint(answer, err)
			}
		}
		return true, ""
	})

	s.kubectl("delete", "service/web")
	eventually(s.t, "the Service's address to refuse connections", func() (bool, string) {
		_, err := get(s.t.Context(), s.node, "http://"+address+"/hostname")
		return err != nil, "answers"
	})
}

func testDNS(s *sandbox) {
	s.shell("client")
	out, err := s.in("client", "cat /etc/resolv.conf")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, want := range []string{"nameserver 10.43.0.10", "search " + s.namespace + ".svc.cluster.local svc.cluster.local"} {
		if !strings.Contains(out, want) {
			s.t.Errorf("a pod's resolv.conf doesn't have %q:\n%s", want, out)
		}
	}
	s.check("the DNS Service's address", s.kubectl("--namespace", "kube-system", "get", "service/kube-dns",
		"-o", "jsonpath={.spec.clusterIP}"), "10.43.0.10")
	eventually(s.t, "kubernetes.default to be resolved", func() (bool, string) {
		out, err := s.in("client", "nslookup kubernetes.default.svc.cluster.local")
		return err == nil && strings.Contains(out, "Address: 10.43.0.1"), out
	})
	if out, err := s.in("client", "nslookup missing.default.svc.cluster.local"); err == nil {
		s.t.Errorf("a Service that isn't there is resolved: %s", out)
	}
}

func testNodePort(s *sandbox) {
	s.apply(web)
	s.kubectl("patch", "service/web", "-p", `{"spec":{"type":"NodePort"}}`)
	s.rollout("deployment/web")
	port := s.field("service/web", ".spec.ports[0].nodePort")
	at := net.JoinHostPort(s.node.Address.String(), port)
	pods := s.pods("app=web")
	s.answers("the node port from another host", pods, func() (string, error) {
		return get(s.t.Context(), s.beside, "http://"+at+"/hostname")
	})
	s.answers("the node port from the node", pods, func() (string, error) {
		return get(s.t.Context(), s.node, "http://"+at+"/hostname")
	})

	s.kubectl("patch", "service/web", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	eventually(s.t, "the client's own address to be seen with externalTrafficPolicy Local", func() (bool, string) {
		answer, err := get(s.t.Context(), s.beside, "http://"+at+"/clientip")
		if err != nil {
			return false, err.Error()
		}
		client, _, _ := net.SplitHostPort(answer)
		return client == s.beside.Address.String(), answer
	})
}

func testHostPort(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
	terminationGracePeriodSeconds: 1
	containers:
	- name: web
		image: AGNHOST
		args: [netexec, --http-port=8080]
		ports: [{containerPort: 8080, hostPort: 8088}]
`)
	s.wait("condition=Ready", "pod/web")
	at := net.JoinHostPort(s.node.Address.String(), "8088")
	s.answers("the host port from another host", []string{"web"}, func() (string, error) {
		return get(s.t.Context(), s.beside, "http://"+at+"/hostname")
	})
	s.answers("the host port from the node", []string{"web"}, func() (string, error) {
		return get(s.t.Context(), s.node, "http://"+at+"/hostname")
	})
	s.kubectl("delete", "pod/web")
	if answer, err := get(s.t.Context(), s.beside, "http://"+at+"/hostname"); err == nil {
		s.t.Errorf("the host port of a deleted pod answers %q", answer)
	}
}

func testExternalName(s *sandbox) {
	s.apply(web + `
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.` + s.namespace + `.svc.cluster.local}
`)
	s.shell("client")
	s.rollout("deployment/web")
	s.answers("the external name", s.pods("app=web"), func() (string, error) {
		return s.in("client", "timeout 5 wget -q -O - http://alias/hostname")
	})
}

// testOutOfCluster reaches a machine that isn't part of the cluster.
func testOutOfCluster(s *sandbox) {
	const port = "8080"
	server := s.beside.Command(s.t.Context(), s.images.AgnhostProgram, "netexec", "--http-port="+port)
	if err := s.beside.StartCommand(server); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	s.shell("client")
	url := "http://" + net.JoinHostPort(s.beside.Address.String(), port)
	eventually(s.t, "the machine outside to answer a pod", func() (bool, string) {
		answer, err := s.in("client", "timeout 5 wget -q -O - "+url+"/clientip")
		if err != nil {
			return false, err.Error()
		}
		client, _, _ := net.SplitHostPort(answer)
		if client != s.node.Address.String() {
			s.t.Fatalf("the machine outside sees the pod as %s, want the node's address %s", client, s.node.Address)
		}
		return true, ""
	})
}
