//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

const (
	imageDir       = "/var/lib/kedge/agent/images"
	registriesFile = "/etc/kedge/registries.yaml"
)

// dockerArchive is an image as docker save writes it, under a name without a
// registry.
func dockerArchive(t *testing.T, archive, name string) []byte {
	t.Helper()
	r := newRegistry(t, archive, "", "")
	var manifest v1.Manifest
	if err := json.Unmarshal(r.blobs[r.image.Digest.String()], &manifest); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	write := func(name string, content []byte) string {
		t.Helper()
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(content); err != nil {
			t.Fatal(err)
		}
		return name
	}
	// Each name is an image of its own: the CRI takes those with the same
	// configuration for one.
	var settings map[string]any
	if err := json.Unmarshal(r.blobs[manifest.Config.Digest.String()], &settings); err != nil {
		t.Fatal(err)
	}
	settings["author"] = name
	encoded, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	config := write("config.json", encoded)
	var layers []string
	for _, layer := range manifest.Layers {
		layers = append(layers, write(layer.Digest.Encoded()+"/layer.tar", r.blobs[layer.Digest.String()]))
	}
	list, err := json.Marshal([]map[string]any{{"Config": config, "RepoTags": []string{name}, "Layers": layers}})
	if err != nil {
		t.Fatal(err)
	}
	write("manifest.json", list)
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	out := gzip.NewWriter(&b)
	if _, err := out.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pinned are the tags of the images that garbage collection spares.
func (c *cluster) pinned(t *testing.T, host *testbed.Host) (found []string) {
	t.Helper()
	var list struct {
		Images []struct {
			RepoTags []string
			Pinned   bool
		}
	}
	out, err := host.Kedge(t.Context(), "crictl", "images", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err, out)
	}
	for _, image := range list.Images {
		if image.Pinned {
			found = append(found, image.RepoTags...)
		}
	}
	slices.Sort(found)
	return found
}

// logged waits until the server has logged a line with all the texts in it.
func (c *cluster) logged(t *testing.T, texts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("a line of the log with %q", texts), func() (bool, string) {
		for line := range strings.Lines(c.server.Log()) {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
				return true, ""
			}
		}
		return false, lastLine(c.server.Log(), texts[0])
	})
}

// never makes a pod of an image that must be there already, and waits for its
// end.
func (s *sandbox) never(pod, image string) {
	s.t.Helper()
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: ` + pod + `}
spec:
	restartPolicy: Never
	containers: [{name: main, image: "` + image + `", imagePullPolicy: Never, command: [echo, hello]}]
`)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/"+pod)
}

// always makes a pod that ends at once, of an image that a registry is asked for
// even if it is there. With no node named the scheduler chooses.
func (s *sandbox) always(pod, node, image string) {
	s.t.Helper()
	if node != "" {
		node = "nodeName: " + node
	}
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: ` + pod + `}
spec:
	restartPolicy: Never
	` + node + `
	containers: [{name: main, image: "` + image + `", imagePullPolicy: Always, command: [echo, hello]}]
`)
}

