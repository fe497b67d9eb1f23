//go:build vm

package vm

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kedge-k8s/kedge/tests/images/debian"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// smallLimit is how long a machine whose memory is short may take for what takes
// some ten seconds outside of it.
const smallLimit = 15 * time.Minute

// TestSmallMemory runs a server with all add-ons in machines with little memory
// and no swap.
func TestSmallMemory(t *testing.T) {
	t.Run("512 MB, idle", func(t *testing.T) {
		n := newNode(t, Options{Memory: 512})
		n.startAll()
		time.Sleep(time.Minute) // what the start took is given back after half of it
		n.hadMemory()
	})
	t.Run("1 GB, MariaDB", func(t *testing.T) {
		archive := databaseImage(t)
		n := newNode(t, Options{Memory: 1024})
		n.startAll()
		if err := n.LoadImage(t.Context(), archive); err != nil {
			t.Fatal(err)
		}
		n.apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: mariadb}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mariadb}
spec:
	selector: {matchLabels: {app: mariadb}}
	template:
		metadata: {labels: {app: mariadb}}
		spec:
			containers:
			- name: mariadb
				image: ` + database + `
				env:
				- {name: MARIADB_ROOT_PASSWORD, value: secret}
				- {name: MARIADB_DATABASE, value: django}
				readinessProbe:
					exec: {command: [mariadb, -psecret, -e, SELECT 1]}
					timeoutSeconds: 30
				volumeMounts: [{name: data, mountPath: /var/lib/mysql}]
			volumes: [{name: data, persistentVolumeClaim: {claimName: mariadb}}]
`)
		n.settled("deployment/mariadb")
		n.check("what the database answers", n.kubectl("exec", "deployment/mariadb", "--",
			"mariadb", "-psecret", "-N", "-e", "CREATE TABLE django.t (a INT); INSERT INTO django.t VALUES (1),(2); SELECT SUM(a) FROM django.t"), "3")
		n.hadMemory()
	})
}

// startAll starts a server and waits until its add-ons run.
func (n *node) startAll() {
	n.t.Helper()
	begin := time.Now()
	if err := n.Start(n.t.Context(), "server"); err != nil {
		n.t.Fatal(err)
	}
	if err := n.WaitReady(n.t.Context(), smallLimit); err != nil {
		n.t.Fatal(err)
	}
	n.t.Logf("the node was Ready after %s", since(begin))
	for _, name := range []string{"deployment/coredns", "deployment/metrics-server", "daemonset/ingress"} {
		n.settled("--namespace=kube-system", name)
	}
	n.t.Logf("the add-ons ran after %s", since(begin))
}

// settled waits until all pods of a Deployment or DaemonSet are ready.
func (n *node) settled(args ...string) {
	n.t.Helper()
	n.kubectl(append([]string{"rollout", "status", "--timeout=" + smallLimit.String()}, args...)...)
}

// hadMemory fails the test if the kernel had to kill something for want of memory,
// or a pod was evicted. It logs where the memory is.
func (n *node) hadMemory() {
	n.t.Helper()
	n.t.Logf("memory:\n%s", n.execute("free -m; ps -e -o rss:8,comm --sort=-rss | head -12; cat /proc/pressure/memory"))
	n.check("swap", n.execute("awk 'NR > 1' /proc/swaps"), "")
	n.check("what the kernel killed", n.execute("journalctl -k --no-pager -o cat -g 'Out of memory|oom-kill' || true"), "")
	n.check("pods that are not what they should be", n.kubectl("get", "pods", "--all-namespaces",
		"--field-selector=status.phase!=Running,status.phase!=Succeeded", "-o=name"), "")
	n.check("restarts", strings.Trim(n.kubectl("get", "pods", "--all-namespaces",
		"-o", `jsonpath={.items[*].status.containerStatuses[*].restartCount}`), "0 "), "")
	n.check("memory pressure", n.field("node/"+n.Name, `.status.conditions[?(@.type=="MemoryPressure")].status`), "False")
	n.check("restarts of the server", n.execute("systemctl show --value --property NRestarts "+unit), "0")
}

const database = "docker.io/library/mariadb:latest"

// databaseImage writes an archive with the labs' image of MariaDB.
func databaseImage(t *testing.T) (archive string) {
	t.Helper()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	layout, err := debian.Build(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	archive = filepath.Join(t.TempDir(), "mariadb.tar")
	if err := writeArchive(archive, layout, strings.TrimPrefix(database, "docker.io/"), database); err != nil {
		t.Fatal(err)
	}
	return archive
}

// writeArchive writes an image of a layout as an OCI archive.
func writeArchive(path string, layout debian.Layout, name, as string) error {
	found, err := layout.Images()
	if err != nil {
		return err
	}
	image, ok := found[name]
	if !ok {
		return fmt.Errorf("no image is called %s", name)
	}
	text, err := layout.Open(image.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = text.Close() }()
	var manifest v1.Manifest
	if err := json.NewDecoder(text).Decode(&manifest); err != nil {
		return err
	}
	image.Annotations = map[string]string{"io.containerd.image.name": as, v1.AnnotationRefName: as}
	index, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{image}})
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	out := tar.NewWriter(file)
	for name, content := range map[string]string{v1.ImageLayoutFile: `{"imageLayoutVersion":"1.0.0"}`, v1.ImageIndexFile: string(index)} {
		if err := add(out, name, int64(len(content)), strings.NewReader(content)); err != nil {
			return err
		}
	}
	for _, blob := range slices.Concat(manifest.Layers, []v1.Descriptor{manifest.Config, image}) {
		content, err := layout.Open(blob.Digest)
		if err != nil {
			return err
		}
		err = add(out, "blobs/sha256/"+blob.Digest.Encoded(), blob.Size, content)
		_ = content.Close()
		if err != nil {
			return err
		}
	}
	return out.Close()
}

func add(out *tar.Writer, name string, size int64, content io.Reader) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(out, content)
	return err
}
