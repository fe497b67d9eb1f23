//go:build e2e && dashboard

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// crowd is how many pods a list of the dashboard is to open fast.
const crowd = 5000

// TestBrowser has a browser use the dashboard as people do; see tests/dashboard.
// Pictures of what it saw go to build/dashboard-shots.
func TestBrowser(t *testing.T) {
	c := newCluster(t)
	s := c.sandbox(t)
	s.kubectl("rollout", "status", "deployment/kubernetes-dashboard", "--namespace=kubernetes-dashboard", fmt.Sprintf("--timeout=%.0fs", limit.Seconds()))
	s.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
	replicas: 2
	selector: {matchLabels: {app: web}}
	template:
		metadata: {labels: {app: web}}
		spec:
			terminationGracePeriodSeconds: 0
			containers:
			- name: web
				image: AGNHOST
				args: [netexec, --http-port=8080]
				ports: [{containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
	rules:
	- host: web.test
		http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
	terminationGracePeriodSeconds: 0
	containers:
	- {name: main, image: BUSYBOX, command: [sh, -c, 'while true; do echo "tick $(date) <script>window.hacked = 1</script>"; sleep 1; done']}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {word: open sesame}
---
apiVersion: v1
kind: ConfigMap
metadata:
	name: hostile
	annotations: {note: "<img src=x onerror='window.hacked = 1'>", link: "javascript:window.hacked=1"}
data: {"page.html": "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"}
---
apiVersion: v1
kind: Event
metadata: {name: hostile}
type: Warning
reason: "<b>Hostile</b>"
message: "<img src=x onerror='window.hacked = 1'>"
involvedObject: {kind: Pod, apiVersion: v1, name: "talker", namespace: ` + s.namespace + `}
`)
	s.shell("lasting")
	s.rollout("deployment/web")
	s.wait("condition=Ready", "pod/talker")
	s.top(`lasting +`+`\d+m +\d+Mi`, "pods")
	makeCrowd(s)

	address, token := openDashboard(s)
	viewer, err := s.node.Kedge(t.Context(), "dashboard", "token", "--role=view")
	if err != nil {
		t.Fatal(err)
	}
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	shots := filepath.Join(root, "build", "dashboard-shots")
	drive := s.node.Command(t.Context(), "node", filepath.Join(root, "build", "_dashboard-test", "drive.mjs"), address+"#token="+token, shots)
	drive.Env = append(drive.Env, "VIEWER="+strings.TrimSpace(viewer), "NAMESPACE="+s.namespace, "PODS="+strconv.Itoa(crowd), "HOME="+t.TempDir(), "PATH="+os.Getenv("PATH"))
	var seen bytes.Buffer
	drive.Stdout, drive.Stderr = &seen, &seen
	if err := s.node.StartCommand(drive); err != nil {
		t.Fatal(err)
	}
	err = drive.Wait()
	t.Logf("the browser saw:\n%s", seen.String())
	if err != nil {
		t.Error(err)
	}
	testSubPath(s, token)
	logDashboardMemory(s)
}

// testSubPath uses the dashboard as tutorials do, through kubectl proxy.
func testSubPath(s *sandbox, token string) {
	proxy := s.node.Command(s.t.Context(), s.node.Binary, "kubectl", "proxy", "--port=8001")
	if err := s.node.StartCommand(proxy); err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		_ = proxy.Process.Kill()
		_ = proxy.Wait()
	}()
	b := newBrowser(s.t, s.node, "http://127.0.0.1:8001/api/v1/namespaces/kubernetes-dashboard/services/https:kubernetes-dashboard:/proxy/")
	eventually(s.t, "kubectl proxy to serve the dashboard", func() (bool, string) {
		page, err := get(s.t.Context(), s.node, b.base)
		return err == nil && strings.Contains(page, "<title>Kedge</title>"), fmt.Sprint(page, err)
	})
	b.logIn(token)
	b.want(http.StatusOK, http.MethodGet, "api/v1/pods?limit=1", "")
	b.exec(s.namespace, "lasting")
}

// makeCrowd makes pods that wait for a scheduler that never comes.
func makeCrowd(s *sandbox) {
	s.t.Helper()
	s.kubectl("create", "namespace", "crowd")
	s.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s", "--namespace=crowd")
	began := time.Now()
	client := newAPI(s.t, s.node)
	client.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 16
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for n := range numbers {
				body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pod-%04d","labels":{"app":"crowd","part":"%d"}},"spec":{"schedulerName":"none","containers":[{"name":"main","image":"none"}]}}`, n, n%10)
				response, err := client.client.Post(client.server+"/api/v1/namespaces/crowd/pods", "application/json", strings.NewReader(body))
				if err != nil {
					s.t.Error(err)
					continue
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if response.StatusCode != http.StatusCreated {
					s.t.Errorf("pod %d: %s", n, response.Status)
				}
			}
		})
	}
	for n := range crowd {
		numbers <- n
	}
	close(numbers)
	workers.Wait()
	s.t.Logf("%d pods after %s", crowd, time.Since(began).Round(time.Second))
}

// logDashboardMemory says what the dashboard's process has of its own.
func logDashboardMemory(s *sandbox) {
	out, err := s.node.Exec(s.t.Context(), "sh", "-c", `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^/addons dashboard' && grep -E '^(Rss|Pss|Private_Dirty)' $p/smaps_rollup; done; true`)
	s.t.Logf("the dashboard's memory: %s, error %v", strings.Join(strings.Fields(out), " "), err)
}
