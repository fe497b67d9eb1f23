package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/drain"
	"github.com/kedge-k8s/kedge/pkg/install"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/upgradeplan"
)

func upgradeCommand() *cli.Command {
	return &cli.Command{
		Name:      "upgrade",
		Usage:     "replace the installed Kedge by another version, and go back if that doesn't work",
		UsageText: "kedge upgrade [--version VERSION | --channel CHANNEL | --url URL | --file FILE] [options]",
		Description: `Gets the new version, checks it, puts it in place and restarts the service; pods
keep running. When the node does not get Ready the previous version is put back,
and the exit code is 1.

Servers come first, one after the other, then agents. A Plan has the whole cluster
upgrade itself in that order.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "version", Usage: "upgrade to this `VERSION`, such as v1.36.4+kedge1"},
			&cli.StringFlag{Name: "channel", Usage: "upgrade to the version of this `CHANNEL`", DefaultText: "that of the installation, or stable", EnvVars: []string{"INSTALL_KEDGE_CHANNEL"}},
			&cli.StringFlag{Name: "url", Usage: "take the release in the directory at this `URL`", EnvVars: []string{"INSTALL_KEDGE_URL"}},
			&cli.StringFlag{Name: "mirror-url", Usage: "take releases from the mirror of the project's page at this `URL`", DefaultText: "that of the installation", EnvVars: []string{"INSTALL_KEDGE_MIRROR_URL"}},
			&cli.StringFlag{Name: "file", Usage: "upgrade to the kedge in this `FILE`, without a network"},
			&cli.BoolFlag{Name: "drain", Usage: "have the pods leave this node before, and let pods come back after", DisableDefaultText: true},
			&cli.DurationFlag{Name: "drain-timeout", Usage: "give up, and change nothing, when pods are still there after this `TIME`", Value: drain.DefaultTimeout},
			&cli.DurationFlag{Name: "timeout", Usage: "go back when the node is not Ready after this `TIME`", Value: 5 * time.Minute},
			&cli.StringFlag{Name: "assignment", Hidden: true}, // a Plan's, for package upgradeplan
		},
		OnUsageError: usageError,
		Action:       runUpgrade,
	}
}

func runUpgrade(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("an upgrade needs root: run it with sudo")
	}
	given := 0
	for _, name := range []string{"version", "channel", "file"} {
		if c.IsSet(name) {
			given++
		}
	}
	if given > 1 {
		return errors.New("give one of --version, --channel and --file")
	}
	record, found, err := install.ReadRecord()
	if err != nil {
		return err
	}
	if !found {
		return errors.New("Kedge is no service of this machine yet: kedge install makes it one; a Kedge that was started by other means is upgraded by starting the new file") //nolint:staticcheck // a name
	}
	// Until all is done and said: who sees that it is over looks how it went.
	release, err := install.LockUpgrades()
	if err != nil {
		return err
	}
	defer release()
	// A session that is lost must not leave the service between two versions: its
	// hangup goes back, unless nohup has it ignored, and its closed output is nothing.
	ending := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		ending = append(ending, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(c.Context, ending...)
	defer stop()
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	fmt.Fprintf(c.App.Writer, "Upgrading the %s\n", record.Role)

	source := install.Source{URL: c.String("url"), Version: c.String("version"), Channel: c.String("channel"), Mirror: c.String("mirror-url")}
	if source.Mirror == "" {
		source.Mirror = record.Mirror
	}
	if source.Channel == "" && source.Version == "" {
		source.Channel = record.Channel
	}
	u := install.Upgrade{Record: record, File: c.String("file"), Timeout: c.Duration("timeout"), Out: c.App.Writer}
	if c.Bool("drain") {
		options := drain.Default()
		options.Timeout = c.Duration("drain-timeout")
		u.Prepare = func(ctx context.Context) (func(context.Context), error) {
			node, err := ownNode(ctx, u.Say)
			if err != nil {
				return nil, fmt.Errorf("drain the node: %w", err)
			}
			return node.Drain(ctx, options)
		}
	}
	if file := c.String("assignment"); file != "" {
		return upgradeplan.CarryOut(file, func(a upgradeplan.Assignment) error {
			u.Prepare = prepare(a, u.Say)
			source.Version = a.Version
			return upgrade(ctx, u, source)
		})
	}
	return upgrade(ctx, u, source)
}

// upgrade does it with the file there is, or that of a release.
func upgrade(ctx context.Context, u install.Upgrade, source install.Source) (err error) {
	if u.File == "" {
		if u.File, err = source.Download(ctx, u.Record.BinDir, u.Out); err != nil {
			return fmt.Errorf("get the new version: %w", err)
		}
		defer func() { _ = os.Remove(u.File) }()
	}
	if u.File, err = filepath.Abs(u.File); err != nil {
		return err
	}
	return u.Run(ctx)
}

// prepare is what a Plan wants done before the restart; nil: nothing.
func prepare(a upgradeplan.Assignment, say func(what, text string)) func(context.Context) (func(context.Context), error) {
	if !a.Cordon && a.Drain == nil {
		return nil
	}
	return func(ctx context.Context) (func(context.Context), error) {
		node, err := ownNode(ctx, say)
		if err != nil {
			return nil, err
		}
		if a.Drain == nil {
			return node.Cordon(ctx)
		}
		return node.Drain(ctx, *a.Drain)
	}
}

// ownNode is the node of the Kedge that runs here.
func ownNode(ctx context.Context, say func(what, text string)) (*drain.Node, error) {
	d, err := control.Call[control.None, control.Description](ctx, filepath.Join(config.RuntimeDir, control.Socket), control.Describe, control.None{})
	if err != nil {
		return nil, err
	}
	if d.Node == "" {
		return nil, errors.New("this server runs no pods: there is nothing to drain")
	}
	paths := config.Paths{DataDir: d.DataDir}
	reads, writes := filepath.Join(paths.AgentEtc(), "agent.kubeconfig"), filepath.Join(paths.AgentEtc(), "kubelet.kubeconfig")
	if d.Role == install.Server {
		layout := pki.NewLayout(paths.Server())
		reads, writes = layout.Kubeconfig("agent"), layout.Kubeconfig("kubelet")
	}
	client, err := drain.Connect(reads, writes)
	if err != nil {
		return nil, err
	}
	return &drain.Node{Name: d.Node, Client: client, Say: say}, nil
}
