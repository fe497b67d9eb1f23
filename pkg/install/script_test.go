package install

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// installScript is install.sh in a directory of its own, with a place for programs.
type installScript struct {
	t        *testing.T
	dir, bin string
}

func newScript(t *testing.T) installScript {
	t.Helper()
	s := installScript{t, t.TempDir(), t.TempDir()}
	content, err := os.ReadFile("../../install.sh")
	if err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(s.dir, "install.sh"), string(content))
	s.write(filepath.Join(s.dir, "tools", "id"), "#!/bin/sh\necho 0\n")
	return s
}

func (s installScript) write(path, content string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil { //nolint:gosec // programs
		s.t.Fatal(err)
	}
}

// run runs the script as root would, and returns its output and code.
func (s installScript) run(environ []string, args ...string) (out string, code int) {
	s.t.Helper()
	cmd := exec.Command("sh", append([]string{filepath.Join(s.dir, "install.sh")}, args...)...)
	cmd.Dir = s.dir
	cmd.Env = append(slices.Clone(environ), "PATH="+filepath.Join(s.dir, "tools")+":"+os.Getenv("PATH"), "INSTALL_KEDGE_BIN_DIR="+s.bin)
	stdout, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	} else if err != nil {
		s.t.Logf("%s", exit.Stderr)
	}
	return string(stdout), cmd.ProcessState.ExitCode()
}

// TestScriptReplacesNothing has a new program refuse the installation.
func TestScriptReplacesNothing(t *testing.T) {
	s := newScript(t)
	s.write(filepath.Join(s.bin, "kedge"), "old")
	s.write(filepath.Join(s.dir, "kedge"), "#!/bin/sh\necho \"$@\"\nexit 3\n")
	if out, code := s.run(nil, "--node-lable=a"); out != "install --node-lable=a\n" || code != 3 {
		t.Errorf("output %q, code %d", out, code)
	}
	content, err := os.ReadFile(filepath.Join(s.bin, "kedge"))
	if err != nil || string(content) != "old" {
		t.Errorf("the program is %q now, error %v", content, err)
	}
	if entries, _ := os.ReadDir(s.bin); len(entries) != 1 {
		t.Errorf("left are %v", entries)
	}
}

// TestScriptExec gives options that a shell would take for something else.
func TestScriptExec(t *testing.T) {
	s := newScript(t)
	s.write(filepath.Join(s.bin, "kedge"), "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
	for exec, want := range map[string][]string{
		"":                          nil,
		"  ":                        nil,
		"server --debug":            {"server", "--debug"},
		"--a=b>c;d&e|f <g $HOME":    {"--a=b>c;d&e|f", "<g", "$HOME"},
		"$(id) `id` * # !x ~ {a,b}": {"$(id)", "`id`", "*", "#", "!x", "~", "{a,b}"},
		`--a="b c;$d" --e='f "g"'`:  {"--a=b c;$d", `--e=f "g"`},
		`it\'s a\ b`:                {"it's", "a b"},
		"--a\n\t--b":                {"--a", "--b"},
	} {
		out, code := s.run([]string{"INSTALL_KEDGE_SKIP_DOWNLOAD=true", "INSTALL_KEDGE_EXEC=" + exec}, "last one")
		want = append(append([]string{"install"}, want...), "last one")
		if got := strings.Split(strings.TrimSuffix(out, "\n"), "\n"); !slices.Equal(got, want) || code != 0 {
			t.Errorf("%q: got %q, code %d, want %q", exec, got, code, want)
		}
	}
	if out, code := s.run([]string{"INSTALL_KEDGE_SKIP_DOWNLOAD=true", "INSTALL_KEDGE_EXEC=--a='b"}); out != "" || code != 1 {
		t.Errorf("a quote without an end: got %q, code %d", out, code)
	}
	if entries, _ := os.ReadDir(s.dir); len(entries) != 2 {
		t.Errorf("left are %v", entries)
	}
}
