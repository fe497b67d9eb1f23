// Command options writes docs/options.md from the table of options in pkg/config.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/kedge-k8s/kedge/pkg/config"
)

func main() {
	out := flag.String("out", "docs/options.md", "`file` to write")
	flag.Parse()
	if err := os.WriteFile(*out, []byte(render()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "options:", err)
		os.Exit(1)
	}
}

const head = `# Every option

This page is made from the table of options in ` + "`pkg/config/options.go`" + ` by ` + "`make docs`" + `. How options are given is in [configuration.md](configuration.md).

An option ` + "`node-label`" + ` is the flag ` + "`--node-label`" + `, the key ` + "`node-label`" + ` of the configuration file and the environment variable ` + "`KEDGE_NODE_LABEL`" + `. A list takes several values. The role is ` + "`server`" + ` for an option of ` + "`kedge server`" + `, ` + "`agent`" + ` for one of ` + "`kedge agent`" + `, and ` + "`both`" + ` for one of either.
`

// render writes the page: a table for each category, in the order in which --help
// shows the options.
func render() string {
	server, agent := config.ServerOptions(), config.AgentOptions()
	all := slices.Clone(server)
	for _, o := range agent {
		if !has(server, o.Name) {
			all = append(all, o)
		}
	}
	var categories []string
	for _, o := range all {
		if !slices.Contains(categories, o.Category) {
			categories = append(categories, o.Category)
		}
	}
	var b strings.Builder
	b.WriteString(head)
	for _, category := range categories {
		fmt.Fprintf(&b, "\n## %s\n\n| option | role | default | meaning |\n|---|---|---|---|\n", category)
		for _, o := range all {
			if o.Category == category {
				b.WriteString(row(o, has(server, o.Name), has(agent, o.Name)) + "\n")
			}
		}
	}
	return b.String()
}

func has(options []config.Option, name string) bool {
	return slices.ContainsFunc(options, func(o config.Option) bool { return o.Name == name })
}

func row(o config.Option, server, agent bool) string {
	name := "`" + strings.Join(append([]string{o.Name}, o.Aliases...), "`, `") + "`"
	if o.Kind == config.List {
		name += " (list)"
	}
	role := "both"
	switch {
	case !agent:
		role = "server"
	case !server:
		role = "agent"
	}
	value := o.Default
	if value != "" {
		value = "`" + value + "`"
	}
	help := strings.ReplaceAll(o.Help, "|", `\|`)
	return "| " + strings.Join([]string{name, role, value, help}, " | ") + " |"
}
