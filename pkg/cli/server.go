package cli

import (
	"context"
	"os"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/server"
)

func serverCommand() *cli.Command {
	return &cli.Command{
		Name:      "server",
		Usage:     "run a server: the control plane, and a node beside it",
		UsageText: "kedge server [options]\nkedge server --server https://HOST:6443 --token-file FILE [options]",
		Description: `Starts a Kubernetes cluster on this machine and runs until it is stopped by
Ctrl-C or SIGTERM; pods keep running then. State is kept in the data directory,
so the next start goes on where this one ended.

For several servers start the first one with --cluster-init, and further ones with
--server https://HOST:6443 of another one and the token in its file
/var/lib/kedge/server/token, best with --token-file.

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
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := config.LoadServer(given(c, config.ServerOptions()), os.Environ())
	if err != nil {
		return err
	}
	return runRole(c, cfg.Logging, cfg.Warnings, func(ctx context.Context, p process) error {
		role, err := server.New(cfg, p.payload, p.log, p.gate, c.App.Writer)
		if err != nil {
			return err
		}
		role.Ready = p.ready
		return role.Run(ctx)
	})
}
