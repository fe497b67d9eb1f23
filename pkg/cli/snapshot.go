package cli

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/agent"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/datadir"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/server"
	"github.com/kedge-k8s/kedge/pkg/snapshot"
)

func snapshotCommand() *cli.Command {
	output := &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "Print as `FORM`: table or json", Value: "table"}
	return group(&cli.Command{
		Name:    "snapshot",
		Aliases: []string{"etcd-snapshot"},
		Usage:   "make backups of the cluster's state, and go back to one",
		Description: `A snapshot is one file with all that a new machine needs to become this
server again. What is secret in it is encrypted with the server's token
(server/token in the data directory): keep that too, somewhere else.
A running server takes snapshots by itself, every twelve hours by default.`,
		Subcommands: []*cli.Command{
			{
				Name:      "save",
				Usage:     "take a snapshot, whether the server runs or not",
				UsageText: "kedge snapshot save [options]",
				Flags:     flagsOf(snapshotOptions("name", "dir", "compress")),
				Action:    saveSnapshot,
			},
			{
				Name:      "list",
				Aliases:   []string{"ls"},
				Usage:     "list the snapshots, the newest first",
				UsageText: "kedge snapshot list [options]",
				Flags:     append(flagsOf(snapshotOptions("dir")), output),
				Action:    listSnapshots,
			},
			{
				Name:      "delete",
				Usage:     "delete snapshots",
				UsageText: "kedge snapshot delete [options] NAME...",
				Flags:     flagsOf(snapshotOptions("dir")),
				Action:    deleteSnapshots,
			},
			{
				Name:      "prune",
				Usage:     "delete the oldest snapshots of a name",
				UsageText: "kedge snapshot prune [options]",
				Description: `Scheduled snapshots are pruned by themselves. Those that kedge snapshot save
has taken are not, unless it was told a name: --name on-demand prunes them.`,
				Flags:  flagsOf(snapshotOptions("name", "dir", "retention")),
				Action: pruneSnapshots,
			},
			{
				Name:      "verify",
				Usage:     "read snapshots from end to end, and say whether they can be restored",
				UsageText: "kedge snapshot verify [options] [NAME|FILE...]",
				Description: `Without a name, all snapshots are read. With the server's token at hand its
secrets are tried too. Ends with exit code 1 if one is damaged.`,
				Flags:  flagsOf(append(snapshotOptions("dir"), tokenOptions()...)),
				Action: verifySnapshots,
			},
			{
				Name:      "restore",
				Usage:     "go back to a snapshot, on a stopped server or a new machine",
				UsageText: "kedge snapshot restore [options] NAME|FILE",
				Description: `On a new machine give the token that the server had, with --token-file or in
KEDGE_TOKEN. What is there already is moved aside, never deleted.
With etcd-s3 a snapshot that is not here is fetched from the bucket.
Start the server afterwards.`,
				Flags:  flagsOf(restoreOptions()),
				Action: restoreSnapshot,
			},
		},
	})
}

// snapshotOptions are the options of a command about snapshots: the server's,
// some with a shorter name as well.
func snapshotOptions(names ...string) []config.Option {
	options := placeOptions()
	for _, o := range config.SnapshotOptions() {
		for _, name := range names {
			if o.Name == "etcd-snapshot-"+name {
				o.Aliases = []string{"snapshot-" + name}
				if name != "compress" && name != "retention" {
					o.Aliases = append(o.Aliases, name)
				}
				options = append(options, o)
			}
		}
	}
	return options
}

// restoreOptions are the options of a restore.
func restoreOptions() []config.Option {
	options := append(snapshotOptions("dir"), tokenOptions()...)
	return append(options, slices.DeleteFunc(config.SnapshotOptions(), func(o config.Option) bool { return !strings.HasPrefix(o.Name, "etcd-s3") })...)
}

// tokenOptions are the options that give the server's token.
func tokenOptions() []config.Option {
	return slices.DeleteFunc(config.ServerOptions(), func(o config.Option) bool { return o.Name != "token" && o.Name != "token-file" })
}

// snapshots is what the commands work with.
type snapshots struct {
	config *config.Server
	keeper *snapshot.Keeper
}

