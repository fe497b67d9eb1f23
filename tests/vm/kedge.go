package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// Binary is where machines have Kedge.
const Binary = "/usr/local/bin/kedge"

// unit is the systemd unit that runs a server. It is in /run: a machine that
// boots has none, until Start makes it again.
const unit = "kedge.service"

// InstallKedge copies the built Kedge to the machine.
func (v *VM) InstallKedge(ctx context.Context) error {
	binary, err := testbed.Binary()
	if err != nil {
		return err
	}
	if err := v.Copy(ctx, binary, Binary); err != nil {
		return fmt.Errorf("install Kedge: %w", err)
	}
	return nil
}

// unitFile is a unit that runs kedge with arguments as an installation would:
// containers outlive it, and have no limits but their own.
func unitFile(args []string) string {
	command := Binary
	for _, arg := range args {
		command += " " + unitWord(arg)
	}
	return `[Service]
Type=exec
ExecStart=` + command + `
Delegate=yes
KillMode=process
TasksMax=infinity
LimitNOFILE=1048576
`
}

// unitWord quotes a word of a command in a unit, see systemd.service(5).
func unitWord(word string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`).Replace(word) + `"`
}

// Start starts kedge with arguments, as a server or agent, as a systemd unit. It
// doesn't wait until it is ready.
func (v *VM) Start(ctx context.Context, args ...string) error {
	_, err := v.ExecIn(ctx, strings.NewReader(unitFile(args)),
		"set -e; cat >/run/systemd/system/"+unit+"; systemctl daemon-reload; systemctl reset-failed "+unit+" 2>/dev/null || true; systemctl start "+unit)
	return err
}

// Stop stops the server and returns how long that took. Containers keep running.
func (v *VM) Stop(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	_, err := v.Exec(ctx, "systemctl stop "+unit+" && ! systemctl is-failed --quiet "+unit)
	return time.Since(begin), err
}

// Log is what the server has written since it was started last.
func (v *VM) Log(ctx context.Context) (string, error) {
	return v.Exec(ctx, "journalctl --no-pager --output cat _SYSTEMD_INVOCATION_ID=$(systemctl show --value --property InvocationID "+unit+")")
}

// Kedge runs kedge with arguments.
func (v *VM) Kedge(ctx context.Context, args ...string) (string, error) {
	return v.Exec(ctx, Binary+" "+quoteAll(args))
}

// Kubectl runs kedge kubectl with arguments.
func (v *VM) Kubectl(ctx context.Context, args ...string) (string, error) {
	return v.KubectlIn(ctx, "", args...)
}

// KubectlIn is Kubectl with an input, such as a manifest.
func (v *VM) KubectlIn(ctx context.Context, stdin string, args ...string) (string, error) {
	var input io.Reader
	if stdin != "" {
		input = strings.NewReader(stdin)
	}
	return v.ExecIn(ctx, input, Binary+" kubectl "+quoteAll(args))
}

// LoadImage imports an image archive, a file of this machine, into the virtual
// machine's containerd.
func (v *VM) LoadImage(ctx context.Context, archive string) error {
	remote := "/var/tmp/image.tar"
	if err := v.Copy(ctx, archive, remote); err != nil {
		return err
	}
	_, err := v.Exec(ctx, Binary+" ctr --namespace k8s.io images import "+remote+" && rm "+remote)
	return err
}

// WaitReady waits until the server answers and its node is Ready. It gives up
// when the server ends.
func (v *VM) WaitReady(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var ended error
	// A kubectl costs an emulated processor seconds, which the server needs: it
	// is asked when the port answers and no sooner.
	err := testbed.Wait(ctx, "the API of virtual machine "+v.Name, limit, func(ctx context.Context) (bool, string) {
		result, err := v.Run(ctx, nil, "case $(systemctl is-active "+unit+") in active | activating | reloading) ;; *) exit 9 ;; esac; (: </dev/tcp/127.0.0.1/6443) && "+Binary+" kubectl get --raw /readyz")
		if err == nil && result.Code == 9 {
			log, err := v.Log(ctx)
			ended = errors.Join(fmt.Errorf("the server of virtual machine %s ended; its last lines:\n%s", v.Name, lastLines(log, 15)), err)
			return true, ""
		}
		return result.Stdout == "ok", fmt.Sprint(result.Stdout, result.Stderr, err)
	})
	if err == nil {
		err = ended
	}
	if err != nil {
		return err
	}
	rest := "--timeout=" + limit.String() // the context ends it earlier
	if _, err := v.Kubectl(ctx, "wait", "--for=create", "node/"+v.Name, rest); err != nil {
		return err
	}
	_, err = v.Kubectl(ctx, "wait", "--for=condition=Ready", "node/"+v.Name, rest)
	return err
}
