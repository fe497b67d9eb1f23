package config

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestDataDir(t *testing.T) {
	dir := tree(t, map[string]string{
		"default.yaml":          "node-name: a\ndata-dir: /default\n",
		"other.yaml":            "data-dir: /other\n",
		"dropin.yaml.d/1.yaml":  "data-dir: /one\n",
		"dropin.yaml.d/2.yaml":  "data-dir: /two\nunknown: 1\n",
		"dropin.yaml.d/3.yaml":  "debug: true\n",
		"malformed.yaml":        "data-dir: /x\n  y: [\n",
		"half.yaml":             "data-dir: /x\n",
		"half.yaml.d/1.yaml":    "{",
		"list.yaml":             "data-dir: [/x]\n",
		"null.yaml":             "data-dir:\n",
		"none.yaml":             "debug: true\n",
		"text.yaml":             "hello\n",
		"directory.yaml/a.yaml": "",
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	t.Chdir(dir)
	tests := []struct {
		name     string
		args     string
		env      string
		fallback string
		want     string
	}{
		{"nothing", "server", "", "missing.yaml", DefaultDataDir},
		{"no arguments", "", "", "missing.yaml", DefaultDataDir},
		{"default file", "server", "", "default.yaml", "/default"},
		{"drop-ins", "server", "", "dropin.yaml", "/two"},
		{"no such option in the file", "server", "", "none.yaml", DefaultDataDir},
		{"--config X", "server --config " + at("other.yaml"), "", "default.yaml", "/other"},
		{"--config=X", "server --config=" + at("other.yaml"), "", "default.yaml", "/other"},
		{"-c X", "server -c " + at("other.yaml"), "", "default.yaml", "/other"},
		{"KEDGE_CONFIG", "server", "KEDGE_CONFIG=" + at("other.yaml"), "default.yaml", "/other"},
		{"--config before KEDGE_CONFIG", "server -c default.yaml", "KEDGE_CONFIG=" + at("other.yaml"), "none.yaml", "/default"},
		{"KEDGE_DATA_DIR", "server -c other.yaml", "KEDGE_DATA_DIR=/env", "default.yaml", "/env"},
		{"--data-dir X", "server --data-dir /flag", "KEDGE_DATA_DIR=/env", "default.yaml", "/flag"},
		{"--data-dir=X", "server --data-dir=/flag", "KEDGE_DATA_DIR=/env", "default.yaml", "/flag"},
		{"-d X", "server -d /flag", "", "default.yaml", "/flag"},
		{"-d=X", "server -d=/flag", "", "default.yaml", "/flag"},
		{"-data-dir X", "server -data-dir /flag", "", "default.yaml", "/flag"},
		{"the last flag", "server -d /a --data-dir /b", "", "default.yaml", "/b"},
		{"a line to be completed", "server --d --generate-bash-completion", "", "default.yaml", DefaultDataDir},
		{"before the command", "-d /flag server", "", "default.yaml", "/flag"},
		{"relative", "server -d data/", "", "default.yaml", at("data")},
		{"behind a switch", "server --debug -d /flag", "", "default.yaml", "/flag"},
		{"a value like the flag", "server --node-name -d --log /x", "", "default.yaml", "/default"},
		{"an agent's", "agent --server https://h:6443 -t x -d /flag", "", "default.yaml", "/flag"},
		{"an agent's values like the flag", "agent -s -d --lb-server-port -d -t -c", "", "default.yaml", "/default"},
		{"an agent's file", "agent -s https://h -c " + at("other.yaml"), "", "default.yaml", "/other"},
		{"behind --", "server -- -d /flag", "", "default.yaml", "/default"},
		{"without a value", "server --data-dir", "", "default.yaml", DefaultDataDir},
		{"empty", "server --data-dir=", "", "default.yaml", DefaultDataDir},
		{"kubectl's own flags", "kubectl exec pod -- base64 -d /flag", "", "default.yaml", "/default"},
		{"kubectl's container", "kubectl logs pod -c other.yaml", "", "default.yaml", "/default"},
		{"before kubectl", "-d /flag kubectl get -d /x", "", "default.yaml", "/flag"},
		{"missing file", "server -c missing.yaml", "", "default.yaml", DefaultDataDir},
		{"malformed file", "server", "", "malformed.yaml", DefaultDataDir},
		{"malformed drop-in", "server", "", "half.yaml", DefaultDataDir},
		{"list", "server", "", "list.yaml", DefaultDataDir},
		{"no value in the file", "server", "", "null.yaml", DefaultDataDir},
		{"not a mapping", "server", "", "text.yaml", DefaultDataDir},
		{"a directory", "server", "", "directory.yaml", DefaultDataDir},
		{"a malformed file that does not decide", "server -c malformed.yaml -d /flag", "", "default.yaml", "/flag"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := dataDir(strings.Fields(tt.args), []string{"PATH=/bin", tt.env}, tt.fallback); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestDataDirOfInstallation has an installation whose data directory no file of
// the configuration gives.
func TestDataDirOfInstallation(t *testing.T) {
	dir := tree(t, map[string]string{
		"one/install.json":   "{\n  \"name\": \"kedge\",\n  \"dataDir\": \"/recorded\",\n  \"files\": [\"/a\"]\n}\n",
		"two/install.json":   "{\"dataDir\": \"/recorded\"}",
		"two/config.yaml":    "data-dir: /configured\n",
		"three/install.json": "damaged",
	})
	for _, test := range []struct{ args, file, want string }{
		{"status", "one", "/recorded"},
		{"kubectl get pods", "one", "/recorded"},
		{"uninstall --data-dir=/flag", "one", "/flag"},
		{"status", "two", "/configured"},
		{"status", "three", DefaultDataDir},
		// These choose it anew.
		{"server", "one", DefaultDataDir},
		{"agent --debug", "one", DefaultDataDir},
		{"install", "one", DefaultDataDir},
	} {
		if got := dataDir(strings.Fields(test.args), nil, filepath.Join(dir, test.file, "config.yaml")); got != test.want {
			t.Errorf("%s in %s: got %s, want %s", test.args, test.file, got, test.want)
		}
	}
}

// TestDataDirAgrees wants the launcher and the program to find the same place.
func TestDataDirAgrees(t *testing.T) {
	dir := tree(t, map[string]string{
		"config.yaml":          "data-dir: data\n",
		"config.yaml.d/a.yaml": "debug: true\n",
	})
	t.Chdir(dir)
	s, err := loadServer(nil, nil, "config.yaml", hostname)
	if err != nil {
		t.Fatal(err)
	}
	if got := dataDir(nil, nil, "config.yaml"); got != s.Paths.DataDir || got != filepath.Join(dir, "data") {
		t.Errorf("the launcher finds %s, the program %s", got, s.Paths.DataDir)
	}
	a, err := loadAgent(Flags{"server": {"https://h"}}, nil, "config.yaml", hostname)
	if err != nil {
		t.Fatal(err)
	}
	if a.Paths != s.Paths {
		t.Errorf("an agent has %s, a server %s", a.Paths.DataDir, s.Paths.DataDir)
	}
}

func TestAdminKubeconfig(t *testing.T) {
	dir := tree(t, map[string]string{
		"given.yaml":           "debug: true\nwrite-kubeconfig: /srv/admin\ntoken-file: /nowhere\n",
		"given.yaml.d/1":       "write-kubeconfig: /not/yaml\n",
		"dropin.yaml":          "write-kubeconfig: /srv/admin\n",
		"dropin.yaml.d/a.yaml": "write-kubeconfig: /srv/other\n",
		"none.yaml":            "server: https://h:6443\nlb-server-port: 1\n",
		"malformed.yaml":       "write-kubeconfig: [\n",
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	t.Chdir(dir)
	for name, tt := range map[string]struct{ args, env, file, want string }{
		"nothing":          {"", "", "missing.yaml", DefaultKubeconfig},
		"file":             {"", "", "given.yaml", "/srv/admin"},
		"drop-in":          {"", "", "dropin.yaml", "/srv/other"},
		"an agent's file":  {"", "", "none.yaml", DefaultKubeconfig},
		"malformed file":   {"", "", "malformed.yaml", DefaultKubeconfig},
		"variable":         {"", "KEDGE_WRITE_KUBECONFIG=/env", "given.yaml", "/env"},
		"KEDGE_CONFIG":     {"", "KEDGE_CONFIG=" + at("dropin.yaml"), "none.yaml", "/srv/other"},
		"--config":         {"--config=" + at("given.yaml"), "", "dropin.yaml", "/srv/admin"},
		"relative":         {"", "KEDGE_WRITE_KUBECONFIG=admin", "none.yaml", at("admin")},
		"another's option": {"--data-dir=/x", "", "given.yaml", "/srv/admin"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := adminKubeconfig(strings.Fields(tt.args), []string{tt.env}, tt.file); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
