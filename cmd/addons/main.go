// Command addons is all of Kedge's Go add-ons in one program, so that their images
// share one layer and their processes one page cache. The name it is called by, or
// else its first argument, says which it is: coredns -conf F, addons coredns -conf F.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kedge-k8s/kedge/cmd/addons/dashboard"
	"github.com/kedge-k8s/kedge/cmd/addons/ingress"
)

// addons are the add-ons by name, each the main function of its program: it finds
// its own name and arguments in os.Args.
var addons = map[string]func(){
	"coredns":        coreDNS,
	"dashboard":      dashboard.Main,
	"ingress":        ingress.Main,
	"metrics-server": metricsServer,
	"probe":          probe,
}

func main() {
	name, args, err := choose(os.Args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "addons:", err)
		os.Exit(2)
	}
	os.Args = args
	go settle()
	addons[name]()
}

// choose finds the add-on that a command line calls, and the command line as that
// add-on is to see it.
func choose(args []string) (name string, rest []string, err error) {
	for i := range min(len(args), 2) {
		name = filepath.Base(args[i])
		if _, ok := addons[name]; ok {
			return name, args[i:], nil
		}
	}
	known := strings.Join(slices.Sorted(maps.Keys(addons)), ", ")
	if len(args) < 2 {
		return "", nil, fmt.Errorf("which add-on? there are: %s", known)
	}
	return "", nil, fmt.Errorf("no add-on is called %q; there are: %s", args[1], known)
}