func openSnapshots(c *cli.Context, options []config.Option) (snapshots, error) {
	if os.Geteuid() != 0 {
		return snapshots{}, errors.New("snapshots are for root alone: use sudo")
	}
	flags := given(c, options)
	paths, _ := places(c)
	flags["data-dir"] = []string{paths.DataDir}
	cfg, err := config.LoadServer(flags, os.Environ())
	if err != nil {
		return snapshots{}, err
	}
	if cfg.Datastore.Endpoint != "" {
		return snapshots{}, errors.New("the cluster's state is kept in an external datastore: make backups with that one's own tools")
	}
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
	node, err := agent.NewNode(cfg.Node, cfg.Paths, "", log)
	if err != nil {
		return snapshots{}, err
	}
	return snapshots{cfg, server.NewKeeper(cfg, node.Name(), cfg.Snapshots.Dir, nil, log)}, nil
}

// claim keeps a server from starting meanwhile.
func (s snapshots) claim() (release func(), err error) {
	dir := datadir.Dir{Root: s.config.Paths.DataDir, Role: s.config.Paths.Server()}
	if err := dir.Check(); err != nil {
		return nil, err
	}
	release, err = dir.Claim()
	if err == nil {
		snapshot.ClearLeftovers(dir.Role)
	}
	return release, err
}

// ranHere refuses a machine on which no server has run.
func (s snapshots) ranHere() error {
	if _, err := os.Stat(s.config.Paths.TLS()); err != nil {
		return fmt.Errorf("no Kedge is running here, and no server has run with the data directory %s: name another with --data-dir", s.config.Paths.DataDir)
	}
	return nil
}

// ask asks the running server, or does it without one.
func ask[A any](c *cli.Context, command string, request control.Snapshots, alone func() (A, error)) (A, error) {
	answer, err := control.Call[control.Snapshots, A](c.Context, controlSocket(), command, request)
	if errors.Is(err, control.ErrNotRunning) {
		return alone()
	}
	return answer, err
}

// request is what the command line says. What it does not is up to the server.
func request(c *cli.Context) (r control.Snapshots, err error) {
	if c.IsSet("etcd-snapshot-name") {
		r.Prefix = c.String("etcd-snapshot-name")
	}
	if c.IsSet("etcd-snapshot-compress") {
		compress := c.Bool("etcd-snapshot-compress")
		r.Compress = &compress
	}
	if c.IsSet("etcd-snapshot-retention") {
		keep, err := strconv.Atoi(c.String("etcd-snapshot-retention"))
		if err != nil {
			return r, err
		}
		r.Keep = &keep
	}
	return r, nil
}

// open reads the options, and makes the request for a running server.
func open(c *cli.Context, options []config.Option) (snapshots, control.Snapshots, error) {
	s, err := openSnapshots(c, options)
	if err != nil {
		return s, control.Snapshots{}, err
	}
	r, err := request(c)
	if c.IsSet("etcd-snapshot-dir") {
		r.Dir = s.config.Snapshots.Dir // absolute
	}
	return s, r, err
}

