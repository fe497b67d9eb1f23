package main

import (
	"os"
	"strings"
	"testing"

	"github.com/kedge-k8s/kedge/pkg/config"
)

func TestPageIsUpToDate(t *testing.T) {
	page, err := os.ReadFile("../../docs/options.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != render() {
		t.Error("docs/options.md is not what pkg/config says: run make docs")
	}
}

func TestEveryOptionIsInIt(t *testing.T) {
	page := render()
	for _, o := range append(config.ServerOptions(), config.AgentOptions()...) {
		if strings.Count(page, "| `"+o.Name+"`") != 1 {
			t.Errorf("%s is not in it once", o.Name)
		}
	}
}
