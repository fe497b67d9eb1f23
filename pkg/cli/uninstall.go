package cli

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
)

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name:      "uninstall",
		Usage:     "remove Kedge, all pods and all data of the cluster from this machine",
		UsageText: "kedge uninstall [options]",
		Description: `Does what kedge killall does, removes the service, the configuration in
/etc/kedge, the data directory with all volumes in it, and puts the kernel's
settings back. Then it looks again, and ends with exit code 1, naming it, when
something is left. What was done can be done again.`,
		Flags:        cleanupFlags(),
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			machine, record, err := cleanMachine(c)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
			defer stop()
			if err := record.Disable(ctx); err != nil {
				return fmt.Errorf("disable the service: %w", err)
			}
			if err := errors.Join(machine.Uninstall(ctx), record.Forget(ctx)); err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, "Kedge is removed, and nothing of it was found any more.")
			return nil
		},
	}
}
