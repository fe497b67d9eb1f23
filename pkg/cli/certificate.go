package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/datadir"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

func certificateCommand() *cli.Command {
	flags := flagsOf(placeOptions())
	return group(&cli.Command{
		Name:  "certificate",
		Usage: "look at the certificates of this machine, and replace them",
		Description: `Certificates are valid for a year. A running Kedge renews them four months
before their end, without a restart, so that there is nothing to do.`,
		Subcommands: []*cli.Command{
			{
				Name:      "check",
				Usage:     "list the certificates of this machine and when they end",
				UsageText: "kedge certificate check [options]",
				Description: `Kedge need not run. Ends with exit code 1 when a certificate has expired.
WARNING is for what should have been renewed a month ago, what is not valid yet
(look at the clock), and a CA in its last year.`,
				Flags:  append(flags, &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "Print as `FORM`: table or json", Value: "table"}),
				Action: checkCertificates,
			},
			{
				Name:      "rotate",
				Usage:     "replace all keys and certificates of this machine, but for those of CAs",
				UsageText: "kedge certificate rotate [options]",
				Description: `The running server or agent does it without a restart. On a server that does
not run it is done for its next start. The old certificates stay valid until
their end: there are no lists of revoked ones.`,
				Flags:  flags,
				Action: rotateCertificates,
			},
			{
				Name:      "rotate-ca",
				Usage:     "replace the CAs of the cluster, on a server",
				UsageText: "kedge certificate rotate-ca [options]",
				Description: `The old CAs sign the new ones, and both are trusted: nodes, pods, tokens and
copies of the kubeconfig go on. The server starts again, agents follow within
seconds without a restart, and one that is off when it is back. When all have,
--retire ends the trust in the old CAs.`,
				Flags: append(slices.Clone(flags),
					&cli.StringFlag{Name: "path", Usage: "Use CAs of your own from this `DIRECTORY`: server-ca.crt and .key, client-ca (only with server-ca) and request-header-ca alike; what is not there stays"},
					&cli.BoolFlag{Name: "retire", Usage: "Trust the old CAs no more; refused while a node does not know the new ones", DisableDefaultText: true},
					&cli.BoolFlag{Name: "force", Usage: "Go on where nodes are left behind, which have to join again", DisableDefaultText: true}),
				Action: rotateCA,
			},
		},
	})
}

// placeOptions are the options that say where a machine keeps its state.
func placeOptions() []config.Option {
	var place []config.Option
	for _, o := range config.ServerOptions() {
		if o.Name == "config" || o.Name == "data-dir" {
			place = append(place, o)
		}
	}
	return place
}

// places says where this machine keeps its certificates, whatever its role.
func places(c *cli.Context) (paths config.Paths, kubeconfig string) {
	var args []string
	for name, values := range given(c, placeOptions()) {
		for _, value := range values {
			args = append(args, "--"+name+"="+value)
		}
	}
	return config.Paths{DataDir: config.DataDir(args, os.Environ())}, config.AdminKubeconfig(args, os.Environ())
}

func checkCertificates(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c, "table")
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the certificates of this machine are for root alone: use sudo")
	}
	paths, kubeconfig := places(c)
	entries, err := findCertificates(paths, kubeconfig)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("there are no certificates in %s: neither a server nor an agent has run here; name another with --data-dir", paths.DataDir)
	}
	if asJSON {
		err = printJSON(c, entries)
	} else {
		err = printCertificates(c, entries)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Status == pki.Expired {
			return cli.Exit("", 1)
		}
	}
	return nil
}

func printCertificates(c *cli.Context, entries []pki.Entry) error {
	const form = "2006-01-02 15:04"
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "STATUS\tDAYS LEFT\tEXPIRES (UTC)\tNOT BEFORE\tUSAGE\tSUBJECT\tFILE")
	for _, e := range entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Status, strconv.Itoa(e.DaysLeft),
			e.NotAfter.UTC().Format(form), e.NotBefore.UTC().Format(form), e.Usage, e.Subject, e.File)
	}
	return w.Flush()
}

