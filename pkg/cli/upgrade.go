package cli

import "github.com/urfave/cli/v2"

func upgradeCommand() *cli.Command { return &cli.Command{Name: "upgrade"} }
