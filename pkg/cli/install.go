package cli

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/install"
	"github.com/kedge-k8s/kedge/pkg/node"
	"github.com/kedge-k8s/kedge/pkg/version"
)

func installCommand() *cli.Command {
	return &cli.Command{
		Name:      "install",
		Usage:     "make Kedge a service of this machine, and start it",
		UsageText: "kedge install [options] [server|agent] [options of the role]",
		Description: `Puts this program in its place with links and completion, writes a unit for
systemd or a script for OpenRC, starts the service and waits until the node is
Ready. Run again, it changes what has changed, and restarts the service only then.

Options (in the environment: INSTALL_KEDGE_ and the name in capitals with
underscores):
` + installHelp() + `
Variables whose names begin with KEDGE_, and those of proxies, are kept for the
service in a file that only root can read, as are tokens on the command line.
KEDGE_URL and KEDGE_TOKEN make this machine an agent of that server.`,
		SkipFlagParsing: true,
		Action:          runInstall,
	}
}

func installHelp() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 8, 3, ' ', 0)
	for _, o := range install.Options() {
		fmt.Fprintf(w, "   --%s\t%s\n", strings.TrimSpace(o.Name+" "+o.Value), o.Help)
	}
	_ = w.Flush()
	return text.String()
}

func runInstall(c *cli.Context) error {
	args := c.Args().Slice()
	if slices.ContainsFunc(args, func(a string) bool { return a == "--help" || a == "-h" || a == "help" }) {
		return cli.ShowSubcommandHelp(c)
	}
	request, err := install.Parse(args, os.Environ())
	if err != nil {
		return err
	}
	i := &install.Installer{
		Request:     request,
		Completions: map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion},
		Out:         c.App.Writer,
	}
	if i.Program, err = kedgeFile(); err != nil {
		return err
	}
	next, err := configureInstall(i)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Fprintf(c.App.Writer, "Kedge %s: installing the %s\n", version.String(), request.Role)
	if err := i.Run(ctx); err != nil {
		return err
	}
	if !request.SkipEnable && !request.SkipStart {
		fmt.Fprint(c.App.Writer, next)
	}
	return nil
}

// kedgeFile is the file that this program was unpacked from.
func kedgeFile() (string, error) {
	if file := os.Getenv("KEDGE_LAUNCHER"); file != "" {
		return file, nil
	}
	return "", fmt.Errorf("this is the bare program without its payload: run the kedge file")
}

// configureInstall loads the configuration that the service is to have, so that
// what is wrong with it is refused before anything is changed, and returns what
// to tell a person when the node is Ready.
func configureInstall(i *install.Installer) (next string, err error) {
	options := config.ServerOptions()
	if i.Role == install.Agent {
		options = config.AgentOptions()
	}
	flags, err := parseRole(i.Role, i.Args, options)
	if err != nil {
		return "", err
	}
	if i.Role == install.Agent {
		c, err := config.LoadAgent(flags, i.Env)
		if err != nil {
			return "", err
		}
		i.DataDir, i.Configs = c.Paths.DataDir, configFiles(c.ConfigFile)
		if c.Join.Token == "" && !joined(c.Paths) {
			return "", fmt.Errorf("this machine has not joined yet: give the token of the cluster as KEDGE_TOKEN; a server has it in %s", c.Paths.NodeToken())
		}
		return agentNext, nil
	}
	c, err := config.LoadServer(flags, i.Env)
	if err != nil {
		return "", err
	}
	i.DataDir, i.Configs, i.Kubeconfig = c.Paths.DataDir, configFiles(c.ConfigFile), c.Kubeconfig.Path
	return fmt.Sprintf(serverNext, serverAddress(c), c.ControlPlane.Port, c.Paths.NodeToken()), nil
}

const (
	serverNext = `
What to type next:

  sudo kedge kubectl get nodes
  sudo kedge kubectl get pods -A

To add a node, run the same installation there with KEDGE_URL and KEDGE_TOKEN:

  KEDGE_URL=https://%s:%d  KEDGE_TOKEN=…  the token is in %s

kedge-uninstall.sh removes everything again.
`
	agentNext = `
This machine is a node now. On a server, look with:

  sudo kedge kubectl get nodes

kedge-agent-uninstall.sh removes everything again.
`
)

// serverAddress is where agents reach the server.
func serverAddress(c *config.Server) string {
	if c.ControlPlane.AdvertiseAddress.IsValid() {
		return host(c.ControlPlane.AdvertiseAddress)
	}
	if len(c.Node.IPs) > 0 {
		return host(c.Node.IPs[0])
	}
	if found, err := node.Addresses(c.Network.ClusterCIDRs); err == nil && len(found) > 0 {
		return host(found[0])
	}
	return c.Node.Name
}

func host(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// joined says whether an agent needs no token any more.
func joined(p config.Paths) bool {
	found, err := filepath.Glob(filepath.Join(p.AgentPKI(), "*.crt"))
	return err == nil && len(found) > 0
}

// configFiles are those that the service reads at its start.
func configFiles(main string) []string {
	dropIns, _ := filepath.Glob(filepath.Join(main+".d", "*.yaml")) // the pattern is right
	return append([]string{main}, dropIns...)
}

// parseRole reads the options of a role as its own command does.
func parseRole(role string, args []string, options []config.Option) (config.Flags, error) {
	var flags config.Flags
	app := newApp(io.Discard, io.Discard)
	for _, command := range app.Commands {
		if command.Name != role {
			continue
		}
		command.Action = func(c *cli.Context) error {
			flags = given(c, options)
			return noArguments(c)
		}
	}
	return flags, app.Run(append([]string{"kedge", role}, args...))
}