// TestImages puts images into the directory they are imported from, and changes
// the file of registries while the server runs.
func TestImages(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), beside: newHost(t, bed, "beside"), images: buildImages(t)}
	archive := c.images.Busybox.Archive
	up := newRegistry(t, archive, "me", "secret")
	address := up.serve(t, c.beside, 5000)
	names := strings.NewReplacer("REGISTRY", address)
	busybox, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	put(t, c.node, imageDir+"/busybox.tar.gz", string(gzipped(t, busybox)), 0o600)
	put(t, c.node, imageDir+"/broken.tar", string(busybox[:len(busybox)/2]), 0o600)
	put(t, c.node, imageDir+"/list.txt", names.Replace("# from the registry\nREGISTRY/team/listed:1\n"), 0o600)
	c.start(t)

	t.Run("AtStart", func(t *testing.T) {
		s := c.sandbox(t)
		c.logged(t, "imported", "busybox.tar.gz", c.images.Busybox.Name)
		s.never("main", c.images.Busybox.Name)
		c.logged(t, " WARN ", imageDir+"/broken.tar", "skipped until it changes")
		c.logged(t, " WARN ", names.Replace("REGISTRY/team/listed:1"))
	})

	t.Run("WhileItRuns", func(t *testing.T) {
		s := c.sandbox(t)
		// Copied slowly: it must be taken when it is whole.
		file, err := os.Create(c.node.Path(imageDir + "/slow.tar"))
		if err != nil {
			t.Fatal(err)
		}
		content := dockerArchive(t, archive, "slow:1")
		for chunk := range slices.Chunk(content, len(content)/8) {
			if _, err := file.Write(chunk); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		c.logged(t, "imported", "slow.tar", "docker.io/library/slow:1")
		s.never("main", "slow:1")
		if line := lastLine(c.server.Log(), "slow.tar"); strings.Contains(line, " WARN ") {
			t.Errorf("a file that was still copied is complained about: %s", line)
		}
		put(t, c.node, imageDir+"/broken.tar", string(dockerArchive(t, archive, "mended:1")), 0o600)
		c.logged(t, "imported", "broken.tar", "docker.io/library/mended:1")
	})

	t.Run("Registries", func(t *testing.T) { testRegistriesLive(t, c, address) })

	t.Run("Restart", func(t *testing.T) {
		s := c.sandbox(t)
		want := []string{"docker.io/library/busybox:1", "docker.io/library/mended:1", "docker.io/library/slow:1", address + "/team/listed:1"}
		missing := func() []string {
			have := c.pinned(t, c.node)
			return slices.DeleteFunc(slices.Clone(want), func(name string) bool { return slices.Contains(have, name) })
		}
		eventually(t, "all to be pinned", func() (bool, string) { m := missing(); return len(m) == 0, fmt.Sprint(m) })
		if _, _, err := c.server.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(c.node.Path(imageDir + "/slow.tar")); err != nil {
			t.Fatal(err)
		}
		c.start(t)
		eventually(t, "the removed file's image to lose its pin", func() (bool, string) {
			m := missing()
			return slices.Equal(m, []string{"docker.io/library/slow:1"}), fmt.Sprint(m)
		})
		if line := lastLine(c.server.Log(), "imported"); line != "" {
			t.Errorf("what was there is imported again: %s", line)
		}
		s.never("main", "mended:1")
	})
}

// testRegistriesLive changes the file of registries and looks at pulls before and
// after.
func testRegistriesLive(t *testing.T, c *cluster, address string) {
	s := c.sandbox(t)
	file := func(password, rewrite string) string {
		return `
mirrors:
  hub.example:
    endpoint: ["http://` + address + `"]
    rewrite: {` + rewrite + `}
  "` + address + `":
    endpoint: ["http://` + address + `"]
configs:
  ` + address + `:
    auth: {username: me, password: ` + password + `}
`
	}
	inUse := func(content string) {
		t.Helper()
		before := strings.Count(c.server.Log(), "registries is in use")
		put(t, c.node, registriesFile, content, 0o600)
		eventually(t, "the file to be read", func() (bool, string) {
			return strings.Count(c.server.Log(), "registries is in use") > before, lastLine(c.server.Log(), "registries")
		})
	}
	inUse(file("wrong", ""))
	s.pod("hub.example/team/app:1", "")
	s.event("main", "401 Unauthorized", address)
	inUse(file("secret", `"^team/(.*)": "renamed/$1"`))
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/main")

	put(t, c.node, registriesFile, "mirrors:\n  hub.example: {endpoints: []}\n", 0o600)
	c.logged(t, " WARN ", registriesFile+":2", "endpoints", "stay as they were")
	s.kubectl("delete", "pod/main")
	s.pull("hub.example/team/app:2", "")
	// At a start the file would be refused.
	put(t, c.node, registriesFile, file("secret", ""), 0o600)
}

// event waits for an event on a pod that has all the texts in its message.
func (s *sandbox) event(pod string, texts ...string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("an event with %q", texts), func() (bool, string) {
		events := s.kubectl("get", "events", "--field-selector=involvedObject.name="+pod, "-o", `jsonpath={range .items[*]}{.message}{"\n"}{end}`)
		for line := range strings.Lines(events) {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
				s.t.Logf("event of %s: %s", pod, strings.TrimSpace(line))
				return true, ""
			}
		}
		return false, events
	})
}

