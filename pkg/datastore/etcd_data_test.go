package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/join"
)

// fakePeers answer with the members that they have.
type fakePeers struct {
	Peers

	members join.Members
	err     error
}

func (p *fakePeers) Members(context.Context) (join.Members, error) { return p.members, p.err }

// newTestEtcd makes a member in a directory of its own, that was one of cluster.
func newTestEtcd(t *testing.T, cluster string, peers Peers) *Etcd {
	t.Helper()
	paths := config.Paths{DataDir: t.TempDir()}
	write(t, paths.EtcdCluster(), cluster+"\n")
	e := &Etcd{log: slog.New(slog.DiscardHandler), config: EtcdConfig{
		Dir: paths.Etcd(), Cluster: paths.EtcdCluster(), SQLite: paths.DB(),
		Advertised: netip.MustParseAddr("192.0.2.1"), Peers: peers,
	}}
	write(t, filepath.Join(paths.Etcd(), "member", "wal", "0.wal"), "")
	write(t, e.nameFile(), "node-01234567\n")
	return e
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func removeAll(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestLostData(t *testing.T) {
	e := newTestEtcd(t, "a1", nil)
	paths := config.Paths{DataDir: filepath.Dir(filepath.Dir(e.config.Cluster))}
	wal := filepath.Join(e.config.Dir, "member", "wal")
	if err := e.checkLoss(); err != nil || !HasEtcd(e.config.Dir) {
		t.Fatalf("data that is there is lost: %v", err)
	}
	removeAll(t, filepath.Join(wal, "0.wal"))
	if HasEtcd(e.config.Dir) || !UsesEtcd(paths) {
		t.Error("an empty directory is taken for data, or the server for a new one")
	}
	if err := e.checkLoss(); err == nil || !strings.Contains(err.Error(), "--server") {
		t.Errorf("lost data: error is %v", err)
	}
	e.config.Peers = &fakePeers{}
	if err := e.checkLoss(); err != nil {
		t.Errorf("with other servers to join: %v", err)
	}
	// What can't be looked at is there.
	removeAll(t, wal)
	if err := os.Symlink("wal", wal); err != nil {
		t.Fatal(err)
	}
	if !HasEtcd(e.config.Dir) {
		t.Error("a directory that can't be read is taken for none")
	}
	// Joining anew keeps what is left, once.
	for range 2 {
		if err := e.makeRoom(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(e.config.Dir); err != nil || len(left) > 0 {
			t.Errorf("there is %v, error %v", left, err)
		}
		write(t, filepath.Join(e.config.Dir, "member", "snap", "db"), "half")
	}
	if _, err := os.Lstat(filepath.Join(e.config.Dir+"-lost", "member", "wal")); err != nil {
		t.Error(err)
	}
	// A new server has nothing to lose.
	removeAll(t, e.config.Cluster)
	e.config.Peers = nil
	if err := e.checkLoss(); err != nil || UsesEtcd(paths) {
		t.Errorf("a new server: %v", err)
	}
}

func TestLeaveIfRemoved(t *testing.T) {
	others := []join.Member{{Name: "other-01234567", Peers: []string{"https://192.0.2.2:2380"}}}
	for name, test := range map[string]struct {
		own    string
		peers  fakePeers
		leaves bool
		want   string // in the error
	}{
		"no answer":       {own: "a1", peers: fakePeers{err: errors.New("no")}},
		"among them":      {own: "a1", peers: fakePeers{members: join.Members{Cluster: "a1", List: append(others, join.Member{Name: "node-01234567"})}}},
		"removed":         {own: "a1", peers: fakePeers{members: join.Members{Cluster: "a1", List: others}}, leaves: true},
		"another cluster": {own: "a1", peers: fakePeers{members: join.Members{Cluster: "b2", List: others}}, want: "another cluster of etcd, b2"},
		"not known which": {own: "", peers: fakePeers{members: join.Members{Cluster: "b2", List: others}}, leaves: true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newTestEtcd(t, test.own, &test.peers)
			err := e.leaveIfRemoved(t.Context())
			if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q", err, test.want)
			}
			if HasEtcd(e.config.Dir) == test.leaves {
				t.Errorf("its data is in its place: %v", !test.leaves)
			}
		})
	}
}

func TestFinishMigration(t *testing.T) {
	e := newTestEtcd(t, "a1", nil)
	database := NewSQLiteFile(e.config.SQLite).Path()
	write(t, database, "old")
	write(t, database+asideSuffix+"-wal", "old") // it was cut short after this one
	for range 2 {
		if err := e.finishMigration(); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(database + asideSuffix); err != nil || string(content) != "old" || exists(database) {
			t.Fatalf("set aside is %q, error %v", content, err)
		}
	}
	write(t, database, "newer")
	if err := e.finishMigration(); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(database + asideSuffix); err != nil || string(content) != "old" {
		t.Errorf("what was set aside is replaced by %q, error %v", content, err)
	}
}

func TestCheckBackend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := checkBackend(path); err != nil {
		t.Errorf("a new member: %v", err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 { // leaves free pages
		err := db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("key"))
			if err != nil {
				return err
			}
			return bucket.Put(fmt.Append(nil, i), make([]byte, 1000))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := checkBackend(path); err != nil {
		t.Errorf("a good one: %v", err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	for name, spoil := range map[string]func([]byte) []byte{
		"cut short":       func(b []byte) []byte { return b[:len(b)/2/page*page] },
		"but its headers": func(b []byte) []byte { return b[:2*page] },
		"no pages":        func(b []byte) []byte { clear(b[2*page:]); return b },
		"another file":    func([]byte) []byte { return []byte(strings.Repeat("x", 4*page)) },
	} {
		write(t, path, string(spoil([]byte(string(good)))))
		if err := checkBackend(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error is %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func TestAnswers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	peer := "https://" + listener.Addr().String()
	if !answers(t.Context(), peer) {
		t.Error("a member that listens does not answer")
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if answers(t.Context(), peer) {
		t.Error("a member that is gone answers")
	}
}
