package install

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/pkg/version"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name         string
		args         []string
		environ      []string
		role         string
		service      string
		roleArgs     []string
		env          []string
		wrong        string
		symlink, bin string
	}{
		{name: "nothing", role: Server, service: "kedge"},
		{name: "options of the role", args: []string{"--disable", "ingress"}, role: Server, service: "kedge", roleArgs: []string{"--disable", "ingress"}},
		{name: "a role", args: []string{"agent", "--server", "https://a:1"}, role: Agent, service: "kedge-agent", roleArgs: []string{"--server", "https://a:1"}},
		{name: "a URL", environ: []string{"KEDGE_URL=https://a:1", "KEDGE_TOKEN=x", "HOME=/", "https_proxy=p", "KEDGE_LAUNCHER=/k"},
			role: Agent, service: "kedge-agent", env: []string{"KEDGE_SERVER=https://a:1", "KEDGE_TOKEN=x", "https_proxy=p"}},
		{name: "a server with a URL", args: []string{"server"}, environ: []string{"KEDGE_URL=https://a:1"}, role: Server, service: "kedge", env: []string{"KEDGE_SERVER=https://a:1"}},
		{name: "own options", args: []string{"--name=one", "--symlink", "skip", "server", "--name"}, environ: []string{"INSTALL_KEDGE_NAME=two", "INSTALL_KEDGE_BIN_DIR=/b/"},
			role: Server, service: "kedge-one", roleArgs: []string{"--name"}, symlink: "skip", bin: "/b"},
		{name: "a switch", args: []string{"--skip-start", "--debug"}, role: Server, service: "kedge", roleArgs: []string{"--debug"}},
		{name: "secrets", args: []string{"server", "--token", "x", "--debug", "--agent-token=y"}, environ: []string{"KEDGE_TOKEN=z"},
			role: Server, service: "kedge", roleArgs: []string{"--debug"}, env: []string{"KEDGE_AGENT_TOKEN=y", "KEDGE_TOKEN=x"}},
		{name: "k3s's names", environ: []string{"KEDGE_KUBECONFIG_MODE=644", "KEDGE_KUBECONFIG_GROUP=adm"}, role: Server, service: "kedge", env: []string{"KEDGE_WRITE_KUBECONFIG_GROUP=adm", "KEDGE_WRITE_KUBECONFIG_MODE=644"}},
		{name: "a type", environ: []string{"INSTALL_KEDGE_TYPE=agent"}, role: Agent, service: "kedge-agent"},
		{name: "a wrong role", args: []string{"sever"}, wrong: `"sever" is neither server nor agent`},
		{name: "a wrong switch", environ: []string{"INSTALL_KEDGE_SKIP_START=maybe"}, wrong: `INSTALL_KEDGE_SKIP_START: "maybe"`},
		{name: "a wrong name", args: []string{"--name", "a b"}, wrong: `--name: "a b"`},
		{name: "a missing value", args: []string{"--name"}, wrong: "--name: a value is missing"},
		{name: "a line break", environ: []string{"KEDGE_NODE_NAME=a\nb"}, wrong: "KEDGE_NODE_NAME holds a line break"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := Parse(test.args, test.environ)
			if test.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("got error %v, want %s", err, test.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Role != test.role || r.Name != test.service || !slices.Equal(r.Args, test.roleArgs) || !slices.Equal(r.Env, test.env) ||
				r.Symlink != test.symlink || r.BinDir != test.bin {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// nasty are words that every layer of quoting has to pass on.
var nasty = []string{`--kubelet-arg=a=b c`, `it's`, `100%`, `$HOME`, `a"b`, `back\slash`, "`id`", `semi;colon`, ``, `*`}

func TestUnit(t *testing.T) {
	text := unit(Request{Role: Server, BinDir: "/usr/local/bin", Args: nasty}, "/etc/env")
	for _, want := range []string{
		"ExecStart=/usr/local/bin/kedge \\\n\tserver \\\n\t", "Type=notify\n", "KillMode=process\n", "Delegate=yes\n", "EnvironmentFile=-/etc/env\n",
		"\t\"--kubelet-arg=a=b c\" \\\n", "\t\"it's\" \\\n", "\t100%% \\\n", "\t$$HOME \\\n", "\t\"a\\\"b\" \\\n", "\t\"back\\\\slash\" \\\n", "\t\"\" \\\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the unit lacks %q:\n%s", want, text)
		}
	}
}

// TestOpenRC has a shell read the script, as OpenRC and supervise-daemon do.
func TestOpenRC(t *testing.T) {
	dir := t.TempDir()
	env := filepath.Join(dir, "env")
	var variables []string
	for i, value := range nasty {
		variables = append(variables, "KEDGE_"+string(rune('A'+i))+"="+value)
	}
	if err := os.WriteFile(env, []byte(environmentText(variables)), 0o600); err != nil {
		t.Fatal(err)
	}
	text := openrcScript(Request{Role: Agent, BinDir: "/b", Args: nasty}, env)
	cmd := exec.Command("sh", "-c", text+`
eval "set -- $command_args"
printf '%s\n' "$command" "$@"
env | grep '^KEDGE_'
`)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "RC_SVCNAME=kedge"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := append([]string{"/b/kedge", "agent"}, nasty...)
	got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if left := got[min(len(want), len(got)):]; !slices.Equal(sorted(left), sorted(variables)) {
		t.Errorf("got variables %q, want %q", left, variables)
	}
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

func TestSystemdStatus(t *testing.T) {
	for show, want := range map[string]status{
		"ActiveState=active\nSubState=running\n":          ready,
		"ActiveState=activating\nSubState=start\n":        starting,
		"ActiveState=activating\nSubState=auto-restart\n": failing,
		"ActiveState=failed\nSubState=failed\n":           failing,
		"ActiveState=inactive\nSubState=dead\n":           stopped,
		"":                                                stopped,
	} {
		if got := systemdStatus(show); got != want {
			t.Errorf("%q is %d, want %d", show, got, want)
		}
	}
}

func TestFindSum(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	for sums, want := range map[string]string{
		sum + "  kedge-amd64\n":                         sum,
		sum + " *dist/kedge-amd64\n":                    sum,
		sum + "  kedge-arm64\n" + sum + "  kedge-amd64": sum,
		sum + "  kedge-arm64\n":                         "",
		"0a0a  kedge-amd64\n":                           "",
		"<html>not found</html>":                        "",
	} {
		if got := findSum(sums, "kedge-amd64"); got != want {
			t.Errorf("in %q found %q", sums, got)
		}
	}
}

func TestSourceBase(t *testing.T) {
	for _, test := range []struct {
		source Source
		want   string
	}{
		{Source{}, project + "/releases/latest/download"},
		{Source{Version: "v1.36.3+kedge1"}, project + "/releases/download/v1.36.3%2Bkedge1"},
		{Source{Version: "v1", Mirror: "http://m/"}, "http://m/releases/download/v1"},
		{Source{URL: "http://u/d/"}, "http://u/d"},
	} {
		if got, err := test.source.base(t.Context()); got != test.want || err != nil {
			t.Errorf("%+v: got %s, error %v, want %s", test.source, got, err, test.want)
		}
	}
}

// TestStall has a server that sends a part of a file, and then nothing.
func TestStall(t *testing.T) {
	saved := stallLimit
	t.Cleanup(func() { stallLimit = saved })
	stallLimit = 50 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if _, err := fetchFile(t.Context(), server.URL, file); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got error %v", err)
	}
}

func TestFollows(t *testing.T) {
	for _, test := range []struct {
		now, next string
		well      bool
	}{
		{"v1.36.3+kedge1", "v1.36.3+kedge1", true},
		{"v1.36.3+kedge1", "v1.37.0+kedge1", true},
		{"v1.36.3+kedge1", "v1.38.0+kedge1", false},
		{"v1.36.3+kedge1", "v1.36.2+kedge1", false},
		{"v1.36.3+kedge1", "v2.0.0+kedge1", false},
	} {
		if err := Follows(test.now, test.next); (err == nil) != test.well {
			t.Errorf("%s after %s: %v", test.next, test.now, err)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	saved := version.Version
	t.Cleanup(func() { version.Version = saved })
	version.Version = "v1.36.3+kedge1"
	i := Installer{DataDir: t.TempDir()}
	if err := i.checkVersion(); err != nil {
		t.Errorf("without data: %v", err)
	}
	stamp := filepath.Join(i.DataDir, Agent, "version")
	if err := os.Mkdir(filepath.Dir(stamp), 0o755); err != nil {
		t.Fatal(err)
	}
	for last, want := range map[string]string{"v1.35.1+kedge1": "", "v1.34.1+kedge1": "skips", "v1.36.3+kedge2": "older"} {
		if err := os.WriteFile(stamp, []byte(last+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := i.checkVersion(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("after %s: %v", last, err)
		}
	}
}

func TestMessage(t *testing.T) {
	for line, want := range map[string]string{
		"2026-11-20T10:35:52.123Z INFO  kubelet            ready took=1s": "kubelet            ready took=1s",
		"something else\n": "something else",
	} {
		if got := message(line); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestOwnFiles(t *testing.T) {
	dir := t.TempDir()
	i := Installer{Request: Request{Symlink: "force"}}
	var r Record
	for _, name := range []string{"kubectl", "crictl"} {
		if _, err := i.link(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		r.add(filepath.Join(dir, name))
	}
	r.add(filepath.Join(dir, "kedge"))
	// Somebody prefers a kubectl of their own.
	if err := errors.Join(os.Remove(r.Files[0]), os.WriteFile(r.Files[0], nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got := r.OwnFiles(); !slices.Equal(got, r.Files[1:]) {
		t.Errorf("got %q of %q", got, r.Files)
	}
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	for path, content := range map[string]string{from: "new", to: "old"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := keep(to, to+".previous"); err != nil {
		t.Fatal(err)
	}
	if err := replace(from, to); err != nil {
		t.Fatal(err)
	}
	if err := replace(to, to); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(to)
	content, _ := os.ReadFile(to)
	old, _ := os.ReadFile(to + ".previous")
	if err != nil || info.Mode() != 0o755 || string(content) != "new" || string(old) != "old" {
		t.Errorf("%v %v %q, previous %q", err, info.Mode(), content, old)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("left are %v", entries)
	}
}

// TestComplete puts scripts where the shells that are here look for them, each in one
// place.
func TestComplete(t *testing.T) {
	dir := t.TempDir()
	old := completions
	defer func() { completions = old }()
	completions = slices.Clone(completions)
	for i := range completions {
		completions[i].there = filepath.Join(dir, completions[i].there)
	}
	for _, there := range []string{"/usr/share/zsh/vendor-completions", "/usr/share/zsh/site-functions", "/usr/share/fish"} {
		if err := os.MkdirAll(filepath.Join(dir, there), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	i := Installer{Completions: map[string]string{"bash": "b", "zsh": "z", "fish": "f"}, Out: io.Discard}
	var r Record
	i.complete(&r)
	want := map[string]string{
		filepath.Join(dir, "/usr/share/zsh/vendor-completions/_kedge"):        "z",
		filepath.Join(dir, "/usr/share/fish/vendor_completions.d/kedge.fish"): "f",
	}
	if len(r.Files) != len(want) {
		t.Errorf("recorded for the uninstallation are %v", r.Files)
	}
	for path, script := range want {
		if content, err := os.ReadFile(path); err != nil || string(content) != script || !slices.Contains(r.Files, path) {
			t.Errorf("%s holds %q, error %v", path, content, err)
		}
	}
}
