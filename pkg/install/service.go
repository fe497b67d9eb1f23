package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// status is how a service is doing.
type status int

const (
	stopped  status = iota
	starting        // it runs, and the node is not Ready yet
	ready           // the node is Ready
	failing         // it ended by itself
)

// file is a file to write.
type file struct {
	path    string
	content string
	mode    os.FileMode
}

// service is Kedge as a service manager knows it.
type service interface {
	// String names the service and its manager.
	String() string
	// files are what describes the service.
	files(Request) []file
	// reload has the manager read the files again.
	reload(ctx context.Context) error
	enable(ctx context.Context) error
	disable(ctx context.Context) error
	// start starts or restarts the service, and does not wait for the node.
	start(ctx context.Context) error
	stop(ctx context.Context) error
	status(ctx context.Context) (status, error)
	// log is the end of what the service has written since its last start.
	log(ctx context.Context, lines int) string
	// hint says how a person looks at the log.
	hint() string
}

// errNoManager says what is needed.
var errNoManager = errors.New("this machine has neither systemd nor OpenRC to run a service: start kedge by the means of this machine, as kedge server or kedge agent")

// findService chooses the manager that runs this machine.
func findService(name, systemdDir string) (service, error) {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return systemd{name: name, dir: systemdDir}, nil
	}
	if _, err := exec.LookPath("openrc-run"); err == nil {
		return openrc{name: name}, nil
	}
	if _, err := os.Stat("/sbin/openrc-run"); err == nil {
		return openrc{name: name}, nil
	}
	return nil, errNoManager
}

// run runs a command and returns its output. The error holds what it says.
func run(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A terminal's Ctrl-C is for this process alone, which ends what it began.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// systemd is a unit.
type systemd struct{ name, dir string }

func (s systemd) String() string { return s.unit() + " of systemd" }
func (s systemd) unit() string   { return s.name + ".service" }
func (s systemd) path() string   { return filepath.Join(s.dir, s.unit()) }

func (s systemd) files(r Request) []file {
	env := s.path() + ".env"
	return []file{
		{env, environmentText(r.Env), 0o600},
		{s.path(), unit(r, env), 0o644},
	}
}

func (s systemd) reload(ctx context.Context) error {
	_, err := run(ctx, "systemctl", "daemon-reload")
	return err
}

func (s systemd) enable(ctx context.Context) error {
	_, err := run(ctx, "systemctl", "--quiet", "enable", s.path())
	return err
}

func (s systemd) disable(ctx context.Context) error {
	_, err := run(ctx, "systemctl", "--quiet", "disable", s.unit())
	return err
}

func (s systemd) start(ctx context.Context) error {
	// A service that has failed too often is to be tried again.
	_, _ = run(ctx, "systemctl", "reset-failed", s.unit())
	// One after the other: a unit that is to be restarted looks active still.
	if err := s.stop(ctx); err != nil {
		return err
	}
	_, err := run(ctx, "systemctl", "--no-block", "start", s.unit())
	return err
}

func (s systemd) stop(ctx context.Context) error {
	_, err := run(ctx, "systemctl", "stop", s.unit())
	return err
}

func (s systemd) status(ctx context.Context) (status, error) {
	out, err := run(ctx, "systemctl", "show", "--property=ActiveState,SubState", s.unit())
	return systemdStatus(out), err
}

// systemdStatus reads what systemctl shows.
func systemdStatus(show string) status {
	values := map[string]string{}
	for line := range strings.Lines(show) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = value
	}
	switch values["ActiveState"] {
	case "active", "reloading":
		return ready
	case "failed":
		return failing
	case "activating":
		if values["SubState"] == "auto-restart" {
			return failing
		}
		return starting
	case "deactivating": // before it starts again
		return starting
	}
	return stopped
}

func (s systemd) log(ctx context.Context, lines int) string {
	id, err := run(ctx, "systemctl", "show", "--value", "--property=InvocationID", s.unit())
	if err != nil {
		return err.Error()
	}
	// What a process says that ends at once is often not known to be of a run.
	for _, which := range []string{"_SYSTEMD_INVOCATION_ID=" + strings.TrimSpace(id), "--unit=" + s.unit()} {
		out, err := run(ctx, "journalctl", "--no-pager", "--quiet", "--output=cat", "--lines="+strconv.Itoa(lines), which)
		if err != nil {
			return err.Error()
		}
		if out != "" {
			return out
		}
	}
	return ""
}

func (s systemd) hint() string { return "journalctl -eu " + s.name }

// openrc is a script of OpenRC.
type openrc struct{ name string }

func (o openrc) String() string { return o.name + " of OpenRC" }

func (o openrc) logFile() string { return "/var/log/" + o.name + ".log" }

func (o openrc) files(r Request) []file {
	env := filepath.Join(filepath.Dir(config.DefaultConfigFile), o.name+".env")
	return []file{
		{env, environmentText(r.Env), 0o600},
		{"/etc/init.d/" + o.name, openrcScript(r, env), 0o755},
	}
}

func (o openrc) reload(context.Context) error { return nil }

func (o openrc) enable(ctx context.Context) error {
	_, err := run(ctx, "rc-update", "add", o.name, "default")
	return err
}

func (o openrc) disable(ctx context.Context) error {
	_, err := run(ctx, "rc-update", "--all", "delete", o.name)
	return err
}

func (o openrc) start(ctx context.Context) error {
	_ = os.Remove(config.ReadyFile)
	_, err := run(ctx, "rc-service", o.name, "restart")
	return err
}

func (o openrc) stop(ctx context.Context) error {
	_, err := run(ctx, "rc-service", "--ifstarted", o.name, "stop")
	return err
}

func (o openrc) status(ctx context.Context) (status, error) {
	// supervise-daemon starts a process that ends again and again: a process
	// that has been Ready is the only sure sign.
	if content, err := os.ReadFile(config.ReadyFile); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(content))); err == nil && pid > 1 && unix.Kill(pid, 0) == nil {
			return ready, nil
		}
	}
	if _, err := run(ctx, "rc-service", o.name, "status"); err != nil {
		return stopped, nil //nolint:nilerr // its code says that it is not running
	}
	return starting, nil
}

func (o openrc) log(_ context.Context, lines int) string {
	content, err := os.ReadFile(o.logFile())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n") + "\n"
}

func (o openrc) hint() string { return "tail " + o.logFile() }
