// Package crictl is a client of the container runtime interface (CRI) with the
// commands, options and tables of the upstream crictl.
package crictl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/util/exec"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// Run runs crictl with the arguments that follow its name. It reports what
// fails, a line each, and returns the exit code, which is that of the command
// where one ran in a container.
func Run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	t := &tool{in: in, out: out, errOut: errOut}
	defer t.disconnect()
	err := t.app().RunContext(ctx, append([]string{"crictl"}, args...))
	if err == nil {
		return 0
	}
	for _, err := range unjoin(err) {
		fmt.Fprintln(errOut, "crictl: "+strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", " | "))
	}
	var exit exec.ExitError
	if errors.As(err, &exit) && exit.ExitStatus() > 0 {
		return exit.ExitStatus()
	}
	return 1
}

// unjoin takes apart what each has joined.
func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // a wrapped join is one message
		return joined.Unwrap()
	}
	return []error{err}
}

// tool is one run of crictl.
type tool struct {
	in          io.Reader
	out, errOut io.Writer
	options     options

	cri         // once connected
	connections []io.Closer
}

// verb is a command. Those that Kedge's users need each day are here.
type verb struct {
	name, usage string
	aliases     []string
	args        string // how help names the arguments
	least, most int    // number of arguments
	flags       []cli.Flag
	run         func(*cli.Context) error
}

const many = 1 << 16

func (t *tool) verbs() []verb {
	return []verb{
		{name: "ps", usage: "list containers", flags: listContainersFlags(), run: t.listContainers},
		{name: "pods", usage: "list pods", flags: listPodsFlags(), run: t.listPods},
		{name: "images", aliases: []string{"image", "img"}, usage: "list images", args: "[REPOSITORY[:TAG]]", most: 1, flags: listImagesFlags(), run: t.listImages},

		{name: "inspect", usage: "show all about containers", args: "CONTAINER-ID...", least: 1, most: many, flags: inspectFlags(), run: t.inspectContainers},
		{name: "inspectp", usage: "show all about pods", args: "POD-ID...", least: 1, most: many, flags: inspectFlags(), run: t.inspectPods},
		{name: "inspecti", usage: "show all about images", args: "IMAGE...", least: 1, most: many, flags: inspectFlags(), run: t.inspectImages},
		{name: "logs", usage: "show the log of a container", args: "CONTAINER-ID", least: 1, most: 1, flags: logsFlags(), run: t.logs},
		{name: "stats", usage: "show what containers use", args: "[CONTAINER-ID]", most: 1, flags: containerStatsFlags(), run: t.containerStats},
		{name: "statsp", usage: "show what pods use", args: "[POD-ID]", most: 1, flags: podStatsFlags(), run: t.podStats},
		{name: "info", usage: "show the state of the runtime", flags: inspectFlags(), run: t.info},
		{name: "version", usage: "show the version of the runtime", run: t.version},

		{name: "exec", usage: "run a command in a container", args: "CONTAINER-ID COMMAND [ARG...]", least: 2, most: many, flags: execFlags(), run: t.exec},
		{name: "attach", usage: "attach to a container; Ctrl-P Ctrl-Q detaches from a terminal", args: "CONTAINER-ID", least: 1, most: 1, flags: attachFlags(), run: t.attach},
		{name: "port-forward", usage: "forward local ports to a pod", args: "POD-ID [LOCAL-PORT:]PORT...", least: 2, most: many, run: t.portForward},

		{name: "pull", usage: "pull an image", args: "NAME[:TAG|@DIGEST]", least: 1, most: 1, flags: pullFlags(), run: t.pull},
		{name: "stop", usage: "stop containers", args: "CONTAINER-ID...", least: 1, most: many, flags: stopFlags(), run: t.stopContainers},
		{name: "stopp", usage: "stop pods", args: "POD-ID...", least: 1, most: many, run: t.stopPods},
		{name: "rm", usage: "remove containers", args: "CONTAINER-ID...", most: many, flags: removeContainersFlags(), run: t.removeContainers},
		{name: "rmp", usage: "remove pods", args: "POD-ID...", most: many, flags: removePodsFlags(), run: t.removePods},
		{name: "rmi", usage: "remove images", args: "IMAGE...", most: many, flags: removeImagesFlags(), run: t.removeImages},
	}
}

