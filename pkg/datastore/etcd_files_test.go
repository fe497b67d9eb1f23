package datastore

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/mvcc"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// runMember runs a member with the data in dir, as it is, which listens nowhere.
func runMember(t *testing.T, dir string, do func(*etcdserver.EtcdServer)) {
	t.Helper()
	settings := embed.NewConfig()
	settings.Name, settings.Dir = "node-01234567", dir
	settings.InitialCluster = settings.InitialClusterFromName(settings.Name)
	settings.MaxLearners = learners
	settings.ListenPeerUrls, settings.ListenClientUrls, settings.AdvertiseClientUrls = nil, nil, nil
	member := &Etcd{log: slog.New(slog.DiscardHandler)}
	member.logged = newEtcdLog(member.log)
	settings.ZapLoggerBuilder = embed.NewZapLoggerBuilder(member.logged.zap())
	var err error
	if member.etcd, err = member.startEtcd(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	defer member.close()
	select {
	case <-member.etcd.Server.ReadyNotify():
		do(member.etcd.Server)
	case err := <-member.logged.fatal:
		t.Fatal(err)
	case <-t.Context().Done():
		t.Fatal("etcd is not ready")
	}
}

// newMember makes the data of a stopped member.
func newMember(t *testing.T) EtcdFiles {
	t.Helper()
	f := NewEtcdFiles(config.Paths{DataDir: t.TempDir()}, "node", nil, slog.New(slog.DiscardHandler))
	runMember(t, f.paths.Etcd(), func(server *etcdserver.EtcdServer) {
		for _, key := range []string{"/registry/configmaps/default/a", "/registry/leases/default/a", "/registry/minions/node"} {
			putKey(t, server, key, "one")
		}
	})
	write(t, filepath.Join(f.paths.Etcd(), "name"), "node-01234567\n")
	write(t, f.paths.EtcdCluster(), "a1\n")
	return f
}

func putKey(t *testing.T, server *etcdserver.EtcdServer, key, value string) (revision int64) {
	t.Helper()
	r, err := server.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

func getKey(t *testing.T, server *etcdserver.EtcdServer, key string, revision int64) (string, error) {
	t.Helper()
	r, err := server.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte(key), Revision: revision})
	if err != nil || len(r.Kvs) == 0 {
		return "", err
	}
	return string(r.Kvs[0].Value), nil
}

// wantLeap wants a cluster of one member with a key's value, far ahead of what
// clients may have seen.
func wantLeap(t *testing.T, server *etcdserver.EtcdServer, seen int64, key, value string) {
	t.Helper()
	if got := len(server.Cluster().Members()); got != 1 {
		t.Errorf("there are %d members", got)
	}
	if got, err := getKey(t, server, key, 0); err != nil || got != value {
		t.Errorf("%s is %q, error %v", key, got, err)
	}
	if _, err := getKey(t, server, key, seen); !errors.Is(err, mvcc.ErrCompacted) {
		t.Errorf("a revision from before is still there: %v", err)
	}
	if now := putKey(t, server, "/after", "one"); now <= seen+leap {
		t.Errorf("revision %d follows %d", now, seen)
	}
}

