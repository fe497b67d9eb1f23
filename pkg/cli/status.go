package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/kedge-k8s/kedge/pkg/status"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show on one screen how Kedge is on this machine, and what is wrong",
		UsageText: "kedge status [options]",
		Description: `On a server it shows the whole cluster, on an agent its own node. Ends with
exit code 0 when all is well, 1 when something is wrong, and 2 when Kedge does
not run or does not answer yet.`,
		Flags: append(flagsOf(placeOptions()),
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "Show it again and again, until Ctrl-C", DisableDefaultText: true},
			&cli.DurationFlag{Name: "interval", Usage: "With --watch, look again after this `TIME`", Value: 2 * time.Second},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "Print as `FORM`: text or json", Value: "text"},
		),
		OnUsageError: usageError,
		Action:       showStatus,
	}
}

func showStatus(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c, "text")
	if err != nil {
		return err
	}
	if interval := c.Duration("interval"); interval < 100*time.Millisecond {
		return fmt.Errorf("--interval: %s is too short: give 100ms or more", interval)
	}
	if os.Geteuid() != 0 {
		return errors.New("what runs on this machine is for root alone to ask: use sudo")
	}
	paths, _ := places(c)
	source := status.Source{Socket: controlSocket(), Paths: paths}
	if !c.Bool("watch") {
		report := source.Collect(c.Context)
		if err := printStatus(c, report, asJSON, false); err != nil {
			return err
		}
		if code := report.Code(); code != 0 {
			return cli.Exit("", code)
		}
		return nil
	}
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return watchStatus(ctx, c, source, asJSON)
}

// watchStatus shows the status until ctx ends.
func watchStatus(ctx context.Context, c *cli.Context, source status.Source, asJSON bool) error {
	tick := time.NewTicker(c.Duration("interval"))
	defer tick.Stop()
	for {
		report := source.Collect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := printStatus(c, report, asJSON, true); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// clearScreen moves to the upper left corner and clears what is below.
const clearScreen = "\x1b[H\x1b[2J"

func printStatus(c *cli.Context, report *status.Report, asJSON, again bool) error {
	if asJSON {
		if again {
			return json.NewEncoder(c.App.Writer).Encode(report) // a line each
		}
		return printJSON(c, report)
	}
	form := terminalForm()
	switch {
	case again && form.Width > 0:
		fmt.Fprint(c.App.Writer, clearScreen)
		fmt.Fprintf(c.App.Writer, "%s, every %s; Ctrl-C ends it\n\n", report.Taken.Format(time.DateTime), c.Duration("interval"))
	case again:
		fmt.Fprintf(c.App.Writer, "--- %s\n", report.Taken.Format(time.RFC3339))
	}
	return report.Print(c.App.Writer, form)
}

// terminalForm is how the standard output wants its text.
func terminalForm() status.Form {
	fd := int(os.Stdout.Fd())
	if !term.IsTerminal(fd) {
		return status.Form{}
	}
	width, _, err := term.GetSize(fd)
	if err != nil || width < 20 {
		width = 80
	}
	// https://no-color.org
	return status.Form{Width: width, Colour: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}
