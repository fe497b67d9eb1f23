package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/log"
	"github.com/kedge-k8s/kedge/pkg/payload"
	"github.com/kedge-k8s/kedge/pkg/server"
)

// gcPercent trades a little processor time for memory: the control plane's
// live heap is large and changes little.
const gcPercent = 50

func serverCommand() *cli.Command {
	return &cli.Command{
		Name:      "server",
		Usage:     "run a server: the control plane, and a node beside it",
		UsageText: "kedge server [options]",
		Description: `Starts a Kubernetes cluster on this machine and runs until it is stopped by
Ctrl-C or SIGTERM; pods keep running then. State is kept in the data directory,
so the next start goes on where this one ended.

Every option is also a key of the configuration file (--config) and an
environment variable (KEDGE_ and the name in capitals with underscores). The
command line wins over the environment, and that over the file.`,
		Flags:        flagsOf(config.ServerOptions()),
		OnUsageError: usageError,
		Action:       runServer,
	}
}

func flagsOf(options []config.Option) []cli.Flag {
	var flags []cli.Flag
	for _, o := range options {
		switch o.Kind {
		case config.Bool:
			flags = append(flags, &cli.BoolFlag{Name: o.Name, Aliases: o.Aliases, Usage: o.Help, Category: o.Category, DisableDefaultText: true})
		case config.List:
			flags = append(flags, &cli.StringSliceFlag{Name: o.Name, Aliases: o.Aliases, Usage: o.Help, Category: o.Category, DefaultText: o.Default})
		default:
			flags = append(flags, &cli.StringFlag{Name: o.Name, Aliases: o.Aliases, Usage: o.Help, Category: o.Category, DefaultText: o.Default})
		}
	}
	return flags
}

// given collects the options that the command line sets.
func given(c *cli.Context, options []config.Option) config.Flags {
	flags := config.Flags{}
	for _, o := range options {
		if !c.IsSet(o.Name) {
			continue
		}
		switch o.Kind {
		case config.Bool:
			flags[o.Name] = []string{strconv.FormatBool(c.Bool(o.Name))}
		case config.List:
			flags[o.Name] = c.StringSlice(o.Name)
		default:
			flags[o.Name] = []string{c.String(o.Name)}
		}
	}
	return flags
}

func runServer(c *cli.Context) error {
	if extra := c.Args().First(); extra != "" {
		return fmt.Errorf("unexpected argument %q: options begin with --, and kedge server --help lists them", extra)
	}
	cfg, err := config.LoadServer(given(c, config.ServerOptions()), os.Environ())
	if err != nil {
		return err
	}
	root, err := payloadRoot()
	if err != nil {
		return err
	}
	// kube-proxy, the kubelet and the CNI plugins find nft, runc and each
	// other here, before anything the machine may have of the same name.
	if err := os.Setenv("PATH", root+"/bin:"+os.Getenv("PATH")); err != nil {
		return err
	}
	// The kubelet would tell a service manager that it is ready, too early.
	if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	logger, gate, closeLog, err := openLog(cfg.Logging, c.App.ErrWriter)
	if err != nil {
		return err
	}
	defer closeLog()

	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// After the first signal the second one ends the process at once.
	context.AfterFunc(ctx, stop)
	return server.New(cfg, root, logger, gate, c.App.Writer).Run(ctx)
}

// payloadRoot is where this program's companions are.
func payloadRoot() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	root, _, err := payload.Current(exe)
	if err != nil {
		return "", fmt.Errorf("this is the bare program without its payload: run the kedge file: %w", err)
	}
	return root, nil
}

// openLog makes the process's logger, and sends the libraries' messages
// through it too.
func openLog(o config.Logging, fallback io.Writer) (logger *slog.Logger, gate *log.Gate, closeLog func(), err error) {
	out, closeLog := fallback, func() {}
	if o.File != "" {
		file, err := os.OpenFile(o.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("--log: %w", err)
		}
		out, closeLog = file, func() { _ = file.Close() }
	}
	level := slog.LevelInfo
	if o.Debug {
		level = slog.LevelDebug
	}
	handler := log.NewHandler(out, level)
	gate, err = log.Redirect(handler, log.Options{Debug: o.Debug, Verbosity: o.Verbosity, VModule: o.VModule})
	if err != nil {
		closeLog()
		return nil, nil, nil, err
	}
	return slog.New(handler), gate, closeLog, nil
}