// findCertificates describes all certificates of a machine.
func findCertificates(paths config.Paths, kubeconfig string) ([]pki.Entry, error) {
	var all []pki.Entry
	for _, dir := range []string{paths.TLS(), filepath.Join(paths.TLS(), "etcd"), paths.AgentPKI()} {
		files, err := filepath.Glob(filepath.Join(dir, "*.crt"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			entries, err := pki.InspectFile(file)
			if err != nil {
				return nil, err
			}
			all = append(all, entries...)
		}
	}
	entries, err := inKubeconfig(kubeconfig)
	return append(all, entries...), err
}

// inKubeconfig describes the client certificate in a kubeconfig.
func inKubeconfig(path string) ([]pki.Entry, error) {
	content, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	context := content.Contexts[content.CurrentContext]
	if context == nil || content.AuthInfos[context.AuthInfo] == nil {
		return nil, nil
	}
	data := content.AuthInfos[context.AuthInfo].ClientCertificateData
	if len(data) == 0 {
		return nil, nil
	}
	return pki.Inspect(path, data)
}

func rotateCertificates(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the keys of this machine are for root alone: use sudo")
	}
	rotated, err := control.Call[control.None, control.Rotated](c.Context, controlSocket(), control.RotateCertificates, control.None{})
	if errors.Is(err, control.ErrNotRunning) {
		paths, _ := places(c)
		return rotateStopped(c, paths)
	}
	if err != nil {
		return fmt.Errorf("replace keys and certificates: %w", err)
	}
	for _, file := range rotated.Files {
		fmt.Fprintln(c.App.Writer, file)
	}
	fmt.Fprintln(c.App.ErrWriter, "Keys and certificates are replaced; Kedge takes them into use within minutes, without a restart.")
	return nil
}

// rotateStopped replaces keys and certificates of a server that does not run.
func rotateStopped(c *cli.Context, paths config.Paths) error {
	if _, err := os.Stat(paths.TLS()); err != nil {
		if _, err := os.Stat(paths.AgentPKI()); err == nil {
			return errors.New("no Kedge is running here: an agent gets new certificates at each start, and new keys when this is run while it runs")
		}
		return fmt.Errorf("no Kedge is running here, and none has run with the data directory %s: name another with --data-dir", paths.DataDir)
	}
	dir := datadir.Dir{Root: paths.DataDir, Role: paths.Server()}
	if err := dir.Check(); err != nil {
		return err
	}
	release, err := dir.Claim()
	if err != nil {
		return err
	}
	defer release()
	count, err := pki.ReissueAll(paths.TLS())
	if err != nil {
		return fmt.Errorf("replace keys and certificates: %w", err)
	}
	ofEtcd, err := pki.ReissueAll(filepath.Join(paths.TLS(), "etcd"))
	if err != nil {
		return fmt.Errorf("replace etcd's keys and certificates: %w", err)
	}
	count += ofEtcd
	fmt.Fprintf(c.App.ErrWriter, "No Kedge is running here: %d keys and certificates in %s are replaced for its next start, which also writes the administrator's kubeconfig anew.\n", count, paths.TLS())
	return nil
}

func rotateCA(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the CAs of this machine are for root alone: use sudo")
	}
	ask := control.Succession{Dir: c.String("path"), Force: c.Bool("force"), Retire: c.Bool("retire")}
	if ask.Dir != "" {
		if ask.Retire {
			return errors.New("--retire and --path do not go together: bring in the new CAs first, and retire the old ones when all nodes know them")
		}
		dir, err := filepath.Abs(ask.Dir)
		if err != nil {
			return err
		}
		ask.Dir = dir
	}
	rotated, err := control.Call[control.Succession, control.Rotated](c.Context, controlSocket(), control.RotateCA, ask)
	if errors.Is(err, control.ErrNotRunning) {
		return fmt.Errorf("%w; start the server and try again", err)
	}
	if err != nil {
		return fmt.Errorf("replace the CAs: %w", err)
	}
	for _, file := range rotated.Files {
		fmt.Fprintln(c.App.Writer, file)
	}
	if ask.Retire {
		fmt.Fprintln(c.App.ErrWriter, "The old CAs are not trusted any more. The server starts again; pods keep running. Copies of the kubeconfig and of tokens from before must be replaced.")
		return nil
	}
	fmt.Fprintln(c.App.ErrWriter, "The CAs are new. The server starts again; pods keep running, and nodes follow by themselves. Later, end the trust in the old ones with: kedge certificate rotate-ca --retire")
	return nil
}
