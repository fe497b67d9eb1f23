package cli

import (
	"net/url"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/kedge-k8s/kedge/pkg/agent"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/server"
)

func checkConfigCommand() *cli.Command {
	return &cli.Command{
		Name:      "check-config",
		Usage:     "check whether this machine has what a server or an agent needs, with what to do where it lacks",
		UsageText: "kedge check-config [options of kedge server]\nkedge check-config agent [options of kedge agent]",
		Description: `Reads the same configuration as kedge server, or kedge agent, and changes
nothing. Ends with exit code 1 when it could not run.`,
		Flags:        flagsOf(config.ServerOptions()),
		OnUsageError: usageError,
		Action:       checkServerConfig,
		Subcommands: []*cli.Command{{
			Name:      "agent",
			Usage:     "check for an agent; with --server, also that the server can be reached",
			UsageText: "kedge check-config agent [options of kedge agent]",
			Description: `Reads the same configuration as kedge agent and changes nothing. A token is
not needed. Ends with exit code 1 when an agent could not run.`,
			Flags:        flagsOf(config.AgentOptions()),
			OnUsageError: usageError,
			Action:       checkAgentConfig,
		}},
	}
}

func checkServerConfig(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := config.LoadServer(given(c, config.ServerOptions()), os.Environ())
	if err != nil {
		return err
	}
	return report(c, hostcheck.Request{
		DataDir:      cfg.Paths.DataDir,
		Ports:        server.Ports(cfg),
		PodCIDRs:     cfg.Network.ClusterCIDRs,
		ServiceCIDRs: cfg.Network.ServiceCIDRs,
		ResolvConf:   cfg.Node.ResolvConf,
	})
}

func checkAgentConfig(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := config.LoadAgent(given(c, config.AgentOptions()), os.Environ())
	if err != nil {
		return err
	}
	request := hostcheck.Request{
		DataDir:    cfg.Paths.DataDir,
		Ports:      agent.AllPorts(cfg.Node),
		ResolvConf: cfg.Node.ResolvConf,
	}
	if address, err := url.Parse(cfg.Join.Server); err == nil {
		request.Server = address.Host
	}
	return report(c, request)
}

func report(c *cli.Context, request hostcheck.Request) error {
	findings := hostcheck.Host{}.Check(c.Context, request)
	if err := hostcheck.Print(c.App.Writer, findings, term.IsTerminal(int(os.Stdout.Fd()))); err != nil {
		return err
	}
	if hostcheck.Worst(findings) == hostcheck.Failure {
		return cli.Exit("", 1)
	}
	return nil
}
