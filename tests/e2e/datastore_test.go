//go:build e2e && datastores

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// password is of every database's user kedge.
const password = "s3cret"

// database is a server that keeps a cluster's state, with its data in /etc/data.
type database struct {
	name    string
	prepare string // shell script, once
	run     string // shell command that becomes the server
	url     string // ADDRESS stands for the host's address
}

// databases are those of Debian, and etcd.
func databases(t *testing.T) []database {
	t.Helper()
	etcd := filepath.Join(t.TempDir(), "etcd")
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "-C", root, "build", "-o", etcd, "./tests/bench/stock/etcd").CombinedOutput(); err != nil {
		t.Fatalf("build etcd: %v\n%s", err, out)
	}
	return []database{
		{
			name: "PostgreSQL",
			prepare: `bin=$(ls -d /usr/lib/postgresql/*/bin); printf ` + password + ` > /etc/password; chown -R postgres /etc/data /etc/password
				setpriv --reuid postgres --regid postgres --clear-groups $bin/initdb -D /etc/data/db -U kedge -A scram-sha-256 --pwfile /etc/password
				echo 'host all all all scram-sha-256' >> /etc/data/db/pg_hba.conf`,
			run: `exec setpriv --reuid postgres --regid postgres --clear-groups $(ls -d /usr/lib/postgresql/*/bin)/postgres -D /etc/data/db -h '*' -k /etc/data`,
			url: "postgres://kedge:" + password + "@ADDRESS:5432/kedge?sslmode=disable",
		},
		{
			name: "MariaDB",
			prepare: `chown mysql /etc/data; mariadb-install-db --no-defaults --user=mysql --datadir=/etc/data/db --auth-root-authentication-method=normal --skip-test-db
				echo "CREATE USER IF NOT EXISTS kedge@'%' IDENTIFIED BY '` + password + `';" > /etc/data/users.sql
				echo "GRANT ALL ON *.* TO kedge@'%';" >> /etc/data/users.sql`,
			run: `exec mariadbd --no-defaults --user=mysql --datadir=/etc/data/db --bind-address=0.0.0.0 --socket=/etc/data/socket --pid-file=/etc/data/pid --init-file=/etc/data/users.sql`,
			url: "mysql://kedge:" + password + "@tcp(ADDRESS:3306)/kedge",
		},
		{
			name:    "NATS",
			prepare: "true",
			run:     `exec nats-server -a 0.0.0.0 -p 4222 -js -sd /etc/data --user kedge --pass ` + password,
			url:     "nats://kedge:" + password + "@ADDRESS:4222",
		},
		{
			name: "etcd",
			prepare: `address=$(ip -4 -o addr show eth0 | sed 's/.* inet \([0-9.]*\).*/\1/')
				printf 'data-dir: /etc/data/db\nlisten-client-urls: http://0.0.0.0:2379\nadvertise-client-urls: http://%s:2379\nlisten-peer-urls: http://127.0.0.1:2380\nlog-level: warn\n' "$address" > /etc/data/etcd.yaml`,
			run: "exec " + etcd + " /etc/data/etcd.yaml",
			url: "http://ADDRESS:2379",
		},
	}
}

// TestExternalDatastore keeps a cluster's state in databases, which stop and
// come back while clients write.
func TestExternalDatastore(t *testing.T) {
	for _, db := range databases(t) {
		t.Run(db.name, func(t *testing.T) { testDatabase(t, db) })
	}
}

