//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// testCrictl looks at a pod, and handles it, through the container runtime alone.
func testCrictl(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: tool}
spec:
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: BUSYBOX, command: [sh, -c, 'echo hello; exec sleep 36000']}]
`)
	s.wait("condition=Ready", "pod/tool")
	ids := func(args ...string) []string { return strings.Fields(s.crictl(args...)) }
	only := func(args ...string) string {
		s.t.Helper()
		found := ids(args...)
		if len(found) != 1 {
			s.t.Fatalf("crictl %s lists %q, want one", args, found)
		}
		return found[0]
	}
	pod := only("pods", "--quiet", "--name=^tool$", "--namespace=^"+s.namespace+"$")
	container := only("ps", "--quiet", "--pod="+pod)
	s.says(s.crictl("pods", "--id="+pod), pod[:13], "Ready", "tool", s.namespace)
	s.says(s.crictl("ps", "--pod="+pod), container[:13], "Running", "main", pod[:13], "tool", s.namespace)
	s.says(s.crictl("version"), "RuntimeName:  containerd\n", "RuntimeApiVersion:  v1\n")

	var state struct {
		Status struct {
			State      string
			Conditions []struct {
				Type   string
				Status bool
			}
			Network  struct{ IP string }
			Metadata struct{ Name string }
			RepoTags []string
		}
		Info map[string]any
	}
	inspect := func(args ...string) {
		s.t.Helper()
		state.Info = nil
		if err := json.Unmarshal([]byte(s.crictl(args...)), &state); err != nil {
			s.t.Fatalf("crictl %s: %v", args, err)
		}
	}
	inspect("info")
	ready := map[string]bool{}
	for _, condition := range state.Status.Conditions {
		ready[condition.Type] = condition.Status
	}
	if !ready["RuntimeReady"] || !ready["NetworkReady"] {
		s.t.Errorf("the runtime's state is %v", ready)
	}
	inspect("inspectp", pod)
	s.check("the pod's state", state.Status.State, "SANDBOX_READY")
	s.check("the pod's address", state.Status.Network.IP, s.field("pod/tool", ".status.podIP"))
	inspect("inspect", container)
	s.check("the container's state", state.Status.State, "CONTAINER_RUNNING")
	s.check("the container's name", state.Status.Metadata.Name, "main")
	if pid, ok := state.Info["pid"].(float64); !ok || pid < 1 {
		s.t.Errorf("the container's process is %v", state.Info["pid"])
	}
	inspect("inspecti", s.images.Busybox.Name)
	s.says(fmt.Sprint(state.Status.RepoTags), s.images.Busybox.Name)

	s.check("the log", s.crictl("logs", container), "hello\n")
	s.check("a command's output", s.crictl("exec", container, "hostname"), "tool\n")
	result, err := s.node.Run(s.t.Context(), strings.NewReader("input"), s.node.Binary, "crictl", "exec", "-i", container, "sh", "-c", "cat; exit 7")
	if err != nil || result.Code != 7 || result.Stdout != "input" {
		s.t.Errorf("exec gave %+v, error %v, want the input back and code 7", result, err)
	}
	for _, stats := range [][]string{{"stats", container}, {"statsp", pod}} {
		eventually(s.t, "crictl "+stats[0]+" to tell the memory", func() (bool, string) {
			lines := strings.Split(strings.TrimSpace(s.crictl(stats...)), "\n")
			last := lines[len(lines)-1]
			return len(lines) == 2 && strings.Contains(last, stats[1][:13]) && strings.Contains(last, "B"), strings.Join(lines, "\n")
		})
	}

	// The kubelet starts again what was stopped past it.
	s.crictl("stop", "--timeout=1", container)
	next := ""
	eventually(s.t, "another container", func() (bool, string) {
		running := ids("ps", "--quiet", "--pod="+pod)
		if len(running) == 1 && running[0] != container {
			next = running[0]
		}
		return next != "", fmt.Sprint(running)
	})
	s.check("the old container's state", only("ps", "--quiet", "--pod="+pod, "--state=exited"), container)
	s.crictl("rm", container)
	s.check("the pod's containers", fmt.Sprint(ids("ps", "--all", "--quiet", "--pod="+pod)), "["+next+"]")
	s.wait("jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/tool")
	s.crictl("stopp", pod)
	eventually(s.t, "another sandbox", func() (bool, string) {
		found := ids("pods", "--quiet", "--state=ready", "--name=^tool$", "--namespace=^"+s.namespace+"$")
		return len(found) == 1 && found[0] != pod, fmt.Sprint(found)
	})

	const image = "docker.io/library/unused:crictl"
	archive := dockerArchive(s.t, s.images.Busybox.Archive, "unused:crictl")
	if _, err := s.node.ExecIn(s.t.Context(), bytes.NewReader(archive), s.node.Binary, "ctr", "--namespace", "k8s.io", "images", "import", "-"); err != nil {
		s.t.Fatal(err)
	}
	only("images", "--quiet", image)
	s.crictl("rmi", image)
	s.check("what is left of the image", s.crictl("images", "--quiet", image), "")
}

// says checks that a text has all of the parts.
func (s *sandbox) says(text string, parts ...string) {
	s.t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			s.t.Errorf("no %q in\n%s", part, text)
		}
	}
}
