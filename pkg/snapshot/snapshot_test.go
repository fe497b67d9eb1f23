package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/token"
)

// textStore is a datastore of one file without a format.
type textStore struct{ path string }

func (textStore) Kind() string { return "text" }

func (s textStore) State(context.Context) (string, error) {
	text, err := os.ReadFile(s.path)
	return string(text), err
}

func (s textStore) Backup(_ context.Context, file string) error {
	text, err := os.ReadFile(s.path)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

func (textStore) CheckCopy(context.Context, string) error { return nil }

func (textStore) Revision(context.Context) int64 { return 7 }

func (textStore) Prepare(_ context.Context, file string, past int64) error {
	if past != 7 {
		return errors.New("the last revision is not passed on")
	}
	if text, err := os.ReadFile(file); err != nil || string(text) == "unfit" {
		return errors.New("unfit")
	}
	return nil
}

func (s textStore) SetAside(_ context.Context, aside string) error {
	if _, err := os.Stat(s.path); err != nil {
		return nil //nolint:nilerr // there is none
	}
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	return os.Rename(s.path, filepath.Join(aside, filepath.Base(s.path)))
}

func (s textStore) Install(_ context.Context, file string) error {
	if text, err := os.ReadFile(file); err != nil || string(text) == "stuck" {
		return errors.New("stuck")
	}
	return os.Rename(file, s.path)
}

type machine struct {
	*Keeper

	t   *testing.T
	dir string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	dir := t.TempDir()
	keeper := NewKeeper(Options{
		Dir: filepath.Join(dir, "snapshots"), ServerDir: filepath.Join(dir, "server"), Node: "node",
		Datastore: textStore{filepath.Join(dir, "server", "text")}, Log: slog.New(slog.DiscardHandler),
	})
	keeper.rounds = 1000 // of a key's derivation, which is to take its time
	return machine{t: t, dir: dir, Keeper: keeper}
}

// newServer is a machine on which a server has run.
func newServer(t *testing.T) machine {
	t.Helper()
	m := newMachine(t)
	for name, content := range map[string]string{
		"text":                    strings.Repeat("what the cluster knows\n", 1000),
		"token":                   "server:s3cret\n",
		"agent-token":             "node:other\n",
		"tls/server-ca.crt":       "certificate",
		"tls/server-ca.key":       "key of the authority",
		"tls/etcd/peer-ca.key":    "key of another",
		"tls/service.key":         "key of service accounts",
		"tls/client-admin.key":    "left out",
		"tls/server-ca.key.new":   "left out",
		"cred/encryption.json":    "key of secrets",
		"cred/admin.kubeconfig":   "left out",
		"manifests/mine.yaml":     "mine",
		"manifests/sub/deep.yaml": "deep",
		"db/state.db":             "left out",
		"lock":                    "left out",
	} {
		m.write(name, content)
	}
	return m
}

func (m machine) write(name, content string) {
	m.t.Helper()
	path := filepath.Join(m.dir, "server", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) read(name string) string {
	text, err := os.ReadFile(filepath.Join(m.dir, "server", name))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (m machine) save(r Request) File {
	m.t.Helper()
	file, err := m.Save(m.t.Context(), r)
	if err != nil {
		m.t.Fatal(err)
	}
	return file
}

func (m machine) path(f File) string { return strings.TrimPrefix(f.Location, "file://") }

func parse(t *testing.T, text string) token.Token {
	t.Helper()
	own, err := token.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return own
}

func TestRestoreOnBareMachine(t *testing.T) {
	for _, compress := range []bool{false, true} {
		server, bare := newServer(t), newMachine(t)
		file := server.save(Request{Prefix: "x", Compress: compress})
		if !strings.HasPrefix(file.Name, "x-node-") || !strings.HasSuffix(file.Location, extension(compress)) {
			t.Errorf("the snapshot is %+v", file)
		}
		if info, err := os.Stat(server.path(file)); err != nil || info.Mode().Perm() != 0o600 || info.Size() != file.Size {
			t.Errorf("the file is %v, %v", info, err)
		}
		content, err := os.ReadFile(server.path(file))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"s3cret", "key of"} {
			if !compress && strings.Contains(string(content), secret) {
				t.Errorf("%q is in the snapshot", secret)
			}
		}
		restored, err := bare.Restore(t.Context(), server.path(file), file.Name, parse(t, "s3cret"))
		if err != nil {
			t.Fatal(err)
		}
		if restored.Aside != "" || restored.Name != file.Name {
			t.Errorf("restored %+v", restored)
		}
		for _, name := range []string{"text", "token", "agent-token", "tls/server-ca.crt", "tls/server-ca.key", "tls/etcd/peer-ca.key", "tls/service.key", "cred/encryption.json", "manifests/mine.yaml", "manifests/sub/deep.yaml"} {
			if bare.read(name) != server.read(name) {
				t.Errorf("%s is %q", name, bare.read(name))
			}
		}
		for _, name := range []string{"tls/client-admin.key", "tls/server-ca.key.new", "cred/admin.kubeconfig", "db/state.db", "lock", "restoring"} {
			if _, err := os.Stat(filepath.Join(bare.dir, "server", name)); err == nil {
				t.Errorf("%s is there", name)
			}
		}
	}
}

func TestRestoreKeepsWhatWasThere(t *testing.T) {
	m := newServer(t)
	file := m.save(Request{Prefix: "x"})
	m.write("text", "later")
	m.write("tls/service.key", "another key")
	m.write("manifests/mine.yaml", "edited")
	restored, err := m.Restore(t.Context(), m.path(file), file.Name, parse(t, "server:s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	aside, err := filepath.Rel(filepath.Join(m.dir, "server"), restored.Aside)
	if err != nil {
		t.Fatal(err)
	}
	if m.read(aside+"/db/text") != "later" || m.read(aside+"/tls/service.key") != "another key" {
		t.Error("what was there is lost")
	}
	if m.read("tls/service.key") != "key of service accounts" || m.read("manifests/mine.yaml") != "edited" {
		t.Errorf("the key is %q, the manifest %q", m.read("tls/service.key"), m.read("manifests/mine.yaml"))
	}
}

// otherStore is another kind of datastore.
type otherStore struct{ textStore }

func (otherStore) Kind() string { return "other" }

func TestRestoreOfOther(t *testing.T) {
	m := newServer(t)
	m.write("other", "what another knew")
	inUse, other := m.options.Datastore, otherStore{textStore{filepath.Join(m.dir, "server", "other")}}
	m.options.Datastore = other
	file := m.save(Request{Prefix: "x"})
	m.write("other", "later")
	m.options.Datastore = inUse
	if _, err := m.Restore(t.Context(), m.path(file), file.Name, parse(t, "server:s3cret")); err == nil || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("a snapshot of an unknown kind: error is %v", err)
	}
	m.options.Others = []Datastore{other}
	restored, err := m.Restore(t.Context(), m.path(file), file.Name, parse(t, "server:s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.read("other"); got != "what another knew" {
		t.Errorf("it is %q", got)
	}
	if _, err := os.Stat(filepath.Join(m.dir, "server", "text")); err == nil {
		t.Error("the datastore in use is still there")
	}
	for _, name := range []string{"text", "other"} {
		if _, err := os.Stat(filepath.Join(restored.Aside, "db", name)); err != nil {
			t.Errorf("what was there is lost: %v", err)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	server := newServer(t)
	file := server.save(Request{Prefix: "x"})
	other := "K10" + strings.Repeat("0", 64) + "::server:s3cret"
	for text, want := range map[string]string{"other": ErrWrongToken.Error(), other: "another cluster's"} {
		bare := newMachine(t)
		if _, err := bare.Restore(t.Context(), server.path(file), file.Name, parse(t, text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("with the token %s: %v", text, err)
		}
		if entries, _ := os.ReadDir(filepath.Join(bare.dir, "server")); len(entries) > 0 {
			t.Errorf("it left %v", entries)
		}
	}
}

func TestInterruptedRestore(t *testing.T) {
	m := newServer(t)
	if err := Interrupted(filepath.Join(m.dir, "server")); err != nil {
		t.Error(err)
	}
	file := m.save(Request{Prefix: "x"})
	m.write("restoring", "/backup/one.tar\n")
	if err := Interrupted(filepath.Join(m.dir, "server")); err == nil || !strings.Contains(err.Error(), "restore /backup/one.tar") {
		t.Errorf("it was interrupted: %v", err)
	}
	if _, err := m.Restore(t.Context(), m.path(file), file.Name, parse(t, "s3cret")); err != nil {
		t.Fatal(err)
	}
	if err := Interrupted(filepath.Join(m.dir, "server")); err != nil {
		t.Error(err)
	}
}

// TestRestoreCutShort is known afterwards if anything has changed, by a name that
// is of use.
func TestRestoreCutShort(t *testing.T) {
	for text, marked := range map[string]bool{"unfit": false, "stuck": true} {
		m := newServer(t)
		m.write("text", text)
		file := m.save(Request{Prefix: "x"})
		if _, err := m.Restore(t.Context(), m.path(file), "again", parse(t, "s3cret")); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error is %v, want %s", err, text)
		}
		err := Interrupted(filepath.Join(m.dir, "server"))
		var interrupted *InterruptedError
		if errors.As(err, &interrupted) != marked || marked && interrupted.Snapshot != "again" {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestClearLeftovers(t *testing.T) {
	m := newServer(t)
	dir, _, err := m.WorkDir()
	if err != nil {
		t.Fatal(err)
	}
	ClearLeftovers(filepath.Dir(dir))
	if exists(dir) || m.read("token") != "server:s3cret\n" {
		t.Error("what was left is there, or more is gone")
	}
}

// TestDamage changes a snapshot in every place, and cuts it everywhere.
func TestDamage(t *testing.T) {
	for _, compress := range []bool{false, true} {
		m := newServer(t)
		m.write("text", "what the cluster knows")
		file := m.save(Request{Prefix: "x", Compress: compress})
		whole, err := os.ReadFile(m.path(file))
		if err != nil {
			t.Fatal(err)
		}
		damaged := filepath.Join(m.dir, "damaged.tar")
		undetected := 0
		for i := 0; i < len(whole); i += 7 {
			flipped := slices.Clone(whole)
			flipped[i] ^= 0x10
			for _, content := range [][]byte{flipped, whole[:i]} {
				if err := os.WriteFile(damaged, content, 0o600); err != nil {
					t.Fatal(err)
				}
				c, err := m.unpack(t.Context(), damaged, filepath.Join(m.dir, "out"))
				_ = os.Remove(filepath.Join(m.dir, "out"))
				if err == nil && (c.info != file.Info || c.sum == "") {
					t.Fatalf("byte %d of %d: it passes with other content", i, len(whole))
				}
				if err == nil {
					undetected++ // padding
				} else if !errors.Is(err, errDamaged) && !errors.Is(err, errNewer) {
					t.Fatalf("byte %d: %v", i, err)
				}
			}
		}
		if undetected > len(whole)/4 {
			t.Errorf("%d of %d changes pass", undetected, 2*len(whole)/7)
		}
	}
}

func TestSkipUnchanged(t *testing.T) {
	m := newServer(t)
	m.age(time.Hour)
	first := m.save(Request{Prefix: "x", SkipUnchanged: true})
	if file, err := m.Save(t.Context(), Request{Prefix: "x", SkipUnchanged: true}); !errors.Is(err, ErrUnchanged) || file.Name != first.Name {
		t.Errorf("unchanged: %+v, %v", file, err)
	}
	m.save(Request{Prefix: "x"})
	m.write("text", "changed")
	m.save(Request{Prefix: "x", SkipUnchanged: true})
	if files, err := m.List(t.Context()); err != nil || len(files) != 3 {
		t.Errorf("there are %d snapshots, %v", len(files), err)
	}
	// With the old token's secret nobody opens the snapshots of before.
	m.write("token", "server:an0ther\n")
	m.age(-time.Minute) // snapshots of one second are named by the next ones
	file := m.save(Request{Prefix: "x", SkipUnchanged: true})
	if _, err := m.Verify(t.Context(), m.path(file), parse(t, "server:an0ther")); err != nil {
		t.Error(err)
	}
	m.age(time.Hour)
	if _, err := m.Save(t.Context(), Request{Prefix: "x", SkipUnchanged: true}); !errors.Is(err, ErrUnchanged) {
		t.Errorf("unchanged again: %v", err)
	}
}

// age makes all files of the server so old, or from the future.
func (m machine) age(by time.Duration) {
	m.t.Helper()
	err := filepath.WalkDir(filepath.Join(m.dir, "server"), func(path string, _ fs.DirEntry, err error) error {
		then := time.Now().Add(-by)
		return errors.Join(err, os.Chtimes(path, then, then))
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

func TestListAndPrune(t *testing.T) {
	m := newServer(t)
	var names []string
	for range 4 { // in one second
		names = append(names, m.save(Request{Prefix: "x"}).Name)
	}
	other := m.save(Request{Prefix: "other", Compress: true})
	for name, content := range map[string]string{"broken.tar": "no archive", ".hidden.tar": "", "note.txt": ""} {
		if err := os.WriteFile(filepath.Join(m.dir, "snapshots", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(m.dir, "snapshots", ".work-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := m.List(t.Context())
	if err != nil || len(files) != 6 || files[5].Name != "broken" || files[5].Damage == "" {
		t.Fatalf("the list is %+v, %v", files, err)
	}
	gone, err := m.Prune(t.Context(), "x", 2)
	if err != nil || !slices.Equal(gone, []string{names[1], names[0]}) {
		t.Errorf("pruned %v of %v, %v", gone, names, err)
	}
	if good, err := m.LastGood(t.Context()); err != nil || good.Name != files[0].Name {
		t.Errorf("the last good one is %s, %v", good.Name, err)
	}
	for _, name := range []string{names[0], "../server/token", "", "x"} {
		if err := m.Delete(other.Name, name); err == nil || !strings.Contains(err.Error(), "there is no snapshot") {
			t.Errorf("deleting %q gives %v", name, err)
		}
	}
	if err := m.Delete(other.Name, names[3]+".tar"); err != nil {
		t.Error(err)
	}
	m.save(Request{Prefix: "y"})
	if left, _ := filepath.Glob(filepath.Join(m.dir, "snapshots", ".work-*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

func TestLastGoodPassesDamaged(t *testing.T) {
	m := newServer(t)
	older := m.save(Request{Prefix: "x"})
	newer := m.save(Request{Prefix: "x"})
	if err := os.Truncate(m.path(newer), newer.Size-2048); err != nil {
		t.Fatal(err)
	}
	if good, err := m.LastGood(t.Context()); err != nil || good.Name != older.Name {
		t.Errorf("the last good one is %q, %v", good.Name, err)
	}
}

func TestCheckPrefix(t *testing.T) {
	for prefix, good := range map[string]bool{"a": true, "on-demand": true, "v1.2": true, "": false, "-a": false, "A": false, "a/b": false, strings.Repeat("a", 64): false} {
		if err := CheckPrefix(prefix); (err == nil) != good {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

func TestSurplusCountsOwn(t *testing.T) {
	file := func(name, prefix, node string) File {
		return File{Info: Info{Name: name, Prefix: prefix, Node: node, Created: time.Unix(1, 0)}}
	}
	files := []File{file("a", "x", "n"), file("b", "x", "other"), file("c", "y", "n"), file("d", "x", "n"), file("e", "x", "n")}
	if got := Surplus(files, "x", "n", 1); !slices.Equal(got, []string{"d", "e"}) {
		t.Errorf("surplus is %v", got)
	}
	if got := Surplus(files, "x", "n", 0); got != nil {
		t.Errorf("with all to be kept, surplus is %v", got)
	}
}