func testDatabase(t *testing.T, db database) {
	bed := testbed.New(t)
	far, node := newHost(t, bed, "db"), newHost(t, bed, "node")
	if out, err := far.Exec(t.Context(), "sh", "-euc", "mkdir -p /etc/data; "+db.prepare); err != nil {
		t.Fatal(err, out)
	}
	url := strings.ReplaceAll(db.url, "ADDRESS", far.Address.String())
	const endpoint = "/etc/kedge/endpoint"
	if err := os.MkdirAll(node.Path("/etc/kedge"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(node.Path(endpoint), []byte(url+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	launch := func() (kill func()) {
		t.Helper()
		cmd := far.Command(context.Background(), "sh", "-c", db.run)
		var output strings.Builder
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := far.StartCommand(cmd); err != nil {
			t.Fatal(err)
		}
		return func() {
			// All of it: PostgreSQL's processes outlive each other.
			_, _ = far.Run(context.Background(), nil, "sh", "-c", "kill -9 -1")
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("the database said\n%s", output.String())
			}
		}
	}

	up := func() *testbed.Process {
		t.Helper()
		server, err := node.Start("server", "--disable-agent", "--disable=coredns,ingress,metrics-server,local-storage,servicelb", "--datastore-endpoint=file:"+endpoint)
		if err != nil {
			t.Fatal(err)
		}
		return server
	}
	// Kedge may start before the database does.
	server := up()
	eventually(t, "the server to wait for the database", func() (bool, string) {
		return strings.Contains(server.Log(), "waiting for the datastore"), server.Log()
	})
	kill := launch()
	defer func() { kill() }()
	begin := time.Now()
	if err := server.WaitAPI(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	t.Logf("the API is ready %s after the database was started", time.Since(begin).Round(time.Millisecond))

	eventually(t, "the server to have started", func() (bool, string) {
		return strings.Contains(server.Log(), "timeline="), lastLine(server.Log(), "Z ")
	})

	// revive does what a service manager does. A server may end when the database
	// goes while it starts its controllers, with a line that says why.
	revive := func() {
		t.Helper()
		if server.Running() {
			return
		}
		lines := strings.Split(strings.TrimSpace(server.Log()), "\n")
		last := lines[len(lines)-1]
		if code, err := server.Wait(time.Second); err != nil || code != 1 || !strings.HasPrefix(last, "kedge: ") {
			t.Fatalf("the server has ended with code %d, %v, while the database was down:\n%s", code, err, server.Log())
		}
		t.Logf("the server has ended: %s", last)
		server = up()
	}

	a := newAPI(t, node)
	h := &history{known: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 2)
	for range cap(ended) {
		go func() { ended <- h.write(ctx, a) }()
	}
	for _, down := range []time.Duration{0, 3 * time.Second, 15 * time.Second} {
		time.Sleep(2 * time.Second)
		kill()
		time.Sleep(down)
		revive()
		kill = launch()
		begin := time.Now()
		eventually(t, "writes to go on", func() (bool, string) {
			revive()
			_, err := node.Kubectl(t.Context(), "annotate", "namespace/default", "--overwrite", "at="+time.Now().Format("150405.000"))
			if err == nil {
				_, err = a.do(t.Context(), "GET", "/api/v1/namespaces/default/configmaps?limit=1", nil)
			}
			return err == nil, lastLine(server.Log(), "Z ")
		})
		t.Logf("%s after a stop of %s the API writes again", time.Since(begin).Round(time.Millisecond), down)
		h.check(t, a)
	}
	cancel()
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	h.check(t, a)

	wantFailure(t, node, []string{"snapshot", "save"}, "external datastore")
	stop(t, server)
	log := server.Log()
	if strings.Contains(log, password) {
		t.Error("the password is in the log")
	}
	if db.name == "PostgreSQL" || db.name == "MariaDB" {
		wrong := strings.Replace(url, password, "wr0ng", 1)
		result, err := node.Run(t.Context(), nil, node.Binary, "server", "--disable-agent", "--datastore-endpoint="+wrong)
		lines := strings.Split(strings.TrimSpace(result.Stderr), "\n")
		last := lines[len(lines)-1]
		if err != nil || result.Code != 1 || !strings.Contains(last, "refuses Kedge") || strings.Contains(result.Stderr, "wr0ng") {
			t.Errorf("with a wrong password it ends with code %d, %v, and says %s", result.Code, err, result.Stderr)
		}
	}
}
