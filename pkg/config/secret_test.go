package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestSecret(t *testing.T) {
	s := Secret("s3cret")
	if s.Reveal() != "s3cret" {
		t.Errorf("the secret is %q", s.Reveal())
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%5.1s"} {
		if got := fmt.Sprintf(verb, s); got != "[redacted]" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("joining", "token", s)
	if !strings.Contains(log.String(), "token=[redacted]") {
		t.Errorf("the log says %s", log.String())
	}
	if got := fmt.Sprint(Secret("")); got != "" {
		t.Errorf("no secret prints %q", got)
	}
}

// TestSecretsStayInside prints a whole configuration in every way.
func TestSecretsStayInside(t *testing.T) {
	flags := Flags{"token": {"server:s3cret"}}
	a, err := loadNode(t, "server: https://h", nil, flags)
	if err != nil {
		t.Fatal(err)
	}
	flags["agent-token"] = []string{"node:s3cret"}
	s, err := load(t, nil, nil, flags)
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range []any{s, *s, s.Join, a, *a, a.Join} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
			fmt.Fprintf(&out, verb, config)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "config", config)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("JSON", "config", config)
		if err := json.NewEncoder(&out).Encode(config); err != nil {
			t.Fatal(err)
		}
		if err := yaml.NewEncoder(&out).Encode(config); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "s3cret") {
			t.Errorf("%T tells a secret: %s", config, out.String())
		}
		if n := strings.Count(out.String(), "[redacted]"); n < 10 {
			t.Errorf("%T says %d times that there is a secret", config, n)
		}
	}
}

func TestTokenFiles(t *testing.T) {
	dir := tree(t, map[string]string{
		"config.yaml": "token-file: missing\n",
		"token":       "server:s3cret\n",
		"agent-token": "s3cret-of-agents\n",
		"open":        "s3cret\n",
		"empty":       "\n",
		"malformed":   "K10s3cret\n",
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Chmod(at("open"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	tests := []struct {
		name     string
		env      []string
		flags    Flags
		want     Join
		warnings []string
		err      string
	}{
		{name: "file of the configuration", err: at("config.yaml") + ":1: token-file: names a file that does not exist"},
		{name: "only the one that counts is read", flags: Flags{"token-file": {at("token")}}, want: Join{Token: "server:s3cret"}},
		{name: "relative", flags: Flags{"token-file": {"token"}}, want: Join{Token: "server:s3cret"}},
		{name: "both", env: []string{"KEDGE_AGENT_TOKEN_FILE=agent-token"}, flags: Flags{"token-file": {"token"}},
			want: Join{Token: "server:s3cret", AgentToken: "s3cret-of-agents"}},
		{name: "open to everyone", flags: Flags{"token-file": {at("open")}}, want: Join{Token: "s3cret"},
			warnings: []string{"--token-file: the token file " + at("open") + " is open to every user of this machine (mode 0644); run: chmod 600 " + at("open")}},
		{name: "empty", env: []string{"KEDGE_TOKEN_FILE=" + at("empty")}, err: "KEDGE_TOKEN_FILE: read token: " + at("empty") + " is empty"},
		{name: "malformed", flags: Flags{"token-file": {at("malformed")}}, err: "--token-file: read token from " + at("malformed") + ": the token begins with K10"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := loadServer(tt.flags, tt.env, at("config.yaml"), hostname)
			if tt.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.err) || strings.Contains(err.Error(), "s3cret") {
					t.Errorf("error is %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Join != tt.want {
				t.Errorf("tokens are %q and %q", got.Join.Token.Reveal(), got.Join.AgentToken.Reveal())
			}
			if !reflect.DeepEqual(got.Warnings, tt.warnings) {
				t.Errorf("warnings are %q, want %q", got.Warnings, tt.warnings)
			}
		})
	}
	a, err := loadAgent(Flags{"server": {"https://h"}, "token-file": {"open"}}, nil, "none", hostname)
	if err != nil {
		t.Fatal(err)
	}
	if a.Join.Token != "s3cret" || len(a.Warnings) != 1 {
		t.Errorf("an agent's token is %q, with the warnings %q", a.Join.Token.Reveal(), a.Warnings)
	}
}
