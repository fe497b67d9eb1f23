//go:build e2e

package e2e

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "github.com/k3s-io/kine/pkg/drivers/sqlite" // registers the driver

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// keyState is what kedge secrets-encrypt status says.
type keyState struct {
	Enabled, Running bool
	Stage            string
	Keys             []struct {
		Name, Type string
		Active     bool
	}
}

func encryptionState(t *testing.T, host *testbed.Host) (s keyState) {
	t.Helper()
	out, err := host.Kedge(t.Context(), "secrets-encrypt", "status", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

// copyDatastore copies the datastore of a host at one moment: SQLite opens no file
// below /proc.
func copyDatastore(t *testing.T, host *testbed.Host) string {
	t.Helper()
	read := func(suffix string) []byte {
		content, err := os.ReadFile(host.Path("/var/lib/kedge/server/db/state.db" + suffix))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	path := filepath.Join(t.TempDir(), "state.db")
	eventually(t, "nothing to be written while the datastore is copied", func() (bool, string) {
		wal, db := read("-wal"), read("")
		for suffix, content := range map[string][]byte{"": db, "-wal": wal} {
			if err := os.WriteFile(path+suffix, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return bytes.Equal(wal, read("-wal")), ""
	})
	return path
}

// storedSecrets are the Secrets as the datastore of a host holds them now, by key.
func storedSecrets(t *testing.T, host *testbed.Host) map[string][]byte {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+copyDatastore(t, host))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), `SELECT name, value FROM kine WHERE id IN
		(SELECT MAX(id) FROM kine WHERE name LIKE '/registry/secrets/%' GROUP BY name) AND deleted = 0`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	stored := map[string][]byte{}
	for rows.Next() {
		var name string
		var value []byte
		if err := rows.Scan(&name, &value); err != nil {
			t.Fatal(err)
		}
		stored[name] = value
	}
	if err := rows.Err(); err != nil || len(stored) == 0 {
		t.Fatalf("the datastore has %d Secrets: %v", len(stored), err)
	}
	return stored
}

// wantStored wants each Secret in the datastore to begin with a text.
func wantStored(t *testing.T, host *testbed.Host, prefix string) {
	t.Helper()
	for name, value := range storedSecrets(t, host) {
		if !bytes.HasPrefix(value, []byte(prefix)) {
			t.Errorf("%s is stored as %.40q, want %q", name, value, prefix)
		}
	}
}

// startControlPlane starts a server without a node.
func startControlPlane(t *testing.T, host *testbed.Host, args ...string) *testbed.Process {
	t.Helper()
	server, err := host.Start(append([]string{"server", "--disable-agent", "--disable=metrics-server"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.WaitAPI(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	return server
}

// TestSecretsEncryption looks into the datastore for Secrets, and changes their
// keys in every way there is while they are read and written.
func TestSecretsEncryption(t *testing.T) {
	t.Parallel()
	host := newHost(t, testbed.New(t), "node")
	server := startControlPlane(t, host)
	const plain = "correct-horse-battery-staple"
	var list strings.Builder
	for i := range 100 {
		fmt.Fprintf(&list, "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s%d}\nstringData: {password: %s-%d}\n", i, plain, i)
	}
	apply := func() {
		t.Helper()
		if _, err := host.KubectlIn(t.Context(), list.String(), "apply", "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
	// readable wants every Secret to be what it was.
	readable := func() {
		t.Helper()
		out, err := host.Kubectl(t.Context(), "get", "secrets", "-o", `go-template={{range .items}}{{.metadata.name}} {{.data.password | base64decode}}{{"\n"}}{{end}}`)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if !strings.Contains(out, fmt.Sprintf("s%d %s-%d\n", i, plain, i)) {
				t.Fatalf("s%d can't be read: %s", i, out)
			}
		}
	}
	change := func(verb string) keyState {
		t.Helper()
		if _, err := host.Kedge(t.Context(), "secrets-encrypt", verb); err != nil {
			t.Fatal(err)
		}
		return encryptionState(t, host)
	}
	config := func() string {
		t.Helper()
		path := host.Path("/var/lib/kedge/server/cred/encryption-config.json")
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
		return string(content)
	}
	apply()

	first := encryptionState(t, host)
	if !first.Enabled || len(first.Keys) != 1 || first.Keys[0].Type != "secretbox" {
		t.Fatalf("a new cluster's keys are %+v", first)
	}
	wantStored(t, host, "k8s:enc:secretbox:v1:"+first.Keys[0].Name+":")
	files, err := filepath.Glob(host.Path("/var/lib/kedge/server/db/state.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if content, err := os.ReadFile(file); err != nil || bytes.Contains(content, []byte(plain)) {
			t.Errorf("%s holds a Secret's text, error %v", file, err)
		}
	}

	oldKey := config()
	// Who writes meanwhile sees nothing of it.
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 10 {
			if _, err := host.Kubectl(t.Context(), "annotate", "--overwrite", "secret", fmt.Sprint("s", i), "round=two"); err != nil {
				t.Error(err)
			}
		}
	})
	second := change("rotate-keys")
	writer.Wait()
	if len(second.Keys) != 1 || second.Keys[0].Name == first.Keys[0].Name || second.Stage != "reencrypt_finished" {
		t.Errorf("after rotate-keys: %+v", second)
	}
	if strings.Contains(config(), first.Keys[0].Name) || config() == oldKey {
		t.Error("the old key is still there")
	}
	wantStored(t, host, "k8s:enc:secretbox:v1:"+second.Keys[0].Name+":")
	readable()

	// The same in steps.
	wantFailure(t, host, []string{"secrets-encrypt", "rotate"}, "kedge secrets-encrypt prepare", "rotate-keys")
	if s := change("prepare"); len(s.Keys) != 2 || s.Keys[0].Name != second.Keys[0].Name {
		t.Errorf("after prepare: %+v", s)
	}
	wantFailure(t, host, []string{"secrets-encrypt", "reencrypt"}, "kedge secrets-encrypt rotate")
	third := change("rotate")
	if len(third.Keys) != 2 || third.Keys[1].Name != second.Keys[0].Name {
		t.Errorf("after rotate: %+v", third)
	}
	// The server ends as it would in a power cut, and nothing is lost.
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	server = startControlPlane(t, host)
	readable()
	change("reencrypt")
	wantStored(t, host, "k8s:enc:secretbox:v1:"+third.Keys[0].Name+":")

	if s := change("disable"); s.Enabled || len(s.Keys) != 0 {
		t.Errorf("after disable: %+v", s)
	}
	wantStored(t, host, "k8s\x00")
	readable()
	wantFailure(t, host, []string{"secrets-encrypt", "rotate-keys"}, "kedge secrets-encrypt enable")
	// Disabled it stays, whatever a new cluster would be.
	stop(t, server)
	server = startControlPlane(t, host, "--secrets-encryption-provider=aescbc")
	if s := encryptionState(t, host); s.Enabled {
		t.Errorf("after a restart: %+v", s)
	}
	fourth := change("enable")
	if !fourth.Enabled || fourth.Keys[0].Type != "aescbc" {
		t.Errorf("after enable: %+v", fourth)
	}
	wantStored(t, host, "k8s:enc:aescbc:v1:"+fourth.Keys[0].Name+":")
	readable()
	wantFailure(t, host, []string{"secrets-encrypt", "enable"}, "enabled already")
	stop(t, server)
	wantFailure(t, host, []string{"secrets-encrypt", "status"}, "no Kedge is running here")
}
