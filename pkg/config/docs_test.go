package config

import (
	"os"
	"strings"
	"testing"
)

func TestEveryOptionIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ServerOptions() {
		if !strings.Contains(string(doc), "| `"+o.Name+"`") {
			t.Errorf("docs/configuration.md lacks %s", o.Name)
		}
	}
}
