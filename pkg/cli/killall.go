package cli

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/cleanup"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/install"
)

// cleanupFlags are those of the commands that clean a machine.
func cleanupFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data-dir", Aliases: []string{"d"}, Usage: "the state is in this `DIRECTORY`", DefaultText: "that of the installed service, or " + config.DefaultDataDir},
		&cli.DurationFlag{Name: "grace", Usage: "let containers end by themselves for this `TIME`", Value: cleanup.DefaultGrace},
		&cli.BoolFlag{Name: "force", Usage: "do it also where another Kubernetes is, which loses its pods and its network", DisableDefaultText: true},
	}
}

func killallCommand() *cli.Command {
	return &cli.Command{
		Name:      "killall",
		Usage:     "stop Kedge and all pods of this machine; its data stays",
		UsageText: "kedge killall [options]",
		Description: `Stops the service, all containers, and removes what they had of this machine:
mounts, network namespaces and interfaces, firewall tables, cgroups. The
configuration and the data stay: the next start goes on with them.

Ends with exit code 1, and names it, when something is left.`,
		Flags:        cleanupFlags(),
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			machine, _, err := cleanMachine(c)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
			defer stop()
			return machine.Killall(ctx)
		},
	}
}

// cleanMachine is this machine as a command that cleans it sees it, with the
// record of the installation, if there is one.
func cleanMachine(c *cli.Context) (*cleanup.Machine, install.Record, error) {
	if err := noArguments(c); err != nil {
		return nil, install.Record{}, err
	}
	if os.Geteuid() != 0 {
		return nil, install.Record{}, errors.New(c.Command.Name + " needs root: run it with sudo")
	}
	root, err := payloadRoot()
	if err != nil {
		return nil, install.Record{}, err
	}
	// nft is there.
	if err := os.Setenv("PATH", root+"/bin:"+os.Getenv("PATH")); err != nil {
		return nil, install.Record{}, err
	}
	record, _, err := install.ReadRecord()
	if err != nil {
		return nil, record, err
	}
	machine := &cleanup.Machine{
		DataDir: record.DataDir,
		// With the unpacked programs, which may be elsewhere by KEDGE_DATA_DIR.
		Files:       append(record.OwnFiles(), filepath.Dir(root)),
		Grace:       c.Duration("grace"),
		StopService: record.StopService(),
		Out:         c.App.Writer,
	}
	if machine.DataDir == "" || c.IsSet("data-dir") {
		machine.DataDir = config.DataDir(os.Args[1:], os.Environ())
	}
	if !c.Bool("force") {
		err = machine.Alone()
	}
	return machine, record, err
}