// TestBadRegistry pulls from registries with all kinds of trouble. The pods must
// be told what it is, and others pull meanwhile.
func TestBadRegistry(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), beside: newHost(t, bed, "beside"), images: buildImages(t)}
	good := newRegistry(t, c.images.Busybox.Archive, "", "")
	untrusted, _ := newAuthority(t, c.beside)
	at := func(port int, handler http.HandlerFunc) string {
		t.Helper()
		address := net.JoinHostPort(c.beside.Address.String(), fmt.Sprint(port))
		listener, err := listen(c.beside, address)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: handler}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close() })
		return address
	}
	names := strings.NewReplacer(
		"GOOD", good.serve(t, c.beside, 5000),
		"UNTRUSTED", newRegistry(t, c.images.Busybox.Archive, "", "").serve(t, c.beside, 5001, untrusted),
		"DOWN", net.JoinHostPort(c.beside.Address.String(), "5002"),
		"SILENT", at(5003, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
		"GARBAGE", at(5004, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<html>Welcome to the hotel!</html>"))
		}),
		"FAILING", at(5005, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }),
		"PLAIN", at(5006, good.ServeHTTP),
	)
	var mirrors strings.Builder
	mirrors.WriteString("mirrors:\n")
	for _, name := range []string{"GOOD", "DOWN", "SILENT", "GARBAGE", "FAILING"} {
		mirrors.WriteString(names.Replace("  " + name + ":\n    endpoint: [\"http://" + name + "\"]\n"))
	}
	put(t, c.node, registriesFile, mirrors.String(), 0o600)
	c.start(t)

	for _, test := range []struct{ name, image, want string }{
		{"Silent", "SILENT/team/app:1", "timeout awaiting response headers"},
		{"Untrusted", "UNTRUSTED/team/app:1", "certificate signed by unknown authority"},
		{"Down", "DOWN/team/app:1", "connection refused"},
		{"Garbage", "GARBAGE/team/app:1", "text/html"},
		{"Failing", "FAILING/team/app:1", "502 Bad Gateway"},
		{"PlainHTTP", "PLAIN/team/app:1", "server gave HTTP response to HTTPS client"},
		{"NoSuchHost", "registry.invalid/team/app:1", "lookup registry.invalid"},
		{"BadName", "Not/An Image", "InvalidImageName"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := c.sandbox(t)
			s.pod(names.Replace(test.image), "")
			if test.name == "BadName" {
				s.event("main", `"Not/An Image"`)
				return
			}
			s.event("main", "Failed to pull image", names.Replace(test.image), test.want)
			s.always("beside", "", names.Replace("GOOD/team/"+strings.ToLower(test.name)+":1"))
			s.wait("jsonpath={.status.phase}=Succeeded", "pod/beside")
		})
	}
}

