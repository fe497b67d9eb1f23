//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/token"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// maxWriteGap is how long writes may pause when a server dies.
const maxWriteGap = 6 * time.Second

// quorum is a cluster of several servers.
type quorum struct {
	*fleet
	hosts     []*testbed.Host
	processes []*testbed.Process
}

// newQuorum makes hosts for servers, and starts the first one.
func newQuorum(t *testing.T, servers int, args ...string) *quorum {
	t.Helper()
	bed := testbed.New(t)
	q := &quorum{processes: make([]*testbed.Process, servers)}
	for i := range servers {
		q.hosts = append(q.hosts, newHost(t, bed, fmt.Sprintf("server-%d", i+1)))
	}
	q.fleet = &fleet{cluster: &cluster{node: q.hosts[0]}, bed: bed}
	q.run(t, 0, append([]string{"--cluster-init"}, args...)...)
	q.server = q.processes[0]
	return q
}

// start starts a server.
func (q *quorum) start(t *testing.T, i int, args ...string) {
	t.Helper()
	var err error
	if q.processes[i], err = q.hosts[i].Start(append([]string{"server"}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// run starts a server and waits until it is ready.
func (q *quorum) run(t *testing.T, i int, args ...string) {
	t.Helper()
	q.start(t, i, args...)
	q.ready(t, i)
}

func (q *quorum) ready(t *testing.T, i int) {
	t.Helper()
	if err := q.processes[i].WaitReady(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
}

func (q *quorum) url(i int) string { return "https://" + q.hosts[i].Address.String() + ":6443" }

// giveServerToken puts the cluster's token for servers on a host.
func (q *quorum) giveServerToken(t *testing.T, host *testbed.Host) {
	t.Helper()
	content, err := os.ReadFile(q.hosts[0].Path("/var/lib/kedge/server/token"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, host, "/etc/kedge/token", string(content), 0o600)
}

// joinArgs let a server join through another one.
func (q *quorum) joinArgs(through int) []string {
	return []string{"--server", q.url(through), "--token-file", "/etc/kedge/token"}
}

// endpoints waits until the Service kubernetes lists so many servers, as asked
// from one of them.
func (q *quorum) endpoints(t *testing.T, from, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d API servers to be listed", want), func() (bool, string) {
		out, err := q.hosts[from].Kubectl(t.Context(), "get", "endpointslices", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[0]}")
		return err == nil && len(strings.Fields(out)) == want, fmt.Sprint(out, err)
	})
}

// nodeReady waits until a node is Ready, as asked from a server.
func (q *quorum) nodeReady(t *testing.T, from int, name string) {
	t.Helper()
	eventually(t, "node "+name+" to be Ready", func() (bool, string) {
		out, err := q.hosts[from].Kubectl(t.Context(), "get", "node", name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return err == nil && out == "True", fmt.Sprint(out, err)
	})
}

// writer writes to one server's API all the time.
type writer struct {
	stop func()
	last atomic.Int64 // number of the last acknowledged write
	gap  atomic.Int64 // longest time between two
}

func (q *quorum) write(t *testing.T, to int) *writer {
	t.Helper()
	a := newAPI(t, q.hosts[to])
	a.client.Timeout = limit // a write that nobody answers is a pause, too
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	w := &writer{stop: func() { cancel(); <-done }}
	const path = "/api/v1/namespaces/default/configmaps"
	object := func(n int64) map[string]any {
		return map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]string{"name": "writer"}, "data": map[string]string{"n": fmt.Sprint(n)},
		}
	}
	if _, err := a.do(ctx, http.MethodPost, path, object(0)); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		acknowledged := time.Now()
		for n := int64(1); ctx.Err() == nil; n++ {
			if _, err := a.do(ctx, http.MethodPut, path+"/writer", object(n)); err == nil {
				w.gap.Store(max(w.gap.Load(), int64(time.Since(acknowledged))))
				acknowledged = time.Now()
				w.last.Store(n)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return w
}

// TestServers grows a cluster to three servers, and takes them away one by one.
func TestServers(t *testing.T) {
	t.Parallel()
	began := time.Now()
	step := func(format string, args ...any) {
		t.Logf("%5.1f s: %s", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	q := newQuorum(t, 3)
	step("the first server is ready")

	t.Run("refused", func(t *testing.T) {
		q.giveServerToken(t, q.hosts[1])
		agentToken, err := os.ReadFile(q.hosts[0].Path("/var/lib/kedge/server/agent-token"))
		if err != nil {
			t.Fatal(err)
		}
		put(t, q.hosts[1], "/etc/kedge/agent-token", string(agentToken), 0o600)
		bare, err := token.Parse(strings.TrimSpace(string(agentToken)))
		if err != nil {
			t.Fatal(err)
		}
		put(t, q.hosts[1], "/etc/kedge/bare-token", bare.Secret(), 0o600)
		server := q.url(0)
		// Unpacks the programs, of which it says something.
		if _, err := q.hosts[1].Kedge(t.Context(), "--version"); err != nil {
			t.Fatal(err)
		}
		for name, test := range map[string]struct{ args, want []string }{
			"other options": {append(q.joinArgs(0), "--flannel-backend=host-gw", "--cluster-domain=other.local"),
				[]string{"must agree", `flannel-backend is "vxlan" on this server and "host-gw"`, `cluster-domain is "cluster.local" on this server and "other.local"`}},
			"the agents' token":        {[]string{"--server", server, "--token-file", "/etc/kedge/agent-token"}, []string{"agents join", "server/token"}},
			"the agents' bare secret":  {[]string{"--server", server, "--token-file", "/etc/kedge/bare-token"}, []string{"only the token of servers"}},
			"no token":                 {[]string{"--server", server}, []string{"has not joined yet", "--token-file"}},
			"an argument of Kedge's":   {append(q.joinArgs(0), "--etcd-arg=data-dir=/x"), []string{"--etcd-arg", "data-dir is decided by Kedge"}},
			"an argument etcd has not": {append(q.joinArgs(0), "--etcd-arg=hartbeat=1"), []string{"--etcd-arg", `"hartbeat"`}},
		} {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				result, err := q.hosts[1].Run(ctx, nil, q.hosts[1].Binary, append([]string{"server"}, test.args...)...)
				if err != nil {
					t.Fatal(err)
				}
				last := lastLine(result.Stderr, "kedge: ")
				for _, want := range test.want {
					if result.Code <= 0 || !strings.Contains(last, want) {
						t.Errorf("ends with code %d and doesn't say %q, but: %s", result.Code, want, last)
					}
				}
				for _, left := range []string{"server/tls/server-ca.key", "server/db", "server/cred/encryption-config.json"} {
					if _, err := os.Stat(q.hosts[1].Path(filepath.Join("/var/lib/kedge", left))); err == nil {
						t.Errorf("%s is left", left)
					}
				}
			})
		}
	})

	for i := 1; i < 3; i++ { // at the same time
		q.giveServerToken(t, q.hosts[i])
		q.start(t, i, q.joinArgs(0)...)
	}
	a := &agent{name: "agent-1", host: newHost(t, q.bed, "agent-1")}
	q.join(t, a)
	for i := 1; i < 3; i++ {
		q.ready(t, i)
		q.nodeReady(t, i, fmt.Sprintf("server-%d", i+1))
	}
	q.nodeReady(t, 1, a.name)
	q.endpoints(t, 2, 3)
	step("two more servers and an agent are ready")
	for i := range q.hosts {
		name := fmt.Sprintf("server-%d", i+1)
		eventually(t, name+" to have its roles", func() (bool, string) {
			out, err := q.hosts[0].Kubectl(t.Context(), "get", "node", name, "--no-headers")
			return err == nil && strings.Contains(out, "control-plane,etcd"), fmt.Sprint(out, err)
		})
	}

	t.Run("a copied address", func(t *testing.T) {
		host := newHost(t, q.bed, "copy")
		q.giveServerToken(t, host)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		own := q.hosts[1].Address.String()
		result, err := host.Run(ctx, nil, host.Binary, append([]string{"server", "--advertise-address=" + own}, q.joinArgs(0)...)...)
		if err != nil {
			t.Fatal(err)
		}
		if last := lastLine(result.Stderr, "kedge: "); result.Code <= 0 || !strings.Contains(last, "a server runs at "+own) {
			t.Errorf("it ends with code %d and says: %s", result.Code, last)
		}
		q.endpoints(t, 1, 3)
		if !q.processes[1].Running() {
			t.Error("it has taken the other server's place")
		}
	})

	t.Run("the first server is killed", func(t *testing.T) {
		w := q.write(t, 1)
		time.Sleep(2 * time.Second)
		killed := w.last.Load()
		if err := q.processes[0].Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "writes to go on", func() (bool, string) {
			return w.last.Load() > killed+50, fmt.Sprint(killed, w.last.Load())
		})
		step("writes go on")
		eventually(t, "the controllers to run on another server", func() (bool, string) {
			_, _ = q.hosts[1].Kubectl(t.Context(), "create", "namespace", "afterwards")
			out, err := q.hosts[1].Kubectl(t.Context(), "get", "serviceaccount", "default", "-n", "afterwards", "-o", "name")
			return err == nil, fmt.Sprint(out, err)
		})
		step("another server leads")
		w.stop()
		t.Logf("longest pause of writes: %s, %d writes", time.Duration(w.gap.Load()).Round(time.Millisecond), w.last.Load())
		if gap := time.Duration(w.gap.Load()); gap > maxWriteGap {
			t.Errorf("writes paused for %s, want %s at most", gap, maxWriteGap)
		}
		// Whatever was acknowledged is there.
		out, err := q.hosts[2].Kubectl(t.Context(), "get", "configmap", "writer", "-o", "jsonpath={.data.n}")
		if err != nil || out != fmt.Sprint(w.last.Load()) && out != fmt.Sprint(w.last.Load()+1) {
			t.Errorf("the last write was %d, the object says %q, error %v", w.last.Load(), out, err)
		}
		q.endpoints(t, 1, 2)
		// The agent, which joined through the dead server, goes on with the others, and
		// comes up again with none but those it has learned of.
		q.nodeReady(t, 1, a.name)
		if _, _, err := a.process.Stop(30 * time.Second); err != nil {
			t.Fatal(err)
		}
		if a.process, err = a.host.Start("agent", "--server", q.url(0)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the agent to be Ready without the server it joined through", func() (bool, string) {
			return strings.Contains(a.process.Log(), "node is Ready"), a.process.Log()
		})
		step("the agent started without its first server")
		q.run(t, 0, "--cluster-init")
		q.endpoints(t, 0, 3)
		step("the killed server is back")
	})

	t.Run("a server that has lost its data", func(t *testing.T) {
		if err := q.processes[2].Kill(); err != nil {
			t.Fatal(err)
		}
		data := q.hosts[2].Path("/var/lib/kedge/server/db/etcd")
		if err := os.RemoveAll(filepath.Join(data, "member/wal")); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"server"}, {"server", "--cluster-init"}} {
			wantFailure(t, q.hosts[2], args, "its data is gone from", "--server")
		}
		if _, err := os.Stat(filepath.Join(data, "member/snap/db")); err != nil {
			t.Error("what was left is gone:", err)
		}
		q.run(t, 2, q.joinArgs(1)...)
		q.nodeReady(t, 2, "server-3")
		q.endpoints(t, 2, 3)
		if _, err := os.Stat(filepath.Join(data+"-lost", "member/snap/db")); err != nil {
			t.Error("what was left is gone:", err)
		}
		step("the server without data is back")
	})

	t.Run("a wiped server joins again", func(t *testing.T) {
		if err := q.processes[2].Kill(); err != nil {
			t.Fatal(err)
		}
		// Of a damaged database it says so, and what to do.
		if err := os.Truncate(q.hosts[2].Path("/var/lib/kedge/server/db/etcd/member/snap/db"), 8192); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		result, err := q.hosts[2].Run(ctx, nil, q.hosts[2].Binary, "server")
		if err != nil {
			t.Fatal(err)
		}
		if last := lastLine(result.Stderr, "kedge: "); result.Code != 1 || !strings.Contains(last, "etcd can't use the data") || !strings.Contains(last, "join again") {
			t.Errorf("it ends with code %d and says: %s", result.Code, last)
		}
		if err := os.RemoveAll(q.hosts[2].Path("/var/lib/kedge/server")); err != nil {
			t.Fatal(err)
		}
		q.run(t, 2, q.joinArgs(1)...)
		q.nodeReady(t, 2, "server-3")
		q.endpoints(t, 2, 3)
		step("the wiped server is back")
	})

	t.Run("a deleted node leaves etcd", func(t *testing.T) {
		if _, code, err := q.processes[2].Stop(30 * time.Second); err != nil || code != 0 {
			t.Fatalf("stopping ended with code %d, error %v", code, err)
		}
		if _, err := q.hosts[0].Kubectl(t.Context(), "delete", "node", "server-3"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "its member to be removed", func() (bool, string) {
			logs := q.processes[0].Log() + q.processes[1].Log()
			return strings.Contains(logs, "removed the member of a deleted node"), logs
		})
		q.run(t, 2, q.joinArgs(0)...)
		if !strings.Contains(q.processes[2].Log(), "was removed from the cluster's members") {
			t.Errorf("the server doesn't say that it was removed:\n%s", q.processes[2].Log())
		}
		q.endpoints(t, 2, 3)
		step("the removed server is back")
	})

	t.Run("no quorum", func(t *testing.T) {
		for _, i := range []int{0, 1} {
			if err := q.processes[i].Kill(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the last server to say that the quorum is lost", func() (bool, string) {
			return strings.Contains(q.processes[2].Log(), "etcd has lost its quorum"), q.processes[2].Log()
		})
		line := lastLine(q.processes[2].Log(), "lost its quorum")
		for _, host := range q.hosts[:2] {
			if !strings.Contains(line, host.Address.String()) {
				t.Errorf("the line doesn't name %s: %s", host.Address, line)
			}
		}
		// One of them comes back with another address.
		const moved = "198.18.0.111"
		if out, err := q.hosts[0].Exec(t.Context(), "ip", "addr", "add", moved+"/24", "dev", "eth0"); err != nil {
			t.Fatal(out, err)
		}
		q.run(t, 0, "--node-ip="+moved)
		if !strings.Contains(q.processes[0].Log(), "told the other servers the new address") {
			t.Errorf("the server doesn't say that its address has changed:\n%s", q.processes[0].Log())
		}
		eventually(t, "writes to go on", func() (bool, string) {
			out, err := q.hosts[2].Kubectl(t.Context(), "annotate", "--overwrite", "node", "server-3", "test/written=true")
			return err == nil, fmt.Sprint(out, err)
		})
		step("there is a quorum again")
	})
}

