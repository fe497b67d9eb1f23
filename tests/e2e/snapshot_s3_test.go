//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// TestSnapshotS3 copies snapshots to an S3 server, which fails for a time, and
// makes another machine of a copy.
func TestSnapshotS3(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	node, bare, far := newHost(t, bed, "node"), newHost(t, bed, "bare"), newHost(t, bed, "s3")
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	var broken atomic.Bool
	fake := gofakes3.New(backend).Server()
	listener, err := far.Listen("tcp", far.Address.String()+":9000")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			http.Error(w, "out of order", http.StatusForbidden)
			return
		}
		fake.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })

	const password = "s3-secret-key"
	config := "etcd-s3: true\netcd-s3-insecure: true\netcd-s3-endpoint: " + far.Address.String() + ":9000\netcd-s3-bucket: backups\netcd-s3-bucket-lookup-type: path\netcd-s3-folder: one\netcd-s3-access-key: me\netcd-s3-secret-key: " + password + "\netcd-s3-timeout: 5s\n"
	for _, host := range []*testbed.Host{node, bare} {
		if err := os.MkdirAll(host.Path("/etc/kedge"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(host.Path("/etc/kedge/config.yaml"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	process, err := node.Start("server", "--disable-agent", "--disable=coredns,ingress,metrics-server,local-storage,servicelb")
	if err != nil {
		t.Fatal(err)
	}
	if err := process.WaitAPI(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	snapshot := func(host *testbed.Host, args ...string) testbed.Result {
		t.Helper()
		result, err := host.Run(t.Context(), nil, host.Binary, append([]string{"snapshot"}, args...)...)
		if err != nil || result.Code != 0 {
			t.Fatalf("kedge snapshot %v: %v, code %d: %s", args, err, result.Code, result.Stderr)
		}
		return result
	}
	save := func(args ...string) (name string, result testbed.Result) {
		t.Helper()
		result = snapshot(node, append([]string{"save"}, args...)...)
		return strings.Fields(result.Stdout)[1], result
	}
	first, result := save()
	if !strings.Contains(result.Stdout, "copied to s3://backups/one") {
		t.Fatalf("save says %s%s", result.Stdout, result.Stderr)
	}
	if list := snapshot(node, "list").Stdout; !strings.Contains(list, "file:///") || !strings.Contains(list, "s3://backups/one/"+first+".tar") {
		t.Errorf("the list is\n%s", list)
	}
	eventually(t, "the Snapshot of the copy", func() (bool, string) {
		_, err := node.Kubectl(t.Context(), "get", "snapshots.kedge.io/s3-"+first)
		return err == nil, fmt.Sprint(err)
	})

	broken.Store(true)
	second, result := save()
	if !strings.Contains(result.Stderr, "not copied yet") || !strings.Contains(result.Stderr, "s3://backups/one") {
		t.Errorf("without S3 save says %s", result.Stderr)
	}
	if result := snapshot(node, "list"); !strings.Contains(result.Stderr, "copies may be missing") || !strings.Contains(result.Stdout, second) {
		t.Errorf("without S3 the list is\n%s%s", result.Stdout, result.Stderr)
	}
	broken.Store(false)
	// The copy is made up for, at the latest after the next start.
	stop(t, process)
	if process, err = node.Start("server", "--disable-agent", "--disable=coredns,ingress,metrics-server,local-storage,servicelb",
		"--etcd-snapshot-schedule-cron=@every 3s", "--etcd-snapshot-retention=2", "--etcd-s3-retention=1"); err != nil {
		t.Fatal(err)
	}
	if err := process.WaitAPI(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the copy that failed", func() (bool, string) {
		list := snapshot(node, "list").Stdout
		return strings.Contains(list, "s3://backups/one/"+second+".tar"), list
	})
	eventually(t, "a scheduled snapshot to be skipped, as nothing has changed", func() (bool, string) {
		return strings.Contains(process.Log(), "no snapshot is needed"), lastLine(process.Log(), "snapshots")
	})
	for range 3 {
		if _, err := node.Kubectl(t.Context(), "annotate", "namespace/default", "--overwrite", "at="+time.Now().Format(time.RFC3339Nano)); err != nil {
			t.Fatal(err)
		}
		count := strings.Count(process.Log(), "copied a snapshot")
		eventually(t, "a scheduled snapshot to be copied", func() (bool, string) {
			return strings.Count(process.Log(), "copied a snapshot") > count, lastLine(process.Log(), "snapshots")
		})
	}
	eventually(t, "scheduled snapshots to be pruned", func() (bool, string) {
		list := snapshot(node, "list").Stdout
		return strings.Count(list, "/snapshots/snapshot-node-") == 2 && strings.Count(list, "/one/snapshot-node-") == 1, list
	})
	snapshot(node, "prune", "--name=on-demand", "--etcd-snapshot-retention=1")
	if list := snapshot(node, "list").Stdout; strings.Contains(list, first) || strings.Count(list, second) != 4 {
		t.Errorf("after the pruning the list is\n%s", list)
	}

	token, err := os.ReadFile(node.Path("/var/lib/kedge/server/token"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bare.Path("/etc/kedge/token"), token, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := snapshot(bare, "restore", "--token-file=/etc/kedge/token", second).Stdout; !strings.Contains(out, "back at snapshot "+second) {
		t.Errorf("restore says %s", out)
	}
	if _, err := os.Stat(bare.Path("/var/lib/kedge/server/db/state.db")); err != nil {
		t.Error(err)
	}
	if strings.Contains(process.Log(), password) {
		t.Error("the secret key is in the log")
	}
}
