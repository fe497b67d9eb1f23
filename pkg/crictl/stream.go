package crictl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/term"
)

// detachKeys end attach on a terminal, and leave the container as it is.
const detachKeys = "ctrl-p,ctrl-q"

func ttyFlag() cli.Flag {
	return &cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the command this terminal", DisableDefaultText: true}
}

func execFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "give the command the input", DisableDefaultText: true},
		ttyFlag(),
		&cli.BoolFlag{Name: "sync", Aliases: []string{"s"}, Usage: "print the output when the command has ended", DisableDefaultText: true},
		&cli.Int64Flag{Name: "timeout", Usage: "seconds that the command may take", DefaultText: "as long as it takes"},
	}
}

func (t *tool) exec(c *cli.Context) error {
	container, err := t.container(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	command := c.Args().Tail()
	if command[0] == "--" && len(command) > 1 { // a habit from kubectl
		command = command[1:]
	}
	if c.Bool("sync") {
		return t.execSync(c.Context, &runtime.ExecSyncRequest{ContainerId: container.GetId(), Cmd: command, Timeout: c.Int64("timeout")})
	}
	tty, stdin := c.Bool("tty"), c.Bool("interactive")
	if err := t.checkTerminal(tty, stdin); err != nil {
		return err
	}
	answer, err := t.Exec(c.Context, &runtime.ExecRequest{
		ContainerId: container.GetId(), Cmd: command,
		Tty: tty, Stdin: stdin, Stdout: true, Stderr: !tty,
	})
	if err != nil {
		return err
	}
	limit := time.Duration(c.Int64("timeout")) * time.Second
	ctx, cancel := within(c.Context, limit)
	defer cancel()
	err = t.stream(ctx, answer.GetUrl(), tty, t.inputIf(stdin))
	if errors.Is(context.Cause(ctx), errLimit) {
		return fmt.Errorf("the command has not ended in %s", limit)
	}
	return err
}

func (t *tool) execSync(ctx context.Context, request *runtime.ExecSyncRequest) error {
	answer, err := t.ExecSync(ctx, request)
	if err != nil {
		return err
	}
	if _, err := t.out.Write(answer.GetStdout()); err != nil {
		return err
	}
	if _, err := t.errOut.Write(answer.GetStderr()); err != nil {
		return err
	}
	if code := int(answer.GetExitCode()); code != 0 {
		return exec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

func attachFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "stdin", Aliases: []string{"i"}, Usage: "give the container the input", DisableDefaultText: true},
		ttyFlag(),
	}
}

func (t *tool) attach(c *cli.Context) error {
	container, err := t.container(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	tty, stdin := c.Bool("tty"), c.Bool("stdin")
	if err := t.checkTerminal(tty, stdin); err != nil {
		return err
	}
	answer, err := t.Attach(c.Context, &runtime.AttachRequest{
		ContainerId: container.GetId(),
		Tty:         tty, Stdin: stdin, Stdout: true, Stderr: !tty,
	})
	if err != nil {
		return err
	}
	in := t.inputIf(stdin)
	if tty {
		if in, err = term.NewDetachableReader(in, detachKeys); err != nil {
			return err
		}
	}
	return t.stream(c.Context, answer.GetUrl(), tty, in)
}

func (t *tool) inputIf(wanted bool) io.Reader {
	if wanted {
		return t.in
	}
	return nil
}

func (t *tool) checkTerminal(tty, stdin bool) error {
	switch {
	case tty && !stdin:
		return errors.New("a terminal needs its input too: use -it")
	case tty && !term.IsTerminal(t.in):
		return errors.New("the input is not a terminal: leave out -t")
	}
	return nil
}

// stream joins this program's streams to those that the runtime serves at the
// address, until they end.
func (t *tool) stream(ctx context.Context, address string, tty bool, in io.Reader) error {
	location, err := url.Parse(address)
	if err != nil {
		return err
	}
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, location)
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdin: in, Stdout: t.out, Tty: tty}
	if !tty {
		options.Stderr = t.errOut
		return executor.StreamWithContext(ctx, options)
	}
	terminal := term.TTY{In: t.in, Out: t.out, Raw: true}
	if size := terminal.GetSize(); size != nil {
		// The first tells the size; programs draw anew when it changes.
		options.TerminalSizeQueue = sizes{terminal.MonitorSize(size)}
	}
	return terminal.Safe(func() error { return executor.StreamWithContext(ctx, options) })
}

// sizes are the terminal's, for the other library.
type sizes struct{ queue term.TerminalSizeQueue }

func (s sizes) Next() *remotecommand.TerminalSize {
	size := s.queue.Next()
	if size == nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: size.Width, Height: size.Height}
}

func (t *tool) portForward(c *cli.Context) error {
	pod, err := t.pod(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	answer, err := t.PortForward(c.Context, &runtime.PortForwardRequest{PodSandboxId: pod.GetId()})
	if err != nil {
		return err
	}
	location, err := url.Parse(answer.GetUrl())
	if err != nil {
		return err
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		return err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, location)
	forwarder, err := portforward.New(dialer, c.Args().Tail(), c.Done(), make(chan struct{}), t.out, t.errOut)
	if err != nil {
		return err
	}
	return forwarder.ForwardPorts()
}
