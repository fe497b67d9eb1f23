package config

import (
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// loadNode loads an agent as load does a server.
func loadNode(t *testing.T, file string, env []string, flags Flags) (*Agent, error) {
	t.Helper()
	dir := tree(t, map[string]string{"config.yaml": file})
	a, err := loadAgent(flags, env, filepath.Join(dir, "config.yaml"), hostname)
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), dir, "DIR"))
	}
	return a, err
}

func TestAgentDefaults(t *testing.T) {
	got, err := loadNode(t, "server: https://192.0.2.1:6443", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &Agent{
		ConfigFile: "/etc/kedge/config.yaml",
		Paths:      Paths{DataDir: "/var/lib/kedge"},
		Join:       Join{Server: "https://192.0.2.1:6443"},
		Node:       Node{Name: "host.example", LBPort: 6444, Snapshotter: "overlayfs", PrivateRegistry: "/etc/kedge/registries.yaml"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestEveryAgentOption is TestEveryOption for agents.
func TestEveryAgentOption(t *testing.T) {
	want := &Agent{
		ConfigFile: "/etc/kedge/config.yaml",
		Paths:      Paths{DataDir: "/data"},
		Logging:    Logging{Debug: true, Verbosity: 4, VModule: "reflector=4,kubelet*=2", File: "/var/log/kedge.log"},
		Join:       Join{Server: "https://kedge.example.com:6443", Token: "server:secret"},
		Node:       everyNode(),
	}
	want.Node.LBPort = 7444
	file, env, flags := sources(t, AgentOptions())
	for _, tt := range []struct {
		name, file string
		env        []string
		flags      Flags
	}{
		{name: "file", file: file},
		{name: "environment", env: env},
		{name: "flags", flags: flags},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := loadNode(t, tt.file, tt.env, tt.flags)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestAgentErrors(t *testing.T) {
	const server = "server: https://h\n"
	tests := []struct {
		name, file string
		env        []string
		flags      Flags
		want       string
	}{
		{name: "no server", want: `server: is missing; name a server with --server https://HOST:6443`},
		{name: "an empty server", file: "server: ''", want: `server: is missing; name a server with --server https://HOST:6443`},
		{name: "a server's option", file: server + "cluster-cidr: 10.42.0.0/16",
			want: `DIR/config.yaml:2: cluster-cidr: is an option of servers, from which agents take what they need; remove it`},
		{name: "a server's list", file: server + "tls-san+: [a]",
			want: `DIR/config.yaml:2: tls-san: is an option of servers, from which agents take what they need; remove it`},
		{name: "a server's secret", file: server + "agent-token: node:secret",
			want: `DIR/config.yaml:2: agent-token: is an option of servers, from which agents take what they need; remove it`},
		{name: "a server's flag", flags: Flags{"disable-agent": {"true"}},
			want: `disable-agent: is an option of servers, from which agents take what they need; remove it`},
		{name: "unknown option", file: "node-lable: a=b", want: `DIR/config.yaml:1: unknown option "node-lable"; did you mean "node-label"?`},
		{name: "unknown and nothing near", file: "rootless: true", want: `DIR/config.yaml:1: unknown option "rootless"; kedge agent --help lists the options`},
		{name: "short name", file: "s: https://h", want: `DIR/config.yaml:1: unknown option "s"; did you mean "server"?`},
		{name: "a wrong value", file: server + "lb-server-port: 0", want: `DIR/config.yaml:2: lb-server-port: 0 is out of range; give a port from 1 to 65535`},
		{name: "a wrong token", file: server + "token: K10secret::x", env: []string{"KEDGE_TOKEN=good"},
			want: `DIR/config.yaml:2: token: the part of the token between K10 and '::' must be 64 hexadecimal digits, the SHA-256 of the cluster's CA; a part of the token may be missing; give one as a server has it in the file server/token of its data directory`},
		{name: "a token with an asterisk", file: "token: *secret",
			want: `DIR/config.yaml:1: malformed YAML: a value begins with *, which refers to an anchor that is not there; put it in quotes`},
		{name: "a list for a token", file: "token: [secret]", want: `DIR/config.yaml:1: token: found a list; want a single value`},
		{name: "two tokens", file: server + "token: secret", env: []string{"KEDGE_TOKEN_FILE=/x"},
			want: `KEDGE_TOKEN_FILE: cannot be given with token (DIR/config.yaml:2); remove one of them`},
		{name: "without effect", file: server + "container-runtime-endpoint: /x\nselinux: true",
			want: `DIR/config.yaml:3: selinux: has no effect with container-runtime-endpoint (DIR/config.yaml:2); remove one of them`},
		{name: "half a pair", file: server + "image-credential-provider-config: /x",
			want: `DIR/config.yaml:2: image-credential-provider-config: has no effect without image-credential-provider-bin-dir; give both or neither`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadNode(t, tt.file, tt.env, tt.flags)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error is\n%v, want\n%s", err, tt.want)
			}
		})
	}
}

// TestAgentOfAnyCluster wants an agent to be free of the defaults of a server's
// network.
func TestAgentOfAnyCluster(t *testing.T) {
	got, err := loadNode(t, "server: https://[2001:db8::1]\nnode-ip: 10.42.0.7\nnode-external-ip: 10.43.0.7\nflannel-iface: eth0\nkube-proxy-arg: v=1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Node.IPs, addrs("10.42.0.7")) {
		t.Errorf("addresses are %v", got.Node.IPs)
	}
}

func TestServerURL(t *testing.T) {
	const other = "is not the URL of a server; give one such as https://kedge.example.com:6443"
	hash := strings.Repeat("0a", 32)
	tests := []struct{ given, want, err string }{
		{given: "https://kedge.example.com:6443", want: "https://kedge.example.com:6443"},
		{given: "https://kedge.example.com", want: "https://kedge.example.com:6443"},
		{given: "HTTPS://Kedge.Example.com:443/", want: "https://kedge.example.com:443"},
		{given: "https://192.0.2.1:7443", want: "https://192.0.2.1:7443"},
		{given: "https://[2001:DB8::1]:7443", want: "https://[2001:db8::1]:7443"},
		{given: "https://[2001:db8::1]", want: "https://[2001:db8::1]:6443"},
		{given: "https://server", want: "https://server:6443"},

		{given: "http://h", err: "is not an https URL; give https://h:6443"},
		{given: "http://h:80/x", err: "is not an https URL; give https://h:80"},
		{given: "wss://h:6443", err: "is not an https URL; give https://h:6443"},
		{given: "h:6443", err: "has no scheme; give https://h:6443"},
		{given: "server:6443", err: "has no scheme; give https://server:6443"},
		{given: "192.0.2.1", err: "has no scheme; give https://192.0.2.1:6443"},
		{given: "[2001:db8::1]:7443", err: "has no scheme; give https://[2001:db8::1]:7443"},
		{given: "https://h:6443/v1", err: "has more than a host and a port; give https://h:6443"},
		{given: "https://h:6443?token=secret", err: "has more than a host and a port; give https://h:6443"},
		{given: "https://h:6443?", err: "has more than a host and a port; give https://h:6443"},
		{given: "https://h:6443#secret", err: "has more than a host and a port; give https://h:6443"},
		{given: "https://admin:secret@h", err: "has more than a host and a port; give https://h:6443"},

		{given: "https://", err: other},
		{given: "https://:6443", err: other},
		{given: "https://h:", err: other},
		{given: "https://h:0", err: other},
		{given: "https://h:65536", err: other},
		{given: "https://h:secret", err: other},
		{given: "https://a_b:6443", err: other},
		{given: "https://*.example.com", err: other},
		{given: "https://10.0.0.256", err: other},
		{given: "https://[fe80::1%25eth0]:6443", err: other},
		{given: "https://a b", err: other},
		{given: "https:h", err: other},
		{given: "https://https://h", err: other},
		{given: "2001:db8::1", err: other},
		{given: "secret", err: other},
		{given: "node:secret", err: other},
		{given: "K10" + hash + "::server:secret", err: "is a token; give the URL of a server"},
		{given: "secret.0123456789abcdef", err: "is a token; give the URL of a server"},
	}
	for _, tt := range tests {
		t.Run(tt.given, func(t *testing.T) {
			got, err := parseServer(tt.given)
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if (err != nil) != (tt.err != "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("error is %v, want %q", err, tt.err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}
