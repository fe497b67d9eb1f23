//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/payload"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// identity is what tells a container from one that took its place.
func (s *sandbox) identity() string {
	s.t.Helper()
	return s.kubectl("get", "pods", "--all-namespaces", "--sort-by=.metadata.uid", "-o",
		`jsonpath={range .items[*]}{.metadata.name}{range .status.containerStatuses[*]} {.containerID} {.state.running.startedAt} {.restartCount}{"\n"}{end}{end}`)
}

// TestRestart stops the server in every way there is, under running pods.
func TestRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := c.sandbox(t)
	s.apply(web)
	s.kubectl("patch", "service/web", "-p", `{"spec":{"type":"NodePort"}}`)
	s.rollout("deployment/web")
	s.kubectl("--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
	url := "http://" + c.node.Address.String() + ":" + s.field("service/web", ".spec.ports[0].nodePort") + "/hostname"
	pods := s.pods("app=web")
	before := s.identity()

	// serves checks that the pods answer, with a server or without.
	serves := func(when string) {
		t.Helper()
		s.answers("the pods "+when, pods, func() (string, error) { return get(t.Context(), c.beside, url) })
	}
	// comesBack starts the server again and checks that it has found everything.
	comesBack := func(t *testing.T) {
		t.Helper()
		begin := time.Now()
		server, err := c.node.Start("server")
		if err != nil {
			t.Fatal(err)
		}
		c.server = server
		// Who comes before the authorizer knows the roles waits.
		eventually(t, "the API", func() (bool, string) {
			out, err := c.node.Kubectl(t.Context(), "get", "secrets", "--all-namespaces")
			if err != nil && !strings.Contains(err.Error(), "refused") {
				t.Errorf("who asks during the start is told %v", err)
			}
			return err == nil, out
		})
		t.Logf("the API is back after %s", time.Since(begin).Round(time.Millisecond))
		if err := server.WaitReady(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		t.Logf("the node is Ready after %s", time.Since(begin).Round(time.Millisecond))
		serves("after the restart")
		// A kubelet that were to restart containers would do so at its first
		// look at them; the status it sends after that is awaited here.
		eventually(t, "a heartbeat of the new kubelet", func() (bool, string) {
			beat := s.kubectl("get", "node/"+c.node.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}`)
			at, err := time.Parse(time.RFC3339, beat)
			return err == nil && at.After(begin), beat
		})
		s.kubectl("run", "new", "--image="+c.images.Busybox.Name, "--restart=Never", "--", "true")
		s.wait("jsonpath={.status.phase}=Succeeded", "pod/new")
		s.kubectl("delete", "pod/new")
		if after := s.identity(); after != before {
			t.Errorf("the containers were\n%s\nand are\n%s", before, after)
		}
	}

	t.Run("SIGTERM", func(t *testing.T) {
		took, code, err := c.server.Stop(time.Minute)
		if err != nil || code != 0 {
			t.Fatalf("the server ended with code %d, error %v", code, err)
		}
		t.Logf("stopping took %s", took.Round(time.Millisecond))
		if took > 10*time.Second {
			t.Errorf("stopping took %s, more than 10 s", took)
		}
		serves("without a server")
		comesBack(t)
		if line := lastLine(c.server.Log(), "imported image"); line != "" {
			t.Errorf("an image that was there is imported again: %s", line)
		}
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		took, code, err := c.server.Interrupt(time.Minute)
		if err != nil || code != 0 || took > 10*time.Second {
			t.Fatalf("the server ended with code %d after %s, error %v", code, took, err)
		}
		if line := lastLine(c.server.Log(), " stopped "); line == "" {
			t.Errorf("it did not stop in order:\n%s", c.server.Log())
		}
		serves("without a server")
		comesBack(t)
	})
	t.Run("pins", func(t *testing.T) {
		pinned := func() []string {
			return slices.DeleteFunc(c.pinned(t, c.node), func(name string) bool { return !strings.HasPrefix(name, "kedge.io/") })
		}
		names := pinned()
		if len(names) != 2 {
			t.Fatalf("the packaged images are not pinned, only %q", names)
		}
		for _, name := range names {
			if _, err := c.node.Kedge(t.Context(), "ctr", "--namespace", "k8s.io", "images", "label", name, "io.cri-containerd.pinned="); err != nil {
				t.Fatal(err)
			}
		}
		// containerd pins the image of its sandboxes by itself.
		if left := pinned(); len(left) > 1 {
			t.Fatalf("pinned are still %q", left)
		}
		if _, _, err := c.server.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		comesBack(t)
		eventually(t, "the pins to be back", func() (bool, string) {
			now := pinned()
			return slices.Equal(now, names), fmt.Sprint(now)
		})
	})
	t.Run("SIGTERM during the start", func(t *testing.T) {
		if _, _, err := c.server.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			server, err := c.node.Start("server")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(rand.N(3 * time.Second))
			took, code, err := server.Stop(time.Minute)
			// Before there is anything to stop, the signal may end the process.
			early := code == -1 && !strings.Contains(server.Log(), " ready ")
			if err != nil || code != 0 && !early || took > 10*time.Second {
				t.Errorf("the server ended with code %d after %s, error %v", code, took, err)
			}
		}
		serves("without a server")
		comesBack(t)
	})
	t.Run("SIGKILL", func(t *testing.T) {
		if err := c.server.Kill(); err != nil {
			t.Fatal(err)
		}
		serves("without a server")
		comesBack(t)
	})
	t.Run("upgrade", func(t *testing.T) {
		other := repack(t, c.node)
		if took, code, err := c.server.Stop(time.Minute); err != nil || code != 0 {
			t.Fatalf("stopping took %s and ended with code %d, error %v", took, code, err)
		}
		old := c.node.Binary
		c.node.Binary = other
		comesBack(t)
		// A shim of the old version still serves its containers.
		if out, err := s.in(pods[0], "echo alive"); err != nil || out != "alive" {
			t.Errorf("a pod from before the upgrade answers %q, error %v", out, err)
		}
		s.kubectl("delete", "pod/"+pods[0])
		s.rollout("deployment/web")
		pods = s.pods("app=web")
		before = s.identity()

		// And back again.
		if _, _, err := c.server.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		c.node.Binary = old
		comesBack(t)
	})
	t.Run("power cut", func(t *testing.T) {
		s.kubectl("create", "configmap", "written", "--from-literal=a=b")
		if err := c.node.PowerCut(); err != nil {
			t.Fatal(err)
		}
		if err := c.node.Boot(); err != nil {
			t.Fatal(err)
		}
		server, err := c.node.Start("server")
		if err != nil {
			t.Fatal(err)
		}
		c.server = server
		if err := server.WaitReady(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		s.check("what was written before", s.field("configmap/written", ".data.a"), "b")
		s.answers("the pods after the power cut", pods, func() (string, error) { return get(t.Context(), c.beside, url) })
	})
}

// repack makes a kedge file with a different payload, an upgrade as the machine
// sees it, from the file that the host runs and has unpacked.
func repack(t *testing.T, host *testbed.Host) string {
	t.Helper()
	module, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	file, err := payload.Open(host.Binary, host.Binary)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	dir := t.TempDir()
	launcher, root, other := filepath.Join(dir, "launcher"), filepath.Join(dir, "root"), filepath.Join(dir, "kedge")
	for _, command := range [][]string{
		{"sh", "-c", fmt.Sprintf("head -c %d %s > %s && chmod 755 %s", file.Offset, host.Binary, launcher, launcher)},
		{"cp", "-a", host.Path(payload.Dir("/var/lib/kedge", file.ID())), root},
		{"touch", filepath.Join(root, "changed")},
		{"go", "-C", module, "run", "./scripts/pack", "-level=fast", "-launcher=" + launcher, "-root=" + root, "-out=" + other},
	} {
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	return other
}

// history records what a client knows of the objects it has made and deleted.
type history struct {
	mu    sync.Mutex
	known map[string]string // name to value, "" deleted
	count int
}

// write makes, changes and deletes ConfigMaps one after the other until the
// context ends. Only what the API server has acknowledged is recorded; a name
// whose fate isn't known is never looked at again.
func (h *history) write(ctx context.Context, a *api) error {
	const path = "/api/v1/namespaces/default/configmaps"
	object := func(name, value string) map[string]any {
		return map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"name": name}, "data": map[string]string{"value": value},
		}
	}
	for ctx.Err() == nil {
		h.mu.Lock()
		h.count++
		count := h.count
		h.mu.Unlock()
		name := fmt.Sprintf("history-%06d", count)
		steps := []struct {
			method, path, value string
			object              any
		}{
			{"POST", path, "one", object(name, "one")},
			{"PUT", path + "/" + name, "two", object(name, "two")},
			{"DELETE", path + "/" + name, "", nil},
		}
		for _, step := range steps[:1+count%len(steps)] {
			h.mu.Lock()
			delete(h.known, name)
			h.mu.Unlock()
			// The request outlives the context: to be cut off is the server's part.
			_, err := a.do(context.WithoutCancel(ctx), step.method, step.path, step.object)
			if err == nil {
				h.mu.Lock()
				h.known[name] = step.value
				h.mu.Unlock()
			}
			if errors.Is(err, errRefused) {
				return err
			}
			if err != nil {
				time.Sleep(20 * time.Millisecond) // the server is down
				break
			}
		}
	}
	return nil
}

// check compares what the API server has with the record. Of what is written
// meanwhile it can't tell anything.
func (h *history) check(t *testing.T, a *api) {
	t.Helper()
	before := h.copy()
	out, err := a.do(t.Context(), "GET", "/api/v1/namespaces/default/configmaps", nil)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, item := range list.Items {
		found[item.Metadata.Name] = item.Data["value"]
	}
	after, checked := h.copy(), 0
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if value, known := after[name]; !known || value != before[name] {
			continue
		}
		checked++
		if found[name] != before[name] {
			t.Errorf("%s: the API server acknowledged %q and has %q", name, before[name], found[name])
		}
	}
	t.Logf("checked %d objects; the API server has %d", checked, len(found))
}

func (h *history) copy() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.known)
}

// TestKill kills the server again and again, while it starts and while it works,
// and looks whether it still has all that it has acknowledged.
func TestKill(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	node := newHost(t, testbed.New(t), "node")
	start := func() *testbed.Process {
		t.Helper()
		server, err := node.Start("server")
		if err != nil {
			t.Fatal(err)
		}
		return server
	}
	kill := func(server *testbed.Process, after time.Duration) {
		t.Helper()
		time.Sleep(after)
		if !server.Running() {
			t.Fatalf("the server has ended before it was killed after %s:\n%s", after, server.Log())
		}
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
	}

	// The first start unpacks, makes keys and the database.
	for range 8 {
		kill(start(), time.Duration(random.Int64N(int64(3*time.Second))))
	}
	server := start()
	if err := server.WaitReady(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	unpacked(t, node)
	a := newAPI(t, node)

	h := &history{known: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 2)
	for range cap(ended) {
		go func() { ended <- h.write(ctx, a) }()
	}
	for range 4 {
		kill(server, 500*time.Millisecond+time.Duration(random.Int64N(int64(2*time.Second))))
		for range 2 {
			kill(start(), time.Duration(random.Int64N(int64(4*time.Second))))
		}
		server = start()
		if err := server.WaitAPI(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		h.check(t, a)
	}
	cancel()
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := server.WaitReady(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	h.check(t, a)
	if known := len(h.known); known < 20 {
		t.Errorf("the fate of only %d objects is known, too few to tell anything", known)
	}
	if took, code, err := server.Stop(time.Minute); err != nil || code != 0 {
		t.Errorf("stopping took %s and ended with code %d, error %v", took, code, err)
	}
}

// unpacked checks that of all unpacking that was begun one directory is left.
func unpacked(t *testing.T, host *testbed.Host) {
	t.Helper()
	entries, err := os.ReadDir(host.Path("/var/lib/kedge/data"))
	if err != nil {
		t.Fatal(err)
	}
	hash := regexp.MustCompile(`^[0-9a-f]{16,}$`)
	var dirs, others []string
	for _, entry := range entries {
		switch {
		case hash.MatchString(entry.Name()):
			dirs = append(dirs, entry.Name())
		case entry.IsDir():
			others = append(others, entry.Name())
		}
	}
	if len(dirs) != 1 || len(others) > 0 {
		t.Errorf("the directory of unpacked payloads holds %s and %s, want one payload",
			strings.Join(dirs, ", "), strings.Join(others, ", "))
	}
}