// TestServersAtOnce starts all servers at the same moment, again and again, and
// takes them away without a node of theirs to delete.
func TestServersAtOnce(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	q := &quorum{processes: make([]*testbed.Process, 3)}
	for i := range q.processes {
		host := newHost(t, bed, fmt.Sprintf("server-%d", i+1))
		put(t, host, "/etc/kedge/token", "chosen-before-there-was-a-server\n", 0o600)
		q.hosts = append(q.hosts, host)
	}
	q.fleet = &fleet{cluster: &cluster{node: q.hosts[0]}, bed: bed}
	bare := []string{"--disable-agent", "--disable=coredns,ingress,metrics-server,local-storage,servicelb"}
	startAll := func(t *testing.T, args ...[]string) {
		t.Helper()
		for i := range q.hosts {
			q.start(t, i, append(args[min(i, len(args)-1)], bare...)...)
		}
		for i, process := range q.processes {
			if err := process.WaitAPI(t.Context(), limit); err != nil {
				t.Fatal(err)
			}
			q.endpoints(t, i, 3)
		}
	}
	// members are the nodes with a member that answers, and those with one that doesn't.
	members := func(t *testing.T, from int) (answer, silent []string) {
		t.Helper()
		out, err := q.hosts[from].Kedge(t.Context(), "etcd", "member", "list", "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		var list []struct {
			Name, Address          string
			Learner, Self, Answers bool
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			node := m.Name[:strings.LastIndexByte(m.Name, '-')]
			if m.Answers {
				answer = append(answer, node)
			} else {
				silent = append(silent, node)
			}
			if m.Learner || m.Self != (node == q.hosts[from].Name) || m.Address != q.hosts[from].Address.String()+":2380" == m.Self {
				t.Errorf("as asked from %s, a member is %+v", q.hosts[from].Name, m)
			}
		}
		return answer, silent
	}

	startAll(t, []string{"--cluster-init", "--token-file", "/etc/kedge/token"}, q.joinArgs(0))
	if answer, silent := members(t, 1); len(answer) != 3 || len(silent) != 0 {
		t.Errorf("%s answer, and %s don't", answer, silent)
	}
	for _, process := range q.processes { // as if their power were cut
		if err := process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	startAll(t, nil)

	host := q.hosts[0]
	wantFailure(t, host, []string{"etcd", "member", "remove"}, "name one member")
	wantFailure(t, host, []string{"etcd", "member", "remove", "server-4"}, `no member "server-4", but server-1-`, "server-2-", "server-3-")
	wantFailure(t, host, []string{"etcd", "member", "remove", "server-1"}, "on another server")
	wantFailure(t, host, []string{"etcd", "member", "remove", "server-3"}, "still runs at "+q.hosts[2].Address.String()+":2380")
	wantFailure(t, host, []string{"etcd", "member", "lst"}, `did you mean "list"`, "kedge etcd member --help")
	if err := q.processes[2].Kill(); err != nil {
		t.Fatal(err)
	}
	if answer, silent := members(t, 0); len(answer) != 2 || len(silent) != 1 || silent[0] != "server-3" {
		t.Errorf("%s answer, and %s don't", answer, silent)
	}
	if out, err := host.Kedge(t.Context(), "etcd", "member", "remove", "server-3"); err != nil || !strings.Contains(out, "The member server-3-") {
		t.Fatal(out, err)
	}
	if answer, silent := members(t, 1); len(answer) != 2 || len(silent) != 0 {
		t.Errorf("%s answer, and %s don't", answer, silent)
	}
	if err := q.processes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, host, []string{"etcd", "member", "remove", "server-2"}, "no quorum", "--cluster-reset")
}

