//go:build e2e

package e2e

import (
	"fmt"
	"strings"
)

func testJob(s *sandbox) {
	s.apply(`
apiVersion: batch/v1
kind: Job
metadata: {name: good}
spec:
	completions: 3
	parallelism: 2
	template:
		spec:
			restartPolicy: Never
			containers: [{name: main, image: BUSYBOX, command: [echo, done]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: bad}
spec:
	backoffLimit: 0
	template:
		spec:
			restartPolicy: Never
			containers: [{name: main, image: BUSYBOX, command: ["false"]}]
`)
	s.wait("condition=Complete", "job/good")
	s.check("completions", s.field("job/good", ".status.succeeded"), "3")
	s.wait("condition=Failed", "job/bad")
	s.check("why the bad Job failed", s.field("job/bad", `.status.conditions[?(@.type=="Failed")].reason`), "BackoffLimitExceeded")
}

func testCronJob(s *sandbox) {
	s.apply(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
	schedule: "* * * * *"
	jobTemplate:
		spec:
			template:
				spec:
					restartPolicy: Never
					containers: [{name: main, image: BUSYBOX, command: [echo, tick]}]
`)
	s.kubectl("create", "job", "now", "--from=cronjob/tick")
	s.wait("condition=Complete", "job/now")
	eventually(s.t, "the CronJob to run by itself", func() (bool, string) {
		last := s.field("cronjob/tick", ".status.lastSuccessfulTime")
		return last != "", s.kubectl("get", "cronjobs,jobs")
	})
}

func testDaemonSet(s *sandbox) {
	s.apply(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
	selector: {matchLabels: {app: agent}}
	template:
		metadata: {labels: {app: agent}}
		spec:
			hostNetwork: true
			hostPID: true
			terminationGracePeriodSeconds: 0
			containers: [{name: main, image: BUSYBOX, command: [sleep, "36000"]}]
`)
	s.rollout("daemonset/agent")
	pods := s.pods("app=agent")
	if len(pods) != 1 {
		s.t.Fatalf("the DaemonSet has pods %q, want 1", pods)
	}
	s.check("address of a pod in the host's network", s.field("pod/"+pods[0], ".status.podIP"), s.node.Address.String())
	out, err := s.in(pods[0], "ip address show eth0; ps")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, want := range []string{s.node.Address.String(), "kedge"} {
		if !strings.Contains(out, want) {
			s.t.Errorf("a pod in the host's namespaces doesn't see %q:\n%s", want, out)
		}
	}
}

func testStatefulSet(s *sandbox) {
	s.shell("client")
	s.apply(`
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
	clusterIP: None
	selector: {app: db}
	ports: [{port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
	serviceName: db
	replicas: 2
	selector: {matchLabels: {app: db}}
	template:
		metadata: {labels: {app: db}}
		spec:
			terminationGracePeriodSeconds: 1
			containers:
			- name: db
				image: AGNHOST
				args: [netexec, --http-port=8080]
				readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
`)
	s.rollout("statefulset/db")
	if first, second := s.field("pod/db-0", ".status.startTime"), s.field("pod/db-1", ".status.startTime"); first > second {
		s.t.Errorf("db-0 was started at %s, after db-1 at %s", first, second)
	}
	resolves := func() {
		for _, pod := range []string{"db-0", "db-1"} {
			eventually(s.t, pod+" to answer by its own name", func() (bool, string) {
				out, err := s.in("client", "timeout 5 wget -q -O - http://"+pod+".db:8080/hostname")
				return err == nil && out == pod, fmt.Sprint(out, err)
			})
		}
		eventually(s.t, "the headless Service to have both addresses", func() (bool, string) {
			out, err := s.in("client", "nslookup db."+s.namespace+".svc.cluster.local")
			found := err == nil
			for _, pod := range []string{"db-0", "db-1"} {
				found = found && strings.Contains(out, s.field("pod/"+pod, ".status.podIP"))
			}
			return found, out
		})
	}
	resolves()

	before := s.field("pod/db-0", ".metadata.uid")
	s.kubectl("delete", "pod/db-0")
	eventually(s.t, "another db-0", func() (bool, string) {
		uid, err := s.try("get", "pod/db-0", "-o", "jsonpath={.metadata.uid}")
		return err == nil && uid != before, fmt.Sprint(uid, err)
	})
	s.rollout("statefulset/db")
	resolves()
}

