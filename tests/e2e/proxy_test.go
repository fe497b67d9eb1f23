//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// TestProxy has a server whose environment names a proxy that is not there: what
// the cluster does inside of itself must not ask it.
func TestProxy(t *testing.T) {
	t.Parallel()
	c := &cluster{node: newHost(t, testbed.New(t), "node"), images: buildImages(t)}
	const wrapper = "/run/proxied-kedge"
	script := "#!/bin/sh\nexport HTTP_PROXY=http://127.0.0.1:9 HTTPS_PROXY=http://127.0.0.1:9\nexec " + c.node.Binary + ` "$@"` + "\n"
	if _, err := c.node.ExecIn(t.Context(), strings.NewReader(script), "sh", "-c", "cat >"+wrapper+" && chmod 755 "+wrapper); err != nil {
		t.Fatal(err)
	}
	c.node.Binary = wrapper
	c.start(t)
	c.loadImages(t)
	s := c.sandbox(t)
	// The API server asks the metrics server, and that the API server.
	s.kubectl("--namespace", "kube-system", "rollout", "status", "deployment/metrics-server", "--timeout=120s")
	s.kubectl("wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io", "--timeout=60s")
	s.top(s.node.Name+inUseOfNode, "nodes")
	// And the kubelet.
	s.shell("shell")
	s.check("what a pod says", s.kubectl("exec", "shell", "--", "echo", "hello"), "hello")
}
