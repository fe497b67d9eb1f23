// Package cli is Kedge's command line: one file per subcommand.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/crictl"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// Main runs the program that argv names: kedge with its subcommands, or, by
// the name of a link to it, kubectl, crictl or ctr. It returns the exit code.
func Main(ctx context.Context, argv []string) int {
	switch filepath.Base(argv[0]) {
	case "kubectl":
		return kubectl(argv[1:])
	case "ctr":
		return ctr(ctx, argv[1:])
	case "crictl":
		return crictl.Run(ctx, argv[1:], os.Stdin, os.Stdout, os.Stderr)
	}
	// These have command lines of their own, which urfave/cli must not
	// read: it would take their flags for its own.
	if len(argv) > 1 {
		switch argv[1] {
		case "kubectl":
			return kubectl(argv[2:])
		case "ctr":
			return ctr(ctx, argv[2:])
		case "crictl":
			return crictl.Run(ctx, argv[2:], os.Stdin, os.Stdout, os.Stderr)
		}
	}
	err := newApp(os.Stdout, os.Stderr).RunContext(ctx, argv)
	if err == nil {
		return 0
	}
	var exit cli.ExitCoder
	if errors.As(err, &exit) {
		if exit.Error() != "" {
			fmt.Fprintln(os.Stderr, "kedge: "+exit.Error())
		}
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "kedge: "+strings.ReplaceAll(err.Error(), "\n", " | "))
	return 1
}

func newApp(out, errOut io.Writer) *cli.App {
	cli.VersionPrinter = func(c *cli.Context) { printVersion(c.App.Writer) }
	cli.VersionFlag = &cli.BoolFlag{Name: "version", Usage: "print the version", DisableDefaultText: true}
	app := &cli.App{
		Name:                      "kedge",
		Usage:                     "Kubernetes in one file: nothing to install before it, nothing to download after it",
		UsageText:                 "kedge COMMAND [options]",
		Version:                   version.Version,
		Writer:                    out,
		ErrWriter:                 errOut,
		HideHelpCommand:           true,
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {}, // Main reports errors, once
		OnUsageError:              usageError,
		Commands: []*cli.Command{
			serverCommand(),
			agentCommand(),
			{Name: "kubectl", Usage: "talk to the cluster: all of upstream's kubectl", SkipFlagParsing: true},
			{Name: "crictl", Usage: "look at the containers, pods and images of this node", SkipFlagParsing: true},
			{Name: "ctr", Usage: "talk to containerd, for debugging", SkipFlagParsing: true},
			dashboardCommand(),
			tokenCommand(),
			certificateCommand(),
			statusCommand(),
			doctorCommand(),
			snapshotCommand(),
			secretsEncryptCommand(),
			etcdCommand(),
			checkConfigCommand(),
			installCommand(),
			upgradeCommand(),
			killallCommand(),
			uninstallCommand(),
			completionCommand(),
			versionCommand(),
		},
	}
	app.Action = func(c *cli.Context) error {
		if name := c.Args().First(); name != "" {
			return fmt.Errorf("unknown command %q%s; kedge --help lists the commands", name, didYouMean(name, commandNames(app)))
		}
		return cli.ShowAppHelp(c)
	}
	return app
}

func commandNames(app *cli.App) []string {
	var names []string
	for _, c := range app.Commands {
		names = append(names, c.Name)
	}
	return names
}

func didYouMean(name string, known []string) string {
	if near := config.Nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// usageError puts the flag package's words for a wrong flag into Kedge's.
func usageError(c *cli.Context, err error, _ bool) error {
	const undefined = "flag provided but not defined: -"
	name, found := strings.CutPrefix(err.Error(), undefined)
	if !found {
		return fmt.Errorf("%w; %s --help lists the options", err, c.Command.HelpName)
	}
	name = strings.TrimLeft(name, "-")
	var known []string
	for _, f := range c.Command.Flags {
		known = append(known, f.Names()...)
	}
	help := c.Command.HelpName
	if help == "" {
		help = "kedge"
	}
	if near := config.Nearest(name, known); near != "" {
		return fmt.Errorf("unknown option %q; did you mean %q?", "--"+name, "--"+near)
	}
	return fmt.Errorf("unknown option %q; %s --help lists the options", "--"+name, help)
}