// TestFromSQLite takes the state of a cluster over into etcd.
func TestFromSQLite(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node")}
	c.start(t)
	if _, err := c.node.Kubectl(t.Context(), "create", "configmap", "kept", "--from-literal=key=value"); err != nil {
		t.Fatal(err)
	}
	identities := func() string {
		t.Helper()
		out, err := c.node.Kubectl(t.Context(), "get", "nodes,services,secrets,serviceaccounts,configmaps,deployments,namespaces", "-A",
			"-o", `jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid}{"\n"}{end}`)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	version := func() int {
		t.Helper()
		out, err := c.node.Kubectl(t.Context(), "get", "--raw", "/api/v1/namespaces/default/configmaps")
		if err != nil {
			t.Fatal(err)
		}
		var list struct {
			Metadata struct{ ResourceVersion string }
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(list.Metadata.ResourceVersion)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before, revision := identities(), version()
	stop(t, c.server)
	// An earlier attempt was cut short.
	put(t, c.node, "/var/lib/kedge/server/db/etcd.migrating/member/snap/db", "half", 0o600)
	c.start(t, "--cluster-init")
	t.Log(lastLine(c.server.Log(), "took the state of SQLite over"))
	after := identities()
	for object := range strings.Lines(before) {
		if !strings.Contains(after, object) {
			t.Errorf("%s is gone, or another one", strings.TrimSpace(object))
		}
	}
	if now := version(); now <= revision {
		t.Errorf("the revision was %d and is %d: clients would wait in silence", revision, now)
	}
	db := c.node.Path("/var/lib/kedge/server/db")
	for name, want := range map[string]bool{"state.db": false, "state.db.before-etcd": true, "etcd.migrating": false} {
		if _, err := os.Stat(filepath.Join(db, name)); (err == nil) != want {
			t.Errorf("%s exists: %v, want %v", name, err == nil, want)
		}
	}
	stop(t, c.server)
	wantFailure(t, c.node, []string{"snapshot", "restore", "any"}, "there is no snapshot any")
	// As if it had been cut short at its end.
	if err := os.Rename(filepath.Join(db, "state.db.before-etcd"), filepath.Join(db, "state.db")); err != nil {
		t.Fatal(err)
	}
	c.start(t) // goes on with etcd
	if _, err := os.Stat(filepath.Join(db, "state.db.before-etcd")); err != nil {
		t.Error("the old file is not set aside again:", err)
	}
	if out, err := c.node.Kubectl(t.Context(), "get", "configmap", "kept", "-o", "jsonpath={.data.key}"); err != nil || out != "value" {
		t.Errorf("the object is %q, error %v", out, err)
	}

	// What a further server gets is all of it, of the same revision.
	q := &quorum{fleet: &fleet{cluster: c, bed: bed}, hosts: []*testbed.Host{c.node, newHost(t, bed, "second")}, processes: []*testbed.Process{c.server, nil}}
	q.giveServerToken(t, q.hosts[1])
	q.run(t, 1, q.joinArgs(0)...)
	if out, err := q.hosts[1].Kubectl(t.Context(), "get", "configmap", "kept", "-o", "jsonpath={.data.key} {.metadata.uid}"); err != nil || !strings.HasPrefix(out, "value ") {
		t.Errorf("the second server says %q, error %v", out, err)
	}
	revisions := map[string]bool{}
	for _, host := range q.hosts {
		out, err := host.Kubectl(t.Context(), "get", "--raw", "/api/v1/namespaces/default/configmaps/kept")
		if err != nil {
			t.Fatal(err)
		}
		revisions[out] = true
	}
	if len(revisions) != 1 {
		t.Errorf("the servers differ: %v", revisions)
	}
	// etcd compares the members' content when one starts.
	stop(t, q.processes[1])
	q.run(t, 1, q.joinArgs(0)...)
}
