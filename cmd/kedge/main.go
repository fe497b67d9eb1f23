// Command kedge is the whole of Kedge but for the launcher that unpacks it.
package main

import (
	"context"
	"os"

	"github.com/kedge-k8s/kedge/pkg/cli"
)

func main() { os.Exit(cli.Main(context.Background(), os.Args)) }
