package cli

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/install"
)

func upgradeCommand() *cli.Command {
	return &cli.Command{
		Name:      "upgrade",
		Usage:     "replace the installed Kedge by another version, and go back if that doesn't work",
		UsageText: "kedge upgrade [--version VERSION | --channel CHANNEL | --url URL | --file FILE] [options]",
		Description: `Gets the new version, checks it, puts it in place and restarts the service; pods
keep running. When the node does not get Ready the previous version is put back,
and the exit code is 1.

Servers come first, one after the other, then agents.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "version", Usage: "upgrade to this `VERSION`, such as v1.36.4+kedge1"},
			&cli.StringFlag{Name: "channel", Usage: "upgrade to the version of this `CHANNEL`", DefaultText: "stable", EnvVars: []string{"INSTALL_KEDGE_CHANNEL"}},
			&cli.StringFlag{Name: "url", Usage: "take the release in the directory at this `URL`", EnvVars: []string{"INSTALL_KEDGE_URL"}},
			&cli.StringFlag{Name: "mirror-url", Usage: "take releases from the mirror of the project's page at this `URL`", EnvVars: []string{"INSTALL_KEDGE_MIRROR_URL"}},
			&cli.StringFlag{Name: "file", Usage: "upgrade to the kedge in this `FILE`, without a network"},
			&cli.BoolFlag{Name: "drain", Usage: "have the pods leave this node before, and let them come back after", DisableDefaultText: true},
			&cli.DurationFlag{Name: "timeout", Usage: "go back when the node is not Ready after this `TIME`", Value: 5 * time.Minute},
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
	file := c.String("file")
	if file == "" {
		source := install.Source{URL: c.String("url"), Version: c.String("version"), Channel: c.String("channel"), Mirror: c.String("mirror-url")}
		if file, err = source.Download(ctx, record.BinDir, c.App.Writer); err != nil {
			return fmt.Errorf("get the new version: %w", err)
		}
		defer func() { _ = os.Remove(file) }()
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	u := install.Upgrade{Record: record, File: file, Drain: c.Bool("drain"), Timeout: c.Duration("timeout"), Out: c.App.Writer}
	return u.Run(ctx)
}