func saveSnapshot(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	s, r, err := open(c, snapshotOptions("name", "dir", "compress"))
	if err != nil {
		return err
	}
	file, err := ask(c, control.SaveSnapshot, r, func() (snapshot.File, error) {
		if err := s.ranHere(); err != nil {
			return snapshot.File{}, err
		}
		release, err := s.claim()
		if err != nil {
			return snapshot.File{}, err
		}
		defer release()
		file, err := s.keeper.Save(c.Context, snapshot.Request{Prefix: cmp.Or(r.Prefix, server.OnDemand), Compress: s.config.Snapshots.Compress})
		if err == nil && s.config.Snapshots.S3.Enabled && r.Dir == "" {
			file.Pending = "it is done when the server runs"
			err = s.keeper.SetPending(file.Name)
		}
		return file, err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "snapshot %s saved: %s, %d bytes\n", file.Name, file.Location, file.Size)
	if file.Copy != "" {
		fmt.Fprintf(c.App.Writer, "and copied to %s\n", file.Copy)
	}
	if file.Pending != "" {
		fmt.Fprintf(c.App.ErrWriter, "kedge: the snapshot is not copied yet, which the server will try again: %s\n", file.Pending)
	}
	return nil
}

func listSnapshots(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c, "table")
	if err != nil {
		return err
	}
	s, r, err := open(c, snapshotOptions("dir"))
	if err != nil {
		return err
	}
	listing, err := ask(c, control.ListSnapshots, r, func() (snapshot.Listing, error) {
		files, err := s.keeper.List(c.Context)
		return snapshot.Listing{Files: files}, err
	})
	if err != nil {
		return err
	}
	if listing.Warning != "" {
		fmt.Fprintln(c.App.ErrWriter, "kedge: copies may be missing from the list: "+listing.Warning)
	}
	files := listing.Files
	if asJSON {
		return printJSON(c, slices.Concat([]snapshot.File{}, files))
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tNODE\tLOCATION\tSIZE\tCREATED")
	for _, f := range files {
		created := f.Created.UTC().Format(time.RFC3339)
		if f.Damage != "" {
			created = "damaged: " + f.Damage
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", f.Name, f.Node, f.Location, f.Size, created)
	}
	return w.Flush()
}

func deleteSnapshots(c *cli.Context) error {
	if c.NArg() == 0 {
		return errors.New("name a snapshot; kedge snapshot list shows them")
	}
	s, r, err := open(c, snapshotOptions("dir"))
	if err != nil {
		return err
	}
	r.Names = c.Args().Slice()
	gone, err := ask(c, control.DeleteSnapshots, r, func() ([]string, error) { return r.Names, s.keeper.Delete(r.Names...) })
	if err != nil {
		return err
	}
	printDeleted(c, gone)
	return nil
}

func printDeleted(c *cli.Context, names []string) {
	for _, name := range names {
		fmt.Fprintf(c.App.Writer, "snapshot %s deleted\n", name)
	}
}

func pruneSnapshots(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	s, r, err := open(c, snapshotOptions("name", "dir", "retention"))
	if err != nil {
		return err
	}
	gone, err := ask(c, control.PruneSnapshots, r, func() ([]string, error) {
		return s.keeper.Prune(c.Context, s.config.Snapshots.Name, s.config.Snapshots.Retention)
	})
	printDeleted(c, gone)
	return err
}

func verifySnapshots(c *cli.Context) error {
	s, _, err := open(c, append(snapshotOptions("dir"), tokenOptions()...))
	if err != nil {
		return err
	}
	own, err := server.Token(s.config)
	if err != nil {
		return err
	}
	names := c.Args().Slice()
	if len(names) == 0 {
		files, err := s.keeper.List(c.Context)
		if err != nil {
			return err
		}
		for _, f := range files {
			names = append(names, f.Name)
		}
	}
	bad := 0
	for _, name := range names {
		path, err := s.keeper.Path(name)
		if err != nil {
			return err
		}
		file, err := s.keeper.Verify(c.Context, path, own)
		if err != nil {
			bad++
			fmt.Fprintln(c.App.ErrWriter, "kedge: "+err.Error())
			continue
		}
		note := ""
		if own.Secret() == "" {
			note = " (but for its secrets: give the server's token to try them)"
		}
		fmt.Fprintf(c.App.Writer, "snapshot %s is good%s\n", file.Name, note)
	}
	if bad > 0 {
		return cli.Exit("", 1)
	}
	return nil
}

func restoreSnapshot(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("name one snapshot or its file, after the options; kedge snapshot list shows those of this machine")
	}
	s, _, err := open(c, restoreOptions())
	if err != nil {
		return err
	}
	release, err := s.claim()
	if err != nil {
		return err
	}
	defer release()
	restored, err := server.Restore(c.Context, s.config, s.keeper, c.Args().First())
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "this machine is back at snapshot %s of %s\n", restored.Name, restored.Created.UTC().Format(time.RFC3339))
	if restored.Aside != "" {
		fmt.Fprintf(c.App.Writer, "what was here before is in %s\n", restored.Aside)
	}
	fmt.Fprintln(c.App.Writer, "start the server now")
	if datastore.UsesEtcd(s.config.Paths) {
		server.SayAlone(c.App.Writer, s.config.Paths)
	}
	return nil
}
