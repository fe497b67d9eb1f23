package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Host is a machine of the bed.
type Host struct {
	Name    string
	Address netip.Addr // on eth0
	Binary  string     // the Kedge that Kedge and Start run

	bed   *Bed
	wire  string // the host's port of the switch
	dir   string
	space *space // nil while the host is off

	started []*Process
}

// Boot starts a host that PowerCut stopped: its disk as it was, /run empty, no
// process.
func (h *Host) Boot() error {
	if h.space != nil {
		return fmt.Errorf("host %s is on already", h.Name)
	}
	cg, err := newCgroup(h.bed.name + "/" + h.Name)
	if err != nil {
		return err
	}
	h.space, err = newSpace(cg, spec{
		Name: h.Name,
		Dir:  h.dir,
		Etc: map[string]string{
			"hostname":    h.Name + "\n",
			"hosts":       "127.0.0.1 localhost\n" + h.Address.String() + " " + h.Name + "\n",
			"resolv.conf": "nameserver " + gateway + "\n",
		},
	})
	if err != nil {
		return err
	}
	return h.bed.plugIn(h)
}

// PowerCut ends every process of the host at once. What they have written is on
// its disk, also what they haven't synced: the machine's kernel lives on.
func (h *Host) PowerCut() error {
	err := h.stop()
	for _, process := range h.started {
		<-process.done
	}
	return err
}

func (h *Host) stop() error {
	if h.space == nil {
		return nil
	}
	err := h.space.close()
	h.bed.unplug(h)
	h.space = nil
	return err
}

func (h *Host) logs() string { return filepath.Join(h.dir, "logs") }

// Path is where the test finds a file of the host, while the host is on.
func (h *Host) Path(path string) string {
	return filepath.Join("/proc", fmt.Sprint(h.space.pid()), "root", path)
}

// searchPath is where a host looks for programs.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment of all that runs on a host: none of the test's own variables,
// KEDGE_… least of all.
func environment() []string {
	return []string{
		"PATH=" + searchPath,
		"HOME=/var/lib/home", // private to the host, unlike /root
		"LANG=C.UTF-8",
	}
}

// lookPath finds a program on the host by its name.
func (h *Host) lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(searchPath) {
		path := filepath.Join(dir, name)
		// Where a link leads, only the host can tell.
		if info, err := os.Lstat(h.Path(path)); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("host %s: %w: %s", h.Name, exec.ErrNotFound, name)
}

// Command prepares a command for StartCommand.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	if h.space != nil {
		cmd.Path, cmd.Err = h.lookPath(name)
	}
	cmd.Env = environment()
	// A child that keeps the output open must not keep the test.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// StartCommand starts a command on the host. The caller waits for it.
func (h *Host) StartCommand(cmd *exec.Cmd) error {
	if h.space == nil {
		return fmt.Errorf("run %s: host %s is off", cmd.Path, h.Name)
	}
	return h.space.start(cmd, allNamespaces)
}

// Result is what a command that ended left. Code is -1 when a signal ended it.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command to its end, with stdin as its input (nil: none). A code
// other than 0 is no error.
func (h *Host) Run(ctx context.Context, stdin io.Reader, name string, args ...string) (Result, error) {
	cmd := h.Command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := h.StartCommand(cmd); err != nil {
		return Result{}, err
	}
	err := cmd.Wait()
	result := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		err = ctx.Err()
	}
	return result, err
}

// Exec runs a command to its end and returns its standard output. The error
// holds the code and standard error.
func (h *Host) Exec(ctx context.Context, name string, args ...string) (string, error) {
	return h.ExecIn(ctx, nil, name, args...)
}

// ExecIn is Exec with an input.
func (h *Host) ExecIn(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	result, err := h.Run(ctx, stdin, name, args...)
	if err == nil && result.Code != 0 {
		err = fmt.Errorf("code %d", result.Code)
	}
	if err != nil {
		err = fmt.Errorf("on host %s: %s %s: %w: %s", h.Name, filepath.Base(name), strings.Join(args, " "),
			err, strings.TrimSpace(result.Stderr))
	}
	return result.Stdout, err
}

// Kedge runs kedge with arguments.
func (h *Host) Kedge(ctx context.Context, args ...string) (string, error) {
	return h.Exec(ctx, h.Binary, args...)
}

// Kubectl runs kedge kubectl with arguments.
func (h *Host) Kubectl(ctx context.Context, args ...string) (string, error) {
	return h.KubectlIn(ctx, "", args...)
}

// KubectlIn is Kubectl with an input, such as a manifest.
func (h *Host) KubectlIn(ctx context.Context, stdin string, args ...string) (string, error) {
	return h.ExecIn(ctx, strings.NewReader(stdin), h.Binary, append([]string{"kubectl"}, args...)...)
}

// LoadImage imports an image archive, a file of the machine, into the host's
// containerd. The images are pinned: on a machine whose disk is filling up the
// kubelet collects those that no pod has, and nothing here could pull them.
func (h *Host) LoadImage(ctx context.Context, archive string) error {
	path, err := filepath.Abs(archive)
	if err != nil {
		return err
	}
	// The host may have another file, or none, under this name.
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	_, err = h.ExecIn(ctx, file, h.Binary, "ctr", "--namespace", "k8s.io", "images", "import", "--label", "io.cri-containerd.pinned=pinned", "-")
	return err
}

// Dial opens a connection from the host to an address of the form IP:port.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if h.space == nil {
		return nil, fmt.Errorf("dial %s: host %s is off", address, h.Name)
	}
	return h.space.dial(ctx, network, address)
}

// HTTP is a client on the host. It opens a connection for each request, so that
// each is balanced anew.
func (h *Host) HTTP() *http.Client {
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true},
	}
}
