//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// top waits for a line of kubectl top that matches.
func (s *sandbox) top(line string, args ...string) {
	s.t.Helper()
	began := time.Now()
	want := regexp.MustCompile("(?m)^" + line)
	eventually(s.t, "kubectl top "+strings.Join(args, " "), func() (bool, string) {
		out, err := s.try(append([]string{"top", args[0], "--no-headers"}, args[1:]...)...)
		return err == nil && want.MatchString(out), fmt.Sprint(out, err)
	})
	s.t.Logf("kubectl top %s answers after %s", strings.Join(args, " "), time.Since(began).Round(time.Second))
}

const (
	inUse       = ` +\d+m +[1-9]\d*Mi` // of a container, or a pod
	inUseOfNode = ` +\d+m +\d+% +[1-9]\d*Mi +\d+%`
)

func testMetrics(s *sandbox) {
	s.kubectl("--namespace", "kube-system", "rollout", "status", "deployment/metrics-server", "--timeout=120s")
	s.kubectl("wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io", "--timeout=60s")
	s.top(s.node.Name+inUseOfNode, "nodes")
	s.top(`kube-system +metrics-server-\S+`+inUse, "pods", "--all-namespaces")
	s.shell("lasting")
	s.top(`lasting +main +\d+m +\d+Mi`, "pods", "--containers")

	for verb, want := range map[string]string{"get": "yes", "create": "no"} {
		// kubectl tells a no by its code as well.
		out, _ := s.try("auth", "can-i", verb, "/kedge/nodes/"+s.node.Name+"/metrics/resource", "--as=system:serviceaccount:kube-system:metrics-server")
		s.check("whether the metrics-server may "+verb+" nodes' metrics", out, want)
	}
	for _, sub := range []string{"proxy", "metrics", "stats"} {
		out, _ := s.try("auth", "can-i", "get", "nodes", "--subresource="+sub, "--as=system:serviceaccount:kube-system:metrics-server")
		s.check("whether the metrics-server may get nodes' "+sub, out, "no")
	}
	url := "https://" + s.node.Address.String() + ":6443/kedge/nodes/" + s.node.Name + "/metrics/resource"
	s.check("a stranger who asks for a node's metrics", anonymous(s, url), "401")
	for path, want := range map[string]string{
		"/kedge/nodes/missing/metrics/resource":                               "not found",
		"/kedge/nodes/" + s.node.Name + "/metrics/cadvisor":                   "not find",
		"/kedge/nodes/" + s.node.Name + "%2Fproxy%2Fpods%3F/metrics/resource": "not find",
	} {
		if out, err := s.try("get", "--raw", path); err == nil || !strings.Contains(err.Error(), want) {
			s.t.Errorf("%s: got %q, error %v, want %q", path, out, err, want)
		}
	}
}

// testAutoscaling scales a Deployment with its use of the processor.
func testAutoscaling(s *sandbox) {
	s.apply(web + `
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
	scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
	minReplicas: 1
	maxReplicas: 3
	metrics:
	- type: Resource
	  resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}
	behavior:
		scaleUp: {stabilizationWindowSeconds: 0}
		scaleDown: {stabilizationWindowSeconds: 0}
`)
	s.kubectl("scale", "deployment/web", "--replicas=1")
	s.kubectl("set", "resources", "deployment/web", "--requests=cpu=20m", "--limits=cpu=200m")
	s.rollout("deployment/web")
	began := time.Now()
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: load}
spec:
	terminationGracePeriodSeconds: 0
	containers:
	- name: main
	  image: BUSYBOX
	  command: [sh, -c, "while true; do timeout 5 wget -q -O /dev/null http://$WEB_SERVICE_HOST/hostname; done"]
	  resources: {limits: {cpu: 200m}}
`)
	replicas := func(want string) {
		s.t.Helper()
		eventually(s.t, want+" replicas", func() (bool, string) {
			return s.field("deployment/web", ".status.readyReplicas") == want, s.field("horizontalpodautoscaler/web", ".status")
		})
		s.t.Logf("%s replicas after %s", want, time.Since(began).Round(time.Second))
	}
	replicas("3")
	began = time.Now()
	s.kubectl("delete", "pod/load", "--wait=false")
	replicas("1")
}
