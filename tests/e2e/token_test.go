//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/token"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// TestToken makes, shows, uses and removes tokens.
func TestToken(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	s := f.sandbox(t)
	stranger := newHost(t, f.bed, "stranger")
	if _, err := stranger.Kedge(t.Context(), "version"); err != nil { // unpacks
		t.Fatal(err)
	}
	// run runs a command of the server, which says nothing on standard error.
	run := func(t *testing.T, args ...string) string {
		t.Helper()
		result, err := f.node.Run(t.Context(), nil, f.node.Binary, append([]string{"token"}, args...)...)
		if err != nil || result.Code != 0 || result.Stderr != "" {
			t.Fatalf("kedge token %s: error %v, code %d: %s", strings.Join(args, " "), err, result.Code, result.Stderr)
		}
		return strings.TrimSpace(result.Stdout)
	}
	// parse reads a token in its full form.
	parse := func(t *testing.T, text string) token.Token {
		t.Helper()
		parsed, err := token.Parse(text)
		if err != nil || parsed.CAHash == "" {
			t.Fatalf("%q is no full token: %v", text, err)
		}
		return parsed
	}
	// refused wants a machine to be kept out.
	refused := func(t *testing.T, text, reason string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		result, err := stranger.Run(ctx, strings.NewReader(text), "sh", "-c",
			`read -r KEDGE_TOKEN; export KEDGE_TOKEN; exec "$0" agent --server "$1"`, stranger.Binary, f.serverURL())
		if err != nil || result.Code != 1 || !strings.Contains(result.Stderr, reason) {
			t.Errorf("error %v, code %d; want %q in: %s", err, result.Code, reason, result.Stderr)
		}
	}
	// joins wants a new machine to be let in.
	joins := func(t *testing.T, name, text string) {
		t.Helper()
		host := newHost(t, f.bed, name)
		if err := os.MkdirAll(host.Path("/etc/kedge"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(host.Path("/etc/kedge/token"), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		process, err := host.Start("agent", "--server", f.serverURL(), "--token-file", "/etc/kedge/token")
		if err != nil {
			t.Fatal(err)
		}
		f.waitNode(t, name)
		stop(t, process)
	}

	// joinsBy wants a new machine to be let in by a command that is typed there, and
	// its secret to be in no command line.
	joinsBy := func(t *testing.T, name, command, secret string) {
		t.Helper()
		host := newHost(t, f.bed, name)
		// A sudo that stays, as the real one does, and the kedge file in its place.
		script := "#!/bin/sh\n\"$@\"\n"
		for path, content := range map[string]string{"/usr/local/bin/sudo": script, "/usr/local/bin/kedge": "#!/bin/sh\nexec " + host.Binary + " \"$@\"\n"} {
			if err := os.MkdirAll(filepath.Dir(host.Path(path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(host.Path(path), []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		shell := host.Command(t.Context(), "sh")
		shell.Stdin = strings.NewReader("PATH=/usr/local/bin:$PATH\n" + command + "\n")
		if err := host.StartCommand(shell); err != nil {
			t.Fatal(err)
		}
		f.waitNode(t, name)
		lines, err := host.Exec(t.Context(), "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
		if err != nil || strings.Contains(lines, secret) || !strings.Contains(lines, "sudo kedge agent") {
			t.Errorf("the processes, error %v: %s", err, lines)
		}
		if info, err := os.Stat(host.Path("/etc/kedge/token")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the token's file is %v, error %v", info, err)
		}
		if err := host.PowerCut(); err != nil {
			t.Error(err)
		}
		_ = shell.Wait() // it was cut off
	}

	t.Run("create, join, delete", func(t *testing.T) {
		text := run(t, "create", "--ttl", "2h", "--usages", "authentication", "--description", "for a lab", "--groups", "system:bootstrappers:labs")
		made := parse(t, text)
		joins(t, "newcomer", text)

		list := run(t, "list")
		for _, want := range []string{made.BootstrapID, "authentication", "for a lab", "system:bootstrappers:labs"} {
			if !strings.Contains(list, want) {
				t.Errorf("%q is not in the list:\n%s", want, list)
			}
		}
		if strings.Contains(list, made.Secret()) {
			t.Errorf("the list shows the secret:\n%s", list)
		}
		if list := run(t, "list", "--show-secrets"); !strings.Contains(list, text) {
			t.Errorf("the list does not show the token:\n%s", list)
		}
		var items []struct {
			ID, Token string
			Expires   time.Time
		}
		if err := json.Unmarshal([]byte(run(t, "list", "-o", "json")), &items); err != nil {
			t.Fatal(err)
		}
		if len(items) != 1 || items[0].ID != made.BootstrapID || items[0].Token != "" || time.Until(items[0].Expires) > 2*time.Hour || time.Until(items[0].Expires) < time.Hour {
			t.Errorf("as JSON the list is %+v", items)
		}
		s.check("the type", s.kubectl("--namespace", "kube-system", "get", "secret", "bootstrap-token-"+made.BootstrapID, "-o", "jsonpath={.type}"), "bootstrap.kubernetes.io/token")

		run(t, "delete", made.BootstrapID)
		refused(t, text, "kedge token create")
		wantFailure(t, f.node, []string{"token", "delete", made.BootstrapID}, "there is no token with the ID "+made.BootstrapID)
	})

	t.Run("end", func(t *testing.T) {
		made := parse(t, run(t, "create", "--ttl", "2s"))
		eventually(t, "the token to be cleared away", func() (bool, string) {
			out, err := f.node.Kubectl(t.Context(), "--namespace", "kube-system", "get", "secret", "bootstrap-token-"+made.BootstrapID)
			return err != nil && strings.Contains(err.Error(), "NotFound"), fmt.Sprint(out, err)
		})
	})

	t.Run("given", func(t *testing.T) {
		given := run(t, "generate")
		if list := run(t, "list"); strings.Contains(list, given[:6]) {
			t.Errorf("a token was made that was only to be generated:\n%s", list)
		}
		result, err := f.node.Run(t.Context(), nil, f.node.Binary, "token", "create", "--ttl=0", "--print-join-command", given)
		if err != nil || result.Code != 0 || !strings.Contains(result.Stderr, "never ends") {
			t.Fatalf("error %v, code %d: %s", err, result.Code, result.Stderr)
		}
		command, isOneLine := strings.CutSuffix(result.Stdout, "\n")
		if !isOneLine || strings.Contains(command, "\n") || strings.Count(command, given) != 1 || !strings.Contains(command, "::"+given+" | ") {
			t.Errorf("the command is %q", result.Stdout)
		}
		joinsBy(t, "pasted", command, given)
		wantFailure(t, f.node, []string{"token", "create", given}, "there is a token with the ID "+given[:6])
		run(t, "delete", given) // whole tokens are taken as well
	})

	t.Run("refused", func(t *testing.T) {
		for _, test := range []struct {
			host  *testbed.Host
			args  []string
			texts []string
		}{
			{f.node, []string{"create", "abcdef.0123456789abcdef", "--ttl=1h"}, []string{`"--ttl=1h"`, "options come before"}},
			{f.node, []string{"create", "nonsense"}, []string{"<id>.<secret>", "kedge token generate"}},
			{f.node, []string{"create", "K10" + strings.Repeat("0", 64) + "::abcdef.0123456789abcdef"}, []string{"another cluster"}},
			{f.node, []string{"create", "--ttl=-1h"}, []string{"--ttl"}},
			{f.node, []string{"create", "--usages=join"}, []string{`"join"`, "authentication"}},
			{f.node, []string{"create", "--groups=system:masters"}, []string{`"system:masters"`, "system:bootstrappers:"}},
			{f.node, []string{"delete"}, []string{"kedge token list"}},
			{f.node, []string{"delete", "nonsense"}, []string{"kedge token list"}},
			{f.node, []string{"list", "-o", "yaml"}, []string{`"yaml"`, "json"}},
			{f.node, []string{"lst"}, []string{`did you mean "list"?`}},
			{f.node, []string{"create", "--tll=1h"}, []string{`did you mean "--ttl"?`}},
			{stranger, []string{"list"}, []string{"there is no cluster", "sudo kedge server", "--kubeconfig"}},
			{stranger, []string{"rotate"}, []string{"no Kedge is running here", "start the server"}},
			{f.agents[0].host, []string{"rotate"}, []string{"is an agent"}},
		} {
			wantFailure(t, test.host, append([]string{"token"}, test.args...), test.texts...)
		}
	})

	t.Run("rotate", func(t *testing.T) {
		read := func(name string) string {
			content, err := os.ReadFile(f.node.Path("/var/lib/kedge/server/" + name))
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(content))
		}
		server, agentToken := read("token"), read("agent-token")
		if out := run(t, "rotate"); strings.Contains(out, parse(t, read("token")).Secret()) {
			t.Errorf("the new secret is shown: %s", out)
		}
		if !f.server.Running() {
			t.Error("the server has ended")
		}
		if read("token") == server || read("agent-token") == agentToken || read("node-token") != read("token") {
			t.Error("the files hold the old tokens")
		}
		for _, old := range []string{server, agentToken, parse(t, server).Secret()} {
			refused(t, old, "not, or no longer, one of this cluster")
		}
		// Who has joined goes on, whatever token it is given.
		a := f.agents[0]
		stop(t, a.process)
		var err error
		if a.process, err = a.host.Start("agent", "--server", f.serverURL(), "--token-file", "/etc/kedge/token"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the agent to be Ready again", func() (bool, string) {
			return strings.Contains(a.process.Log(), "node is Ready"), lastLine(a.process.Log(), "Z ")
		})
		f.waitNode(t, a.name)
		// The new tokens outlive a restart.
		rotated := read("agent-token")
		stop(t, f.server)
		f.start(t)
		if read("agent-token") != rotated {
			t.Error("the start has changed the token")
		}
		refused(t, agentToken, "not, or no longer, one of this cluster")
		joins(t, "other", rotated)
	})

	t.Run("configured", func(t *testing.T) {
		stop(t, f.server)
		f.start(t, "--token", "a-secret-of-my-own")
		wantFailure(t, f.node, []string{"token", "rotate"}, "--token-file", "restart")
	})

	t.Run("no answer", func(t *testing.T) {
		stop(t, f.server)
		wantFailure(t, f.node, []string{"token", "list"}, "does not answer", "https://127.0.0.1:6443")
		wantFailure(t, f.node, []string{"token", "rotate"}, "no Kedge is running here")
	})
}