// TestEmbeddedRegistry pulls an image to one node, and to others without the
// registry.
func TestEmbeddedRegistry(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	f := &fleet{cluster: &cluster{node: newHost(t, bed, "node"), beside: newHost(t, bed, "beside"), images: buildImages(t)}, bed: bed}
	up := newRegistry(t, f.images.Busybox.Archive, "", "")
	var down atomic.Bool
	listener, err := listen(f.beside, net.JoinHostPort(f.beside.Address.String(), "5000"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		up.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	registries := strings.ReplaceAll(`
mirrors:
  shared.example:
    endpoint: ["http://REGISTRY"]
`, "REGISTRY", listener.Addr().String())
	agents := []*agent{{name: "agent-1", host: newHost(t, bed, "agent-1")}, {name: "agent-2", host: newHost(t, bed, "agent-2")}}
	put(t, f.node, registriesFile, registries, 0o600)
	for _, a := range agents {
		put(t, a.host, registriesFile, registries, 0o600)
	}
	f.start(t, "--embedded-registry")
	for _, a := range agents {
		f.join(t, a)
	}
	for _, a := range agents {
		f.waitNode(t, a.name)
	}
	s := f.sandbox(t)
	for _, name := range []string{"node", "agent-1", "agent-2"} {
		eventually(t, "node "+name+" to say that it serves images", func() (bool, string) {
			port := s.field("node/"+name, `.metadata.annotations.kedge\.io/embedded-registry`)
			return port == "5001", port
		})
	}
	succeeds := func(pod string) {
		t.Helper()
		s.wait("jsonpath={.status.phase}=Succeeded", "pod/"+pod)
	}
	s.always("first", "agent-1", "shared.example/team/app:1")
	succeeds("first")
	s.always("latest", "agent-1", "shared.example/team/app:latest")
	succeeds("latest")
	asked := len(up.requests())
	s.always("second", "node", "shared.example/team/app:1")
	succeeds("second")
	now := up.requests()[asked:]
	if len(now) == 0 {
		t.Error("the registry wasn't asked what a tag stands for")
	}
	for _, request := range now {
		if !strings.Contains(request, "/manifests/1?") {
			t.Errorf("the registry was asked for what a node has: %q", now)
		}
	}
	asked += len(now)
	s.always("latest-again", "node", "shared.example/team/app:latest")
	succeeds("latest-again")
	if now := up.requests(); len(now) == asked {
		t.Error("the registry wasn't asked for a tag that changes")
	}

	down.Store(true)
	s.always("third", "agent-2", "shared.example/team/app:1")
	s.always("third-latest", "agent-2", "shared.example/team/app:latest")
	s.always("third-digest", "agent-2", "shared.example/team/app@"+up.image.Digest.String())
	succeeds("third")
	succeeds("third-latest")
	succeeds("third-digest")
	s.always("nobody", "agent-2", "shared.example/team/app:2")
	s.event("nobody", "shared.example/team/app:2", "503 Service Unavailable")

	// Only nodes are served.
	url := "https://" + f.node.Address.String() + ":5001/v2/team/app/manifests/1?ns=shared.example"
	if out, err := get(t.Context(), f.beside, url); err == nil {
		t.Errorf("a stranger is served %q", out)
	}
}

// TestDiskPressure fills the disk of the images until the kubelet makes room.
func TestDiskPressure(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), images: buildImages(t)}
	if _, err := c.node.Exec(t.Context(), "sh", "-c", "mkdir -p /var/lib/kedge/agent/containerd && mount -t tmpfs -o size=700m tmpfs /var/lib/kedge/agent/containerd"); err != nil {
		t.Fatal(err)
	}
	put(t, c.node, imageDir+"/kept.tar", string(dockerArchive(t, c.images.Busybox.Archive, "kept:1")), 0o600)
	c.start(t, "--kubelet-arg=eviction-hard=imagefs.available<100Mi", "--kubelet-arg=eviction-minimum-reclaim=imagefs.available=1Mi",
		"--kubelet-arg=eviction-pressure-transition-period=10s", "--kubelet-arg=minimum-image-ttl-duration=1s")
	c.logged(t, "imported", "kept.tar")
	if err := c.node.LoadImage(t.Context(), c.images.Agnhost.Archive); err != nil { // which nobody uses
		t.Fatal(err)
	}
	s := c.sandbox(t)
	if _, err := c.node.Exec(t.Context(), c.node.Binary, "ctr", "--namespace", "k8s.io", "images", "label", c.images.Agnhost.Name, "io.cri-containerd.pinned="); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the image that is to be removed to be unpinned", func() (bool, string) {
		pinned := c.pinned(t, c.node)
		return !slices.Contains(pinned, c.images.Agnhost.Name), fmt.Sprint(pinned)
	})
	s.never("before", "kept:1")
	condition := func() string {
		return s.field("node/"+c.node.Name, `.status.conditions[?(@.type=="DiskPressure")].status`)
	}
	s.check("disk pressure at first", condition(), "False")
	has := func(image string) bool {
		return strings.Contains(s.crictl("images", "-o", "json"), `"`+image+`"`)
	}
	if !has(c.images.Agnhost.Name) {
		t.Fatal("the image that is to be removed is not there")
	}
	const filler = "/var/lib/kedge/agent/containerd/filler"
	if _, err := c.node.Exec(t.Context(), "sh", "-c", "dd if=/dev/zero of="+filler+" bs=1M count=$(( $(df -Pm /var/lib/kedge/agent/containerd | awk 'NR == 2 { print $4 }') - 20 ))"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk pressure to be told", func() (bool, string) { now := condition(); return now == "True", now })
	eventually(t, "the unused image to be removed", func() (bool, string) { return !has(c.images.Agnhost.Name), "" })
	for _, want := range []string{"docker.io/library/kept:1", "kedge.io/pause:1"} {
		if !slices.Contains(c.pinned(t, c.node), want) {
			t.Errorf("%s, which is pinned, is gone", want)
		}
	}
	eventually(t, "an event on the node", func() (bool, string) {
		events := s.kubectl("get", "events", "--all-namespaces", "--field-selector=involvedObject.kind=Node", "-o", `jsonpath={range .items[*]}{.reason} {end}`)
		return strings.Contains(events, "NodeHasDiskPressure"), events
	})
	if err := os.Remove(c.node.Path(filler)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk pressure to end", func() (bool, string) { now := condition(); return now == "False", now })
	s.never("after", "kept:1")
}

// TestDefaultRegistry has the packaged images go by other names.
func TestDefaultRegistry(t *testing.T) {
	t.Parallel()
	c := &cluster{node: newHost(t, testbed.New(t), "node"), images: buildImages(t)}
	c.start(t, "--system-default-registry=registry.example.com:5000/mirror")
	s := c.sandbox(t)
	s.kubectl("--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
	const prefix = "registry.example.com:5000/mirror/kedge.io/"
	if image := s.kubectl("--namespace", "kube-system", "get", "deployment/coredns", "-o", "jsonpath={..image}"); !strings.HasPrefix(image, prefix+"addons:") {
		t.Errorf("CoreDNS runs from %s", image)
	}
	config, err := os.ReadFile(c.node.Path(filepath.Join(containerdEtc, "config.toml")))
	if err != nil || !strings.Contains(string(config), prefix+"pause:1") {
		t.Errorf("containerd's configuration doesn't name the pause image (%v)", err)
	}
	if !slices.Contains(c.pinned(t, c.node), prefix+"pause:1") {
		t.Errorf("pinned are %q", c.pinned(t, c.node))
	}
}
