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

func TestSecretsInFiles(t *testing.T) {
	const (
		private = 0o600
		open    = 0o644
	)
	for name, tt := range map[string]struct {
		content string
		mode    os.FileMode
		want    string // how the warning begins behind the file's name; empty: there is none
	}{
		"token":                      {"debug: true\ntoken: s3cret\n", open, ":2: token: the file is open to every user of this machine (mode 0644)"},
		"agent-token":                {"agent-token: s3cret\n", open, ":1: agent-token: "},
		"secret key":                 {"etcd-s3: true\netcd-s3-bucket: b\netcd-s3-secret-key: s3cret\netcd-s3-access-key: a\n", open, ":3: etcd-s3-secret-key: "},
		"password":                   {"datastore-endpoint: postgres://a:s3cret@h/d\n", open, ":1: datastore-endpoint: "},
		"writable":                   {"token: s3cret\n", 0o602, ":1: token: the file is open to every user of this machine (mode 0602)"},
		"private":                    {"token: s3cret\n", private, ""},
		"a group's":                  {"token: s3cret\n", 0o640, ""},
		"no secret":                  {"debug: true\ntoken-file: token\n", open, ""},
		"no password":                {"datastore-endpoint: postgres://h/d\n", open, ""},
		"a secret that is not there": {"etcd-s3-session-token: ''\n", open, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, map[string]string{"config.yaml": "", "config.yaml.d/1.yaml": tt.content, "token": "s3cret\n"})
			t.Chdir(dir)
			file := filepath.Join(dir, "config.yaml.d/1.yaml")
			if err := os.Chmod(file, tt.mode); err != nil {
				t.Fatal(err)
			}
			s, err := loadServer(nil, nil, filepath.Join(dir, "config.yaml"), hostname)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(s.Warnings, "\n")
			if tt.want == "" && got != "" || !strings.HasPrefix(got, file+tt.want) && tt.want != "" || len(s.Warnings) > 1 {
				t.Errorf("warnings are %q, want %q", got, tt.want)
			}
			if tt.want != "" && !strings.HasSuffix(got, "chmod 600 "+file) || strings.Contains(got, "s3cret") {
				t.Errorf("the warning is %q", got)
			}
		})
	}
}
