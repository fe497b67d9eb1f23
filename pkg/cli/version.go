package cli

import (
	"fmt"
	"io"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/version"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:   "version",
		Usage:  "print the version",
		Action: func(c *cli.Context) error { printVersion(c.App.Writer); return nil },
	}
}

func printVersion(w io.Writer) {
	fmt.Fprintf(w, "kedge version %s\ngo version %s\n", version.String(), runtime.Version())
}
