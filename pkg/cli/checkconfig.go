package cli

import (
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/server"
)

func checkConfigCommand() *cli.Command {
	return &cli.Command{
		Name:      "check-config",
		Usage:     "check whether this machine has what a server needs, with what to do where it lacks",
		UsageText: "kedge check-config [options of kedge server]",
		Description: `Reads the same configuration as kedge server and changes nothing.
Ends with exit code 1 when a server could not run.`,
		Flags:        flagsOf(config.ServerOptions()),
		OnUsageError: usageError,
		Action:       checkConfig,
	}
}

func checkConfig(c *cli.Context) error {
	cfg, err := config.LoadServer(given(c, config.ServerOptions()), os.Environ())
	if err != nil {
		return err
	}
	findings := hostcheck.Host{}.Check(c.Context, hostcheck.Request{
		DataDir:      cfg.Paths.DataDir,
		Ports:        server.Ports(cfg),
		PodCIDRs:     cfg.Network.ClusterCIDRs,
		ServiceCIDRs: cfg.Network.ServiceCIDRs,
		ResolvConf:   cfg.Node.ResolvConf,
	})
	if err := hostcheck.Print(c.App.Writer, findings, term.IsTerminal(int(os.Stdout.Fd()))); err != nil {
		return err
	}
	if hostcheck.Worst(findings) == hostcheck.Failure {
		return cli.Exit("", 1)
	}
	return nil
}
