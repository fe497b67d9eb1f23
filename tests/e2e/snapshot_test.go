//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// TestSnapshot takes snapshots of a server, goes back to one, and makes another
// machine of one.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node")}
	bare := newHost(t, bed, "bare")
	if _, err := bare.Kedge(t.Context(), "version"); err != nil { // unpacks
		t.Fatal(err)
	}
	// No pods: they would have to come to rest first.
	args := []string{"--disable-agent", "--disable=coredns,ingress,metrics-server,local-storage,servicelb"}
	up := func(t *testing.T, host *testbed.Host, more ...string) {
		t.Helper()
		server, err := host.Start(append(append([]string{"server"}, args...), more...)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := server.WaitAPI(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		c.server = server
	}
	run := func(t *testing.T, host *testbed.Host, args ...string) string {
		t.Helper()
		out, err := host.Kedge(t.Context(), append([]string{"snapshot"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	kubectl := func(t *testing.T, host *testbed.Host, args ...string) string {
		t.Helper()
		out, err := host.Kubectl(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	// save takes a snapshot and returns its name.
	save := func(t *testing.T, args ...string) string {
		t.Helper()
		words := strings.Fields(run(t, c.node, append([]string{"save"}, args...)...))
		if len(words) < 3 || words[2] != "saved:" {
			t.Fatalf("kedge snapshot save says %q", words)
		}
		return words[1]
	}
	const dir = "/var/lib/kedge/server/db/snapshots/"
	const state = "/var/lib/kedge/server/db/state.db"

	up(t, c.node)
	kubectl(t, c.node, "create", "configmap", "early", "--from-literal=a=b")
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: of-a-file, namespace: default}\n"
	if err := os.WriteFile(c.node.Path("/var/lib/kedge/server/manifests/mine.yaml"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, c.node, "wait", "--for=create", "configmap/of-a-file", "--timeout=60s")
	first := save(t)
	kubectl(t, c.node, "create", "configmap", "late", "--from-literal=a=b")

	t.Run("objects", func(t *testing.T) {
		eventually(t, "the Snapshot", func() (bool, string) {
			_, err := c.node.Kubectl(t.Context(), "get", "snapshots.kedge.io/local-"+first)
			return err == nil, fmt.Sprint(err)
		})
		row := kubectl(t, c.node, "get", "snapshots")
		for _, want := range []string{"SNAPSHOTNAME", "LOCATION", "CREATIONTIME", first, "file://" + dir + first + ".tar"} {
			if !strings.Contains(row, want) {
				t.Errorf("%q is not in\n%s", want, row)
			}
		}
	})
	t.Run("list, verify, delete, prune", func(t *testing.T) {
		second := save(t, "--name", "mine", "--etcd-snapshot-compress")
		third := save(t, "--name", "mine")
		var files []struct{ Name, Location string }
		if err := json.Unmarshal([]byte(run(t, c.node, "list", "-o", "json")), &files); err != nil || len(files) != 3 {
			t.Fatalf("the list is %+v, %v", files, err)
		}
		if !strings.HasSuffix(files[1].Location, second+".tar.zst") {
			t.Errorf("the compressed snapshot is at %s", files[1].Location)
		}
		if out := run(t, c.node, "verify"); strings.Count(out, " is good") != 3 {
			t.Errorf("verify says %s", out)
		}
		if out := run(t, c.node, "prune", "--name", "mine", "--etcd-snapshot-retention=1"); out != "snapshot "+second+" deleted" {
			t.Errorf("prune says %q", out)
		}
		run(t, c.node, "delete", third)
		wantFailure(t, c.node, []string{"snapshot", "delete", third}, "there is no snapshot "+third, "kedge snapshot list")
		kubectl(t, c.node, "wait", "--for=delete", "snapshot/local-"+third, "--timeout=60s")
	})
	t.Run("refused", func(t *testing.T) {
		wantFailure(t, c.node, []string{"snapshot", "restore", first}, "another server is running")
		wantFailure(t, c.node, []string{"snapshot", "save", "--name=A_B"}, "--etcd-snapshot-name", "A_B")
		wantFailure(t, c.node, []string{"snapshot", "restore"}, "kedge snapshot list")
		wantFailure(t, bare, []string{"snapshot", "save"}, "no server has run")
		wantFailure(t, bare, []string{"snapshot", "restore", "nothing"}, "--token-file")
	})

	t.Run("another machine", func(t *testing.T) {
		content, err := os.ReadFile(c.node.Path(dir + first + ".tar"))
		if err != nil {
			t.Fatal(err)
		}
		token, err := os.ReadFile(c.node.Path("/var/lib/kedge/server/token"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "PRIVATE KEY") || strings.Contains(string(content), strings.TrimSpace(string(token))) {
			t.Error("a secret of the server is in the snapshot as it is")
		}
		write := func(name string, content []byte) {
			if err := os.WriteFile(bare.Path("/etc/backup/"+name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(bare.Path("/etc/backup"), 0o755); err != nil {
			t.Fatal(err)
		}
		write("good.tar", content)
		write("short.tar", content[:len(content)/2])
		flipped := append([]byte{}, content...)
		flipped[len(flipped)/2] ^= 1
		write("flipped.tar", flipped)
		write("token", token)
		write("other", []byte("server:other"))
		for _, damaged := range []string{"short", "flipped"} {
			wantFailure(t, bare, []string{"snapshot", "restore", "--token-file=/etc/backup/token", "/etc/backup/" + damaged + ".tar"}, "/etc/backup/"+damaged+".tar", "damaged")
		}
		wantFailure(t, bare, []string{"snapshot", "restore", "--token-file=/etc/backup/other", "/etc/backup/good.tar"}, "the token is not the one")
		run(t, bare, "restore", "--token-file=/etc/backup/token", "/etc/backup/good.tar")
		stop(t, c.server)
		up(t, bare)
		kubectl(t, bare, "get", "configmap/early", "configmap/of-a-file")
		if _, err := bare.Kubectl(t.Context(), "get", "configmap/late"); err == nil {
			t.Error("there is an object from after the snapshot")
		}
		if again, err := os.ReadFile(bare.Path("/var/lib/kedge/server/token")); err != nil || string(again) != string(token) {
			t.Errorf("the cluster has another token: %v", err)
		}
		stop(t, c.server)
	})

	t.Run("damaged datastore", func(t *testing.T) {
		damage := func() {
			if _, err := c.node.Exec(t.Context(), "sh", "-c", "head -c 65536 /dev/zero | tr '\\0' x | dd of="+state+" bs=1024 seek=40 conv=notrunc"); err != nil {
				t.Fatal(err)
			}
		}
		damage()
		command := append([]string{"server"}, args...)
		wantFailure(t, c.node, command, state, "is damaged", "kedge snapshot restore "+first, "--datastore-auto-restore")
		out := run(t, c.node, "restore", first)
		if !strings.Contains(out, "before-restore-") {
			t.Errorf("restore says %q", out)
		}
		up(t, c.node)
		kubectl(t, c.node, "get", "configmap/early")
		if err := c.server.Kill(); err != nil {
			t.Fatal(err)
		}
		damage()
		up(t, c.node, "--datastore-auto-restore")
		kubectl(t, c.node, "get", "configmap/early")
		if log := c.server.Log(); !strings.Contains(log, "went back to a snapshot") || !strings.Contains(log, first) {
			t.Errorf("the log does not say what happened:\n%s", log)
		}
		stop(t, c.server)
		// A power cut in the middle of that.
		put(t, c.node, "/var/lib/kedge/server/restoring", first+"\n", 0o600)
		put(t, c.node, "/var/lib/kedge/server/.snapshot-1/datastore", "half", 0o600)
		wantFailure(t, c.node, command, "a restore was cut short", first)
		up(t, c.node, "--datastore-auto-restore")
		kubectl(t, c.node, "get", "configmap/early")
		stop(t, c.server)
		for _, left := range []string{"restoring", ".snapshot-1"} {
			if _, err := os.Lstat(c.node.Path("/var/lib/kedge/server/" + left)); err == nil {
				t.Errorf("%s is left", left)
			}
		}
		if out, err := c.node.Exec(t.Context(), "sh", "-c", "ls /var/lib/kedge/server/before-restore-*/db/state.db"); err != nil || strings.Count(out, "\n") != 3 {
			t.Errorf("the damaged files are not kept: %s, %v", out, err)
		}
	})
}
