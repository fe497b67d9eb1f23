//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

const (
	serverDir = "/var/lib/kedge/server/"
	etcdDir   = serverDir + "db/etcd"
)

// TestClusterReset makes other clusters of snapshots of embedded etcd, and of
// the one server that is left of three.
func TestClusterReset(t *testing.T) {
	t.Parallel()
	began := time.Now()
	step := func(format string, args ...any) {
		t.Logf("%5.1f s: %s", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	noAddOns := "--disable=coredns,ingress,metrics-server,local-storage,servicelb"
	q := newQuorum(t, 3, noAddOns)
	step("the first server is ready")
	kedge := func(t *testing.T, host *testbed.Host, args ...string) string {
		t.Helper()
		out, err := host.Kedge(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	kubectl := func(t *testing.T, host *testbed.Host, args ...string) string {
		t.Helper()
		return kedge(t, host, append([]string{"kubectl"}, args...)...)
	}
	save := func(t *testing.T, host *testbed.Host) string {
		t.Helper()
		return strings.Fields(kedge(t, host, "snapshot", "save"))[1]
	}
	has := func(t *testing.T, host *testbed.Host, name string, want bool) {
		t.Helper()
		out, err := host.Kubectl(t.Context(), "get", "configmap", name, "--ignore-not-found", "-o", "name")
		if err != nil || strings.Contains(out, name) != want {
			t.Errorf("%s: the object %s is there: %q, want %v, error %v", host.Name, name, out, want, err)
		}
	}
	// members wants a server's etcd to have so many members.
	members := func(t *testing.T, from, want int) {
		t.Helper()
		q.endpoints(t, from, want)
		eventually(t, fmt.Sprintf("%d nodes of members of etcd to be Ready", want), func() (bool, string) {
			out, err := q.hosts[from].Kubectl(t.Context(), "get", "nodes", "-l", "node-role.kubernetes.io/etcd=true", "-o",
				`jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
			return err == nil && strings.Count(out, " True\n") == want, fmt.Sprint(out, err)
		})
	}
	join := func(through int) []string { return append(q.joinArgs(through), noAddOns) }
	wipe := func(t *testing.T, i int) {
		t.Helper()
		if err := os.RemoveAll(q.hosts[i].Path(etcdDir)); err != nil {
			t.Fatal(err)
		}
	}
	// refused wants a server to end by itself, and say why in its last line.
	refused := func(t *testing.T, host *testbed.Host, args []string, texts ...string) {
		t.Helper()
		result, err := host.Run(t.Context(), nil, host.Binary, append([]string{"server"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if last := lastLine(result.Stderr, "kedge: "); result.Code != 1 || !strings.Contains(last, text) {
				t.Errorf("%s ends with code %d, and doesn't say %q, but: %s", host.Name, result.Code, text, last)
			}
		}
	}
	kill := func(t *testing.T, servers ...int) {
		t.Helper()
		for _, i := range servers {
			if err := q.processes[i].Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}

	one := q.hosts[0]
	kubectl(t, one, "create", "configmap", "early", "--from-literal=a=b")
	kubectl(t, one, "create", "secret", "generic", "early", "--from-literal=a=hidden")
	uid := kubectl(t, one, "get", "configmap", "early", "-o", "jsonpath={.metadata.uid}")
	first := save(t, one)
	kubectl(t, one, "create", "configmap", "late", "--from-literal=a=b")
	bare := newHost(t, q.bed, "bare")
	q.giveServerToken(t, bare)

	t.Run("refused", func(t *testing.T) {
		kedge(t, bare, "version") // unpacks
		wantFailure(t, one, []string{"server", "--cluster-reset"}, "another server is running")
		wantFailure(t, bare, []string{"server", "--cluster-reset"}, "there is no etcd", "kedge snapshot restore")
		wantFailure(t, bare, []string{"server", "--cluster-reset-restore-path=x"}, "without cluster-reset")
		wantFailure(t, bare, []string{"server", "--cluster-reset", "--cluster-reset-restore-path=/etc/none.tar"}, "--token-file")
	})

	t.Run("a bare machine", func(t *testing.T) {
		content, err := os.ReadFile(one.Path(serverDir + "db/snapshots/" + first + ".tar"))
		if err != nil {
			t.Fatal(err)
		}
		put(t, bare, "/etc/backup/one.tar", string(content), 0o600)
		flipped := append([]byte{}, content...)
		flipped[len(flipped)/2] ^= 1
		put(t, bare, "/etc/backup/flipped.tar", string(flipped), 0o600)
		wantFailure(t, bare, []string{"snapshot", "restore", "--token-file=/etc/kedge/token", "/etc/backup/flipped.tar"}, "damaged")
		if out := kedge(t, bare, "snapshot", "restore", "--token-file=/etc/kedge/token", "/etc/backup/one.tar"); !strings.Contains(out, "start the server now") {
			t.Errorf("restore says %s", out)
		}
		server, err := bare.Start("server", "--disable-agent", noAddOns)
		if err != nil {
			t.Fatal(err)
		}
		if err := server.WaitAPI(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		has(t, bare, "late", false)
		if got := kubectl(t, bare, "get", "configmap", "early", "-o", "jsonpath={.metadata.uid}"); got != uid {
			t.Errorf("the object is %s, and was %s", got, uid)
		}
		if got := kubectl(t, bare, "get", "secret", "early", "-o", "jsonpath={.data.a}"); got != "aGlkZGVu" {
			t.Errorf("the Secret holds %q", got)
		}
		if out := kedge(t, bare, "snapshot", "verify", save(t, bare)); !strings.Contains(out, "is good") {
			t.Errorf("verify says %s", out)
		}
		kubectl(t, bare, "create", "configmap", "afterwards")
		// Of a server that does not run, one takes a copy of what it had.
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		stopped := save(t, bare)
		kedge(t, bare, "snapshot", "restore", stopped)
		if server, err = bare.Start("server", "--disable-agent", noAddOns); err != nil {
			t.Fatal(err)
		}
		if err := server.WaitAPI(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		has(t, bare, "afterwards", true)
		stop(t, server)
		step("a bare machine has gone on from the snapshot")
	})

	for i := range 3 {
		q.giveServerToken(t, q.hosts[i])
	}
	for i := 1; i < 3; i++ { // at the same time
		q.start(t, i, join(0)...)
	}
	for i := 1; i < 3; i++ {
		q.ready(t, i)
	}
	members(t, 2, 3)
	step("three servers are ready")

	t.Run("each server takes its own", func(t *testing.T) {
		own := save(t, q.hosts[2])
		if !strings.Contains(own, "-server-3-") {
			t.Errorf("the snapshot is called %s", own)
		}
		if list := kedge(t, q.hosts[2], "snapshot", "list"); !strings.Contains(list, own) || strings.Contains(list, first) {
			t.Errorf("the list is\n%s", list)
		}
		for _, name := range []string{first, own} {
			kubectl(t, one, "wait", "--for=create", "snapshot/local-"+name, "--timeout=60s")
		}
	})

	t.Run("two of three are lost", func(t *testing.T) {
		three := q.hosts[2]
		kubectl(t, three, "create", "configmap", "last", "--from-literal=a=b")
		kill(t, 0, 1, 2)
		reset := append([]string{"server", "--cluster-reset"}, join(0)...)
		out := kedge(t, three, reset...)
		for _, want := range []string{etcdDir + "-before-reset-", "without --cluster-reset", "move " + etcdDir + " away"} {
			if !strings.Contains(out, want) {
				t.Errorf("it doesn't say %q, but\n%s", want, out)
			}
		}
		wantFailure(t, three, reset, "was reset at", "remove the option", serverDir+"db/reset-flag")
		// A power cut at its end.
		if err := os.Remove(three.Path(serverDir + "db/reset-flag")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(three.Path(etcdDir), three.Path(etcdDir+".reset")); err != nil {
			t.Fatal(err)
		}
		refused(t, three, join(0), "a reset of etcd was cut short", "kedge server --cluster-reset")
		kedge(t, three, reset...)
		step("the last server is reset")

		q.run(t, 2, join(0)...) // the server that it once joined is dead
		q.endpoints(t, 2, 1)
		has(t, three, "last", true)
		kubectl(t, three, "create", "configmap", "alone", "--from-literal=a=b")
		if _, err := os.Stat(three.Path(serverDir + "db/reset-flag")); err == nil {
			t.Error("the flag is still there")
		}
		if aside, _ := filepath.Glob(three.Path(etcdDir + "-before-reset-*/member/wal")); len(aside) != 1 {
			t.Errorf("the data from before is %v", aside)
		}
		step("the last server goes on alone")

		// A lost one that comes back as it was hears that it is out.
		refused(t, one, []string{"--cluster-init", noAddOns}, "was removed from the members of etcd")
		step("a lost server is refused")
		wipe(t, 0)
		q.run(t, 0, join(2)...)
		q.run(t, 1, join(2)...) // which moves its data away itself
		members(t, 0, 3)
		for _, host := range q.hosts {
			has(t, host, "last", true)
			has(t, host, "alone", true)
		}
		step("there are three members again")
	})

	t.Run("a snapshot, on three servers", func(t *testing.T) {
		seen := kubectl(t, one, "get", "configmap", "alone", "-o", "jsonpath={.metadata.resourceVersion}")
		kill(t, 0, 1, 2)
		out := kedge(t, one, "server", "--cluster-reset", "--cluster-reset-restore-path="+first, noAddOns)
		for _, want := range []string{"is back at snapshot " + first, "before-restore-", "without --cluster-reset", "move " + etcdDir + " away"} {
			if !strings.Contains(out, want) {
				t.Errorf("it doesn't say %q, but\n%s", want, out)
			}
		}
		q.run(t, 0, noAddOns)
		has(t, one, "early", true)
		has(t, one, "late", false)
		kubectl(t, one, "create", "configmap", "again", "--from-literal=a=b")
		if now := kubectl(t, one, "get", "configmap", "again", "-o", "jsonpath={.metadata.resourceVersion}"); len(now) < len(seen) || len(now) == len(seen) && now <= seen {
			t.Errorf("revision %s follows %s: clients would wait in silence", now, seen)
		}
		step("the first server goes on from the snapshot")
		refused(t, q.hosts[1], join(0), "another cluster of etcd", etcdDir)
		for _, i := range []int{1, 2} {
			wipe(t, i)
			q.run(t, i, join(0)...)
		}
		members(t, 2, 3)
		for _, host := range q.hosts {
			has(t, host, "again", true)
			has(t, host, "last", false)
		}
		step("there are three members again")
	})
}
