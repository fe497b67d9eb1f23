//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/images"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// limit is how long a test waits for what takes a few seconds on an idle
// machine.
const limit = 2 * time.Minute

// cluster is a host that runs a server, and a host beside it.
type cluster struct {
	node   *testbed.Host
	server *testbed.Process
	beside *testbed.Host
	images images.Set
}

// newCluster starts a server on a host of its own and waits until pods can run.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), beside: newHost(t, bed, "beside"), images: buildImages(t)}
	c.start(t)
	c.loadImages(t)
	return c
}

// start starts the server and waits until its node is Ready.
func (c *cluster) start(t *testing.T, args ...string) {
	t.Helper()
	server, err := c.node.Start(append([]string{"server"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.WaitReady(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	c.server = server
}

func (c *cluster) loadImages(t *testing.T) {
	t.Helper()
	for _, image := range []images.Image{c.images.Busybox, c.images.Agnhost} {
		if err := c.node.LoadImage(t.Context(), image.Archive); err != nil {
			t.Fatal(err)
		}
	}
}

func newHost(t *testing.T, bed *testbed.Bed, name string) *testbed.Host {
	t.Helper()
	host, err := bed.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func buildImages(t *testing.T) images.Set {
	t.Helper()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	set, err := images.Build(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// eventually waits for a check to say true, or fails the test.
func eventually(t *testing.T, what string, check func() (done bool, state string)) {
	t.Helper()
	err := testbed.Wait(t.Context(), what, limit, func(context.Context) (bool, string) { return check() })
	if err != nil {
		t.Fatal(err)
	}
}

// get requests a URL from a host and returns the body.
func get(ctx context.Context, from *testbed.Host, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := from.HTTP().Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s: %s", url, response.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

// sandbox is one test's own namespace on a cluster that tests share.
type sandbox struct {
	*cluster
	t         *testing.T
	namespace string
}

var unfit = regexp.MustCompile(`[^a-z0-9]+`)

// sandbox makes a namespace that goes with the test, or stays to be looked at
// when the test has failed.
func (c *cluster) sandbox(t *testing.T) *sandbox {
	t.Helper()
	_, name, _ := strings.Cut(strings.ToLower(t.Name()), "/")
	s := &sandbox{cluster: c, t: t, namespace: strings.Trim(unfit.ReplaceAllString(name, "-"), "-")}
	if s.namespace == "" {
		s.namespace = "sandbox"
	}
	s.kubectl("create", "namespace", s.namespace)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if !t.Failed() {
			_, _ = c.node.Kubectl(ctx, "delete", "namespace", s.namespace, "--wait=false")
			return
		}
		for _, what := range []string{"pods", "events"} {
			out, err := c.node.Kubectl(ctx, "--namespace", s.namespace, "get", what, "-o", "wide")
			t.Logf("%s of namespace %s (%v):\n%s", what, s.namespace, err, out)
		}
	})
	// A pod made before its service account is refused.
	s.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
	return s
}

// try runs kubectl in the namespace.
func (s *sandbox) try(args ...string) (string, error) {
	out, err := s.node.Kubectl(s.t.Context(), append([]string{"--namespace", s.namespace}, args...)...)
	return strings.TrimSpace(out), err
}

// kubectl runs kubectl in the namespace; an error fails the test.
func (s *sandbox) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// crictl runs crictl on the server's host.
func (s *sandbox) crictl(args ...string) string {
	s.t.Helper()
	out, err := s.node.Kedge(s.t.Context(), append([]string{"crictl"}, args...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// apply applies a manifest in which BUSYBOX and AGNHOST stand for the images.
func (s *sandbox) apply(manifest string) {
	s.t.Helper()
	manifest = strings.NewReplacer("BUSYBOX", s.images.Busybox.Name, "AGNHOST", s.images.Agnhost.Name).Replace(manifest)
	// People indent with tabs in Go; YAML knows spaces only.
	manifest = strings.ReplaceAll(manifest, "\t", "  ")
	if _, err := s.node.KubectlIn(s.t.Context(), manifest, "--namespace", s.namespace, "apply", "-f", "-"); err != nil {
		s.t.Fatalf("%v\n%s", err, manifest)
	}
}

// wait waits for a condition of objects, as kubectl wait has them.
func (s *sandbox) wait(condition string, objects ...string) {
	s.t.Helper()
	s.kubectl(append([]string{"wait", "--for=" + condition, fmt.Sprintf("--timeout=%.0fs", limit.Seconds())}, objects...)...)
}

// rollout waits until a workload runs as it should.
func (s *sandbox) rollout(workload string) {
	s.t.Helper()
	s.kubectl("rollout", "status", workload, fmt.Sprintf("--timeout=%.0fs", limit.Seconds()))
}

// field returns a field of an object, as a JSONPath.
func (s *sandbox) field(object, path string) string {
	s.t.Helper()
	return s.kubectl("get", object, "-o", "jsonpath={"+path+"}")
}

// shell makes a pod with a shell, to run commands in with exec.
func (s *sandbox) shell(name string) {
	s.t.Helper()
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
	terminationGracePeriodSeconds: 0
	containers:
	- {name: main, image: BUSYBOX, command: [sleep, "36000"]}
`)
	s.wait("condition=Ready", "pod/"+name)
}

// in runs a shell command in a pod.
func (s *sandbox) in(pod, command string) (string, error) {
	return s.try("exec", pod, "--", "sh", "-c", command)
}

// check compares what a command printed.
func (s *sandbox) check(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}
