//go:build e2e

package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// TestContainer runs Kedge's image as a privileged pod: a cluster in a cluster.
func TestContainer(t *testing.T) {
	t.Parallel()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(root, "dist", "kedge-image-"+runtime.GOARCH+".tar")
	if _, err := os.Stat(archive); errors.Is(err, fs.ErrNotExist) {
		t.Skip("there is no " + archive + ", which make image builds")
	}
	// Not even a nearly full disk is a reason to evict this pod, whose volumes are
	// large.
	const spare = "--kubelet-arg=eviction-hard=nodefs.available<1%,imagefs.available<1%"
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}
	c.start(t, spare)
	if err := c.node.LoadImage(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	s := c.sandbox(t)
	var image string
	for line := range strings.Lines(s.crictl("images")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "kedge.io/kedge" {
			image = f[0] + ":" + f[1]
		}
	}
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: inner}
spec:
	restartPolicy: Never
	terminationGracePeriodSeconds: 30
	containers:
	- name: kedge
		image: "` + image + `"
		imagePullPolicy: Never
		args: [server, --cluster-cidr=10.62.0.0/16, --service-cidr=10.63.0.0/16, "` + spare + `"]
		securityContext: {privileged: true}
`)
	s.wait("condition=Ready", "pod/inner")
	eventually(t, "a node in the container", func() (bool, string) {
		out, err := s.in("inner", "kubectl wait --for=condition=Ready node/inner --timeout=60s")
		return err == nil, out
	})
	// DNS answers when pods run, reach each other and the apiserver.
	eventually(t, "DNS in the container", func() (bool, string) {
		out, err := s.in("inner", "kubectl -n kube-system rollout status deployment/coredns --timeout=60s")
		return err == nil, out
	})
	t.Run("volumes and orphans", func(t *testing.T) {
		s := *s
		s.t = t
		const pod = `kubectl run held --image=kedge.io/pause:1 --restart=Never && kubectl wait --for=condition=Ready pod/held --timeout=60s`
		if out, err := s.in("inner", pod); err != nil {
			t.Fatal(err, out)
		}
		if out, err := s.in("inner", "kubectl delete pod held --grace-period=1 --timeout=60s"); err != nil {
			t.Fatal(err, out)
		}
		eventually(t, "no exit code that nobody took", func() (bool, string) {
			out, err := s.in("inner", "grep -s -H ^State:.Z /proc/[0-9]*/status || true")
			return err == nil && out == "", out
		})
	})
	s.kubectl("delete", "pod", "inner", "--timeout=60s")
}
