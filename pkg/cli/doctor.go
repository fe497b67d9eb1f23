package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/doctor"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/status"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "look for what is wrong here and in the cluster, and write a support bundle",
		UsageText: "kedge doctor [options]",
		Description: `Checks the machine, its clock, disk, certificates and firewall; on a server
also that it reaches each node and each node it, and, from a short-lived pod on
each node, names and connections between nodes. Says what to do about what it
finds. The support bundle holds all that for others to look at, with tokens,
keys and passwords removed; look through it before you give it away. Ends with
exit code 1 when something is wrong.`,
		Flags: append(flagsOf(placeOptions()),
			&cli.StringFlag{Name: "bundle", Usage: "Write the support bundle to this `FILE`", DefaultText: "kedge-support-HOST-TIME.tar.gz here"},
			&cli.BoolFlag{Name: "no-bundle", Usage: "Write no support bundle", DisableDefaultText: true},
		),
		OnUsageError: usageError,
		Action:       examine,
	}
}

func examine(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if c.Bool("no-bundle") && c.IsSet("bundle") {
		return errors.New("--bundle and --no-bundle can't be given together; remove one of them")
	}
	if os.Geteuid() != 0 {
		return errors.New("much of what is looked at is for root alone: use sudo")
	}
	// nft, which may be this program's own, reads the packet filter's rules.
	if root, err := payloadRoot(); err == nil {
		if err := os.Setenv("PATH", os.Getenv("PATH")+":"+root+"/bin"); err != nil {
			return err
		}
	}
	paths, _ := places(c)
	files := bundleFiles(c)
	form := terminalForm()
	d := &doctor.Doctor{
		Source:   status.Source{Socket: controlSocket(), Paths: paths},
		Host:     hostcheck.Request{DataDir: paths.DataDir},
		Progress: func(what string) { fmt.Fprintf(c.App.ErrWriter, "%s …\n", what) },
	}
	findings := d.Examine(c.Context)
	fmt.Fprintln(c.App.ErrWriter)
	if err := hostcheck.PrintTable(c.App.Writer, findings, form.Colour); err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, doctor.Summary(findings))
	if !c.Bool("no-bundle") {
		file := c.String("bundle")
		if file == "" {
			host, err := os.Hostname()
			if err != nil {
				return err
			}
			file = fmt.Sprintf("kedge-support-%s-%s.tar.gz", host, time.Now().Format("20060102-150405"))
		}
		if err := d.WriteBundle(c.Context, file, files, findings); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "Support bundle: %s. Secrets are removed; look through it before you give it away.\n", file)
	}
	if hostcheck.Worst(findings) >= hostcheck.Warning {
		return cli.Exit("", 1)
	}
	return nil
}

// bundleFiles are the configuration files of this machine, whatever its role. What
// its configuration can't say for being wrong is where it is by default.
func bundleFiles(c *cli.Context) doctor.Files {
	flags := given(c, placeOptions())
	files := doctor.Files{Config: config.DefaultConfigFile, Registries: config.DefaultRegistries}
	if file := c.String("config"); file != "" {
		files.Config = file
	}
	if server, err := config.LoadServer(flags, os.Environ()); err == nil {
		files.Config, files.Registries, files.Log = server.ConfigFile, server.Node.PrivateRegistry, server.Logging.File
		files.Secrets = []string{server.Join.Token.Reveal(), server.Join.AgentToken.Reveal()}
	} else if agent, err := config.LoadAgent(flags, os.Environ()); err == nil {
		files.Config, files.Registries, files.Log = agent.ConfigFile, agent.Node.PrivateRegistry, agent.Logging.File
		files.Secrets = []string{agent.Join.Token.Reveal()}
	}
	return files
}