func testRollingUpdate(s *sandbox) {
	// The pods' answer is their revision.
	s.apply(strings.NewReplacer(
		"args: [netexec, --http-port=8080]", `args: [netexec, --http-port=8080]
				env: [{name: REVISION, value: one}]
				lifecycle: {preStop: {sleep: {seconds: 6}}}`,
		"terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 15",
		"replicas: 2", "replicas: 2\n\tstrategy: {rollingUpdate: {maxUnavailable: 0}}",
	).Replace(web))
	s.rollout("deployment/web")
	url := "http://" + s.field("service/web", ".spec.clusterIP")
	revision := func() string {
		s.t.Helper()
		pods := s.pods("app=web")
		out, err := s.in(pods[len(pods)-1], "echo $REVISION")
		if err != nil {
			s.t.Fatal(err)
		}
		return out
	}
	s.check("the revision at first", revision(), "one")
	s.answers("the Service", s.pods("app=web"), func() (string, error) {
		return get(s.t.Context(), s.node, url+"/hostname")
	})

	// Nobody notices the update: a request during it always has an answer.
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if _, err := get(s.t.Context(), s.node, url+"/hostname"); err != nil {
				ended <- err
				return
			}
		}
	}()
	s.kubectl("set", "env", "deployment/web", "REVISION=two")
	s.rollout("deployment/web")
	close(stop)
	if err := <-ended; err != nil {
		s.t.Errorf("a request during the update failed: %v", err)
	}
	gone := func(what string) {
		s.t.Helper()
		eventually(s.t, what, func() (bool, string) {
			pods := s.kubectl("get", "pods", "-l", "app=web", "-o", "name")
			return len(strings.Fields(pods)) == 2, pods
		})
	}
	gone("the pods before the update to go")
	s.check("the revision after the update", revision(), "two")

	s.kubectl("rollout", "undo", "deployment/web")
	s.rollout("deployment/web")
	gone("the pods before the rollback to go")
	s.check("the revision after the rollback", revision(), "one")

	// An update that can't work leaves the old pods in service.
	s.kubectl("set", "image", "deployment/web", "web=registry.invalid/missing:1")
	eventually(s.t, "the missing image to be noticed", func() (bool, string) {
		reasons := s.kubectl("get", "pods", "-l", "app=web", "-o",
			"jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
		return strings.Contains(reasons, "ImagePull"), reasons
	})
	if _, err := get(s.t.Context(), s.node, url+"/hostname"); err != nil {
		s.t.Errorf("the Service doesn't answer during a bad update: %v", err)
	}
	s.kubectl("rollout", "undo", "deployment/web")
	s.rollout("deployment/web")
}

func testNamespaceDeletion(s *sandbox) {
	inner := s.namespace + "-inner"
	s.kubectl("create", "namespace", inner)
	s.kubectl("--namespace", inner, "wait", "--for=create", "serviceaccount/default", "--timeout=60s")
	s.kubectl("--namespace", inner, "run", "sleeper", "--image="+s.images.Busybox.Name, "--", "sleep", "36000")
	s.kubectl("--namespace", inner, "create", "configmap", "settings", "--from-literal=a=b")
	s.kubectl("--namespace", inner, "expose", "pod/sleeper", "--port=80")
	s.wait("condition=Ready", "pod/sleeper", "--namespace="+inner)

	s.kubectl("delete", "namespace", inner, fmt.Sprintf("--timeout=%.0fs", limit.Seconds()))
	if out, err := s.try("get", "namespace", inner); err == nil {
		s.t.Errorf("the deleted namespace is there: %s", out)
	}
	s.kubectl("create", "namespace", inner)
	s.check("what the new namespace of the same name holds",
		s.kubectl("--namespace", inner, "get", "pods,services", "-o", "name"), "")
	s.kubectl("delete", "namespace", inner, "--wait=false")
}