func (t *tool) app() *cli.App {
	app := &cli.App{
		Name:                   "crictl",
		Usage:                  "look at and handle containers, pods and images through the container runtime interface",
		UsageText:              "crictl [global options] COMMAND [options] [arguments]",
		Reader:                 t.in,
		Writer:                 t.out,
		ErrWriter:              t.errOut,
		HideVersion:            true, // the library's flag is a variable of the whole program
		UseShortOptionHandling: true,
		ExitErrHandler:         func(*cli.Context, error) {}, // Run reports errors, once
		OnUsageError:           usageError,
		Flags: append(t.options.flags(),
			&cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version", DisableDefaultText: true}),
	}
	for _, v := range t.verbs() {
		app.Commands = append(app.Commands, t.command(v))
	}
	app.Action = func(c *cli.Context) error {
		if c.Bool("version") {
			fmt.Fprintln(t.out, "crictl version "+version.String())
			return nil
		}
		name := c.Args().First()
		if name == "" {
			return cli.ShowAppHelp(c)
		}
		var known []string
		for _, command := range app.Commands {
			known = append(known, command.Name)
		}
		hint := ""
		if near := config.Nearest(name, known); near != "" {
			hint = fmt.Sprintf("; did you mean %q?", near)
		}
		return fmt.Errorf("unknown command %q%s; crictl --help lists the commands", name, hint)
	}
	return app
}

func (t *tool) command(v verb) *cli.Command {
	return &cli.Command{
		Name:                   v.name,
		Aliases:                v.aliases,
		Usage:                  v.usage,
		UsageText:              strings.TrimSpace("crictl " + v.name + " [options] " + v.args),
		Flags:                  v.flags,
		HideHelpCommand:        true,
		UseShortOptionHandling: true,
		OnUsageError:           usageError,
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			// The first argument ends the options. In exec the others belong to
			// the command.
			if i := slices.IndexFunc(args, isOption); i > 0 && v.name != "exec" {
				right := strings.Join(slices.Concat([]string{"crictl", v.name}, args[i:], args[:i]), " ")
				return fmt.Errorf("options go before the arguments: %s", right)
			}
			if n := len(args); n < v.least || n > v.most {
				return fmt.Errorf("wrong number of arguments, the usage is: %s", c.Command.UsageText)
			}
			if err := t.connect(c.Context); err != nil {
				return err
			}
			return v.run(c)
		},
	}
}

func isOption(arg string) bool { return len(arg) > 1 && arg[0] == '-' }

// usageError says in one line what the flag package finds wrong.
func usageError(c *cli.Context, err error, _ bool) error {
	help := "crictl --help"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "crictl" {
		help = "crictl " + c.Command.Name + " --help"
	}
	if name, found := strings.CutPrefix(err.Error(), "flag provided but not defined: "); found {
		if len(name) > 2 { // the flag package drops a dash
			name = "-" + name
		}
		return fmt.Errorf("unknown option %s; %s lists the options", name, help)
	}
	return fmt.Errorf("%w; %s explains the options", err, help)
}

// each does something with each of the ids that the user gives. One that fails
// doesn't keep it from the others.
func each(refs []string, do func(ref string) error) error {
	var failed []error
	for _, ref := range refs {
		if err := do(ref); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// labelsOf reads key=value pairs.
func labelsOf(pairs []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, pair := range pairs {
		key, value, found := strings.Cut(pair, "=")
		if !found || key == "" {
			return nil, fmt.Errorf("%q is not of the form key=value", pair)
		}
		labels[key] = value
	}
	return labels, nil
}

// removeLog removes the log of a container that is gone, and what was rotated
// out of it.
func removeLog(path string, rotated []string) error {
	var failed []error
	for _, file := range append(rotated, path) {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
