package config

import (
	"slices"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		checkTable(t, ServerOptions(), "config", "data-dir", "disable", "kubelet-arg", "node-taint", "enable-pprof", "agent-token-file")
	})
	t.Run("agent", func(t *testing.T) {
		checkTable(t, AgentOptions(), "config", "data-dir", "server", "token", "token-file", "lb-server-port", "kubelet-arg", "node-taint")
	})
}

func checkTable(t *testing.T, options []Option, wanted ...string) {
	t.Helper()
	seen := map[string]bool{}
	for _, o := range options {
		for _, name := range append([]string{o.Name, o.EnvVar()}, o.Aliases...) {
			if seen[name] {
				t.Errorf("%s is declared twice", name)
			}
			seen[name] = true
		}
		if o.Name == "" || o.Category == "" || o.bind == nil {
			t.Errorf("%q lacks a name, a category or a field", o.Name)
		}
		if o.Kind != Bool && strings.Count(o.Help, "`") != 2 {
			t.Errorf("%s: the help %q does not mark one placeholder", o.Name, o.Help)
		}
		if o.Kind == Bool && (o.Default != "" && o.Name != "secrets-encryption" || o.Help == "") {
			t.Errorf("%s: a switch is off by default and has a help text", o.Name)
		}
		if strings.HasSuffix(o.Help, ".") || strings.Contains(o.Help, "\n") {
			t.Errorf("%s: the help %q is not one line without a full stop", o.Name, o.Help)
		}
		if o.Choices != nil && o.Default != "" && !slices.Contains(o.Choices, o.Default) {
			t.Errorf("%s: the default is no choice", o.Name)
		}
		if o.Whole && o.Kind != List {
			t.Errorf("%s: only a list can have whole values", o.Name)
		}
		if o.Whole != strings.HasSuffix(o.Name, "-arg") {
			t.Errorf("%s: wrong about whole values", o.Name)
		}
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(options, func(o Option) bool { return o.Name == name }) {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct{ name, env, flag string }{
		{"data-dir", "KEDGE_DATA_DIR", "--data-dir"},
		{"v", "KEDGE_V", "-v"},
		{"kube-controller-manager-arg", "KEDGE_KUBE_CONTROLLER_MANAGER_ARG", "--kube-controller-manager-arg"},
	} {
		o := Option{Name: tt.name}
		if o.EnvVar() != tt.env || o.Flag() != tt.flag {
			t.Errorf("%s is %s and %s, want %s and %s", tt.name, o.EnvVar(), o.Flag(), tt.env, tt.flag)
		}
	}
}

func TestNearest(t *testing.T) {
	var names []string
	for _, o := range ServerOptions() {
		names = append(names, o.Name)
	}
	for name, want := range map[string]string{
		"node-lable":          "node-label",
		"node-labels":         "node-label",
		"nodelabel":           "node-label",
		"NODE_LABEL":          "node-label",
		"clustercidr":         "cluster-cidr",
		"service-cdir":        "service-cidr",
		"kubeapiserver-arg":   "kube-apiserver-arg",
		"https-port":          "",
		"debgu":               "debug",
		"lg":                  "log",
		"x":                   "",
		"":                    "",
		"flannel-backned":     "flannel-backend",
		"flannel":             "",
		"node-tunnel":         "",
		"datastore-endpoints": "datastore-endpoint",
		"disable-kubeproxy":   "disable-kube-proxy",
		"write-kubeconfg-mod": "write-kubeconfig-mode",
	} {
		if got := Nearest(name, names); got != want {
			t.Errorf("nearest to %q is %q, want %q", name, got, want)
		}
	}
	if got := Nearest("bat", []string{"cat", "hat"}); got != "cat" {
		t.Errorf("of equals the first counts, got %q", got)
	}
	if got := Nearest("noschedule", []string{"NoExecute", "NoSchedule"}); got != "NoSchedule" {
		t.Errorf("case counts, got %q", got)
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"abc", "abd", 1}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"ab", "abc", 1},
		{"kitten", "sitting", 3}, {"lable", "label", 1}, {"ähm", "ahm", 1},
	} {
		if got := distance([]rune(tt.a), []rune(tt.b)); got != tt.want {
			t.Errorf("distance of %q and %q is %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
