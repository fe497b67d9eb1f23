package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestFirstOfContainer(t *testing.T) {
	for _, tt := range []struct {
		pid  int
		argv string
		want bool
	}{
		{1, "kedge server --debug", true},
		{1, "/bin/kedge agent", true},
		{1, "kedge kubectl get nodes", false},
		{1, "kedge", false},
		{2, "kedge server", false},
	} {
		if got := firstOfContainer(tt.pid, strings.Fields(tt.argv)); got != tt.want {
			t.Errorf("process %d, %s: %v", tt.pid, tt.argv, got)
		}
	}
}

// TestInit runs the file as process 1: of namespaces of its own, as in a container.
func TestInit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making namespaces takes root's rights")
	}
	for _, tt := range []struct {
		does string
		code int
	}{
		{"exit-with-7", 7},
		{"leave-orphan", 0},
		{"forward-signal", 3},
		{"die", 128 + int(syscall.SIGKILL)},
	} {
		t.Run(tt.does, func(t *testing.T) {
			a := launch{
				argv: []string{"kedge", "server", tt.does}, dataDir: t.TempDir(), env: []string{"PATH=" + os.Getenv("PATH")},
				attr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS},
			}.run(t)
			if a.code != tt.code {
				t.Errorf("exit code %d, want %d: %s", a.code, tt.code, a.stderr)
			}
		})
	}
}
