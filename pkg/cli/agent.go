package cli

import (
	"context"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/agent"
	"github.com/kedge-k8s/kedge/pkg/config"
)

func agentCommand() *cli.Command {
	return &cli.Command{
		Name:      "agent",
		Usage:     "run an agent: a node that joins the cluster of a server",
		UsageText: "kedge agent --server https://HOST:6443 [options]",
		Description: `Makes this machine a node of a cluster and runs it until it is stopped by
Ctrl-C or SIGTERM; pods keep running then.

The token of the cluster is in the file /var/lib/kedge/server/node-token of a
server. Give it with --token-file, in the environment as KEDGE_TOKEN, in the
configuration file, or with --token. It is needed once: a machine that has
joined is known by its certificate.

Every option is also a key of the configuration file (--config) and an
environment variable (KEDGE_ and the name in capitals with underscores). The
command line wins over the environment, and that over the file.`,
		Flags:        flagsOf(config.AgentOptions()),
		OnUsageError: usageError,
		Action:       runAgent,
	}
}

func runAgent(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := config.LoadAgent(given(c, config.AgentOptions()), os.Environ())
	if err != nil {
		return err
	}
	return runRole(c, cfg.Logging, cfg.Warnings, func(ctx context.Context, p process) error {
		role, err := agent.New(cfg, p.payload, p.log, p.gate, c.App.Writer)
		if err != nil {
			return err
		}
		role.Ready = p.ready
		return role.Run(ctx)
	})
}