func TestEtcdSnapshot(t *testing.T) {
	f := newMember(t)
	const kept = "/registry/configmaps/default/a"
	copied, aside := filepath.Join(t.TempDir(), "copy"), filepath.Join(t.TempDir(), "aside")
	if err := f.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if err := f.CheckCopy(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(f.paths.DB(), ".*")); len(left) > 0 {
		t.Errorf("%s is left", left)
	}
	before, err := f.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var seen int64
	for _, write := range []struct {
		key     string
		changes bool
	}{{"/registry/leases/default/a", false}, {"/registry/minions/node", true}, {kept, true}} {
		runMember(t, f.paths.Etcd(), func(server *etcdserver.EtcdServer) { seen = putKey(t, server, write.key, "two") })
		state, err := f.State(t.Context())
		if err != nil || (state != before) != write.changes {
			t.Errorf("a write to %s makes the state %s of %s, error %v", write.key, state, before, err)
		}
		before = state
	}
	last := f.Revision(t.Context())
	if last != seen {
		t.Errorf("the last revision is %d, want %d", last, seen)
	}
	for _, past := range []int64{0, last} { // as if the first one had been cut short
		if err := f.Prepare(t.Context(), copied, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.SetAside(t.Context(), aside); err != nil {
		t.Fatal(err)
	}
	if UsesEtcd(f.paths) || !HasEtcd(filepath.Join(aside, "etcd")) {
		t.Error("the data was not moved aside")
	}
	if err := f.Install(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	runMember(t, f.paths.Etcd(), func(server *etcdserver.EtcdServer) {
		wantLeap(t, server, seen, kept, "one")
		cluster, err := os.ReadFile(f.paths.EtcdCluster())
		if got := strings.TrimSpace(string(cluster)); err != nil || got != server.Cluster().ID().String() {
			t.Errorf("the cluster is %s, and %s is noted, error %v", server.Cluster().ID(), got, err)
		}
	})
	name, err := os.ReadFile(filepath.Join(f.paths.Etcd(), "name"))
	if err != nil || !MemberOf(strings.TrimSpace(string(name)), "node") {
		t.Errorf("the member's name is %q, error %v", name, err)
	}
}

func TestEtcdDamagedCopy(t *testing.T) {
	f := newMember(t)
	good := filepath.Join(t.TempDir(), "good")
	if err := f.Backup(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	for name, bad := range map[string]string{
		"empty":        "",
		"another file": strings.Repeat("x", 4*page),
		"cut short":    string(content[:3*page]),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad")
			write(t, path, bad)
			err := f.CheckCopy(t.Context(), path)
			if err == nil {
				err = f.Prepare(t.Context(), path, 0)
			}
			if err == nil {
				t.Error("it is taken")
			}
			t.Log(err)
		})
	}
	if !HasEtcd(f.paths.Etcd()) {
		t.Error("the data in use is gone")
	}
}

func TestReset(t *testing.T) {
	if raceDetector {
		t.Skip("etcd's ForceSnapshot sets a flag that its other goroutine reads, without a lock; make unit runs this test without the detector too")
	}
	f := newMember(t)
	dir := f.paths.Etcd()
	const kept = "/registry/configmaps/default/a"
	killed := filepath.Join(t.TempDir(), "etcd")
	var seen int64
	runMember(t, dir, func(server *etcdserver.EtcdServer) {
		seen = putKey(t, server, kept, "two")
		// As if the machine lost its power now.
		if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		for _, address := range []string{"https://192.0.2.8:2380", "https://192.0.2.9:2380"} { // which join at the same time
			other := membership.NewMemberAsLearner("", types.MustNewURLs([]string{address}), "", nil)
			if _, err := server.AddMember(t.Context(), *other); err != nil {
				t.Fatal(err)
			}
		}
	})
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Reset(t.Context()); err == nil || !strings.Contains(err.Error(), link) {
		t.Errorf("a link in the data: error is %v", err)
	}
	removeAll(t, link)
	if exists(f.resetting()) || f.InterruptedReset() {
		t.Error("a reset that failed leaves something")
	}
	write(t, filepath.Join(f.resetting(), "member", "snap", "db"), "half") // of one that was killed

	aside, err := f.Reset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !HasEtcd(aside) || f.InterruptedReset() || exists(f.resetting()) {
		t.Errorf("the data from before is not in %s, or something is left", aside)
	}
	// Cut short between its last two steps.
	if err := os.Rename(dir, f.reset()); err != nil {
		t.Fatal(err)
	}
	if again, err := f.Reset(t.Context()); err != nil || again != "" {
		t.Errorf("finishing sets %q aside, error %v", again, err)
	}
	runMember(t, dir, func(server *etcdserver.EtcdServer) { wantLeap(t, server, seen, kept, "two") })

	removeAll(t, dir)
	if err := os.CopyFS(dir, os.DirFS(killed)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "name"), "node-01234567\n")
	if _, err := f.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	runMember(t, dir, func(server *etcdserver.EtcdServer) { wantLeap(t, server, seen, kept, "two") })
}
