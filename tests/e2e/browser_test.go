//go:build e2e && dashboard

package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// crowd is how many pods a list of the dashboard is to open fast.
const crowd = 5000

// ingressName is the host name under which the ingress serves the dashboard.
const ingressName = "dashboard.test"

// TestBrowser has a browser use the dashboard as people do; see tests/dashboard.
// Pictures of what it saw go to build/dashboard-shots.
func TestBrowser(t *testing.T) {
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), beside: newHost(t, bed, "beside"), images: buildImages(t)}
	authority := startProvider(t, c.beside)
	put(t, c.node, "/etc/kedge/provider.crt", authority, 0o644)
	c.start(t,
		"--kube-apiserver-arg=oidc-issuer-url=https://"+c.beside.Address.String()+":9443",
		"--kube-apiserver-arg=oidc-client-id=kedge",
		"--kube-apiserver-arg=oidc-username-prefix=oidc:",
		"--kube-apiserver-arg=oidc-ca-file=/etc/kedge/provider.crt")
	c.loadImages(t)
	s := c.sandbox(t)
	s.kubectl("wait", "--for=create", "deployment/kubernetes-dashboard", "--namespace=kubernetes-dashboard", "--timeout=120s")
	s.kubectl("create", "secret", "generic", "kubernetes-dashboard-settings", "--namespace=kubernetes-dashboard",
		"--from-literal=oidc-ca.crt="+authority, "--from-literal=fetch-networks="+c.beside.Address.String()+"/32")
	s.kubectl("rollout", "restart", "deployment/kubernetes-dashboard", "--namespace=kubernetes-dashboard")
	s.kubectl("create", "clusterrolebinding", "alice", "--clusterrole=view", "--user=oidc:alice")
	s.kubectl("create", "ingress", "dashboard", "--namespace=kubernetes-dashboard", "--rule="+ingressName+"/*=kubernetes-dashboard:443")
	s.kubectl("create", "clusterrole", "<img src=x onerror=window.hacked=1>", "--verb=get", "--resource=pods")
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
kind: ConfigMap
metadata: {name: spare-1}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: spare-2}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: base}
spec:
	serviceName: base
	selector: {matchLabels: {app: base}}
	template:
		metadata: {labels: {app: base}}
		spec:
			terminationGracePeriodSeconds: 0
			containers:
			- {name: main, image: BUSYBOX, command: [sleep, "36000"]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: yearly}
spec:
	schedule: "0 0 1 1 *"
	jobTemplate:
		spec:
			template:
				spec:
					restartPolicy: Never
					containers:
					- {name: main, image: BUSYBOX, command: ["true"]}
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
	drive.Env = append(drive.Env, "VIEWER="+strings.TrimSpace(viewer), "NAMESPACE="+s.namespace, "PODS="+strconv.Itoa(crowd), "HOME="+t.TempDir(),
		"INGRESS=https://"+ingressName+"/", "NODE="+s.node.Address.String(), "FILES=http://"+s.beside.Address.String()+":9080", "ONLY="+os.Getenv("ONLY"), "PATH="+os.Getenv("PATH"))
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
	testDashboardMemory(s)
}

// startProvider starts the identity provider of tests/dashboard on a host, and returns
// the certificate that it is to be trusted by.
func startProvider(t *testing.T, host *testbed.Host) string {
	t.Helper()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	certificate, authority := newAuthority(t, host)
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	put(t, host, "/etc/provider.crt", string(authority), 0o644)
	put(t, host, "/etc/provider.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})), 0o600)
	provider := host.Command(t.Context(), "node", filepath.Join(root, "build", "_dashboard-test", "provider.mjs"),
		host.Address.String(), "/etc/provider.crt", "/etc/provider.key", "https://"+ingressName+"/")
	provider.Env = append(provider.Env, "PATH="+os.Getenv("PATH"))
	var said bytes.Buffer
	provider.Stdout, provider.Stderr = &said, &said
	if err := host.StartCommand(provider); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = provider.Process.Kill()
		_ = provider.Wait()
		if t.Failed() {
			t.Logf("the identity provider said:\n%s", said.String())
		}
	})
	eventually(t, "the identity provider", func() (bool, string) {
		page, err := get(t.Context(), host, "http://"+host.Address.String()+":9080/web.yaml")
		return err == nil && strings.Contains(page, "fetched"), fmt.Sprint(page, err)
	})
	return string(authority)
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

// Of the dashboard, with as many users at once, no more memory may be private.
const (
	dashboardUsers  = 5
	dashboardMemory = 20_000 // kB
)

// testDashboardMemory has users who each look at a large list and at much else, live.
func testDashboardMemory(s *sandbox) {
	address, _ := openDashboard(s)
	for n := range dashboardUsers {
		token, err := s.node.Kedge(s.t.Context(), "dashboard", "token", "--role=view", fmt.Sprintf("--user=user-%d", n))
		if err != nil {
			s.t.Fatal(err)
		}
		b := newBrowser(s.t, s.node, address)
		b.want(http.StatusOK, http.MethodGet, "", "")
		b.logIn(strings.TrimSpace(token))
		const pods = "api/v1/namespaces/crowd/pods"
		eventually(s.t, "the role to be in force", func() (bool, string) {
			got := b.ask(http.MethodGet, pods+"?limit=1", "")
			return got.code == http.StatusOK, got.body
		})
		b.want(http.StatusOK, http.MethodGet, pods, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
		for _, path := range []string{pods, "api/v1/nodes", "api/v1/namespaces", "api/v1/pods", "apis/apps/v1/deployments", "api/v1/events"} {
			b.watch(path)
		}
		b.want(http.StatusOK, http.MethodGet, "api/v1/namespaces/"+s.namespace+"/pods/talker/log", "")
	}
	out, err := s.node.Exec(s.t.Context(), "sh", "-c", `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^/addons dashboard' && grep -E '^(Rss|Pss|Private_Dirty)' $p/smaps_rollup; done; true`)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("the dashboard's memory with %d users: %s", dashboardUsers, strings.Join(strings.Fields(out), " "))
	private := regexp.MustCompile(`Private_Dirty:\s+(\d+) kB`).FindStringSubmatch(out)
	if private == nil {
		s.t.Fatalf("the dashboard's process is not found: %s", out)
	}
	if kB, err := strconv.Atoi(private[1]); err != nil || kB > dashboardMemory {
		s.t.Errorf("the dashboard has %d kB of its own with %d users, want %d at most", kB, dashboardUsers, dashboardMemory)
	}
}

// watch follows a collection until the test ends.
func (b *browser) watch(path string) {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.base+"stream/watch/"+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, h := range append(strings.Split(socket, "|"), "Sec-Websocket-Protocol: kedge-dashboard, kedge-csrf."+b.csrf) {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	response, err := b.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != http.StatusSwitchingProtocols {
		b.t.Errorf("watch %s: %s", path, response.Status)
	}
	go func() { _, _ = io.Copy(io.Discard, response.Body) }() // ends with the body
}
