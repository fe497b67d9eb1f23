package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestEveryOptionIsDocumented wants a row of the documentation to say what the
// table says.
func TestEveryOptionIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(doc), "\n")
	for _, o := range slices.Concat(ServerOptions(), agentOptions()) {
		if row := docsRow(o); !slices.Contains(lines, row) {
			t.Errorf("docs/configuration.md lacks the line\n%s", row)
		}
	}
}

func docsRow(o Option) string {
	name := "`" + strings.Join(append([]string{o.Name}, o.Aliases...), "`, `") + "`"
	if o.Kind == List {
		name += " (list)"
	}
	_, server := find(ServerOptions(), o.Name)
	_, agent := find(AgentOptions(), o.Name)
	role := "both"
	if !agent {
		role = "server"
	} else if !server {
		role = "agent"
	}
	value := o.Default
	if value != "" {
		value = "`" + value + "`"
	}
	return "| " + strings.Join([]string{name, role, value, o.Help}, " | ") + " |"
}
