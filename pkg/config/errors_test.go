package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFileErrors wants one exact line for each mistake in a file.
func TestFileErrors(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"unknown option", "# labels\nnode-lable: a=b\n", `DIR/config.yaml:2: unknown option "node-lable"; did you mean "node-label"?`},
		{"unknown option with +", "node-lable+: a=b\n", `DIR/config.yaml:1: unknown option "node-lable"; did you mean "node-label"?`},
		{"unknown and nothing near", "rootless: true\n", `DIR/config.yaml:1: unknown option "rootless"; kedge server --help lists the options`},
		{"an option with dashes", "--node-label: a=b\n", `DIR/config.yaml:1: unknown option "--node-label"; did you mean "node-label"?`},
		{"short name", "d: /data\n", `DIR/config.yaml:1: unknown option "d"; did you mean "data-dir"?`},
		{"number as option", "1: 2\n", `DIR/config.yaml:1: unknown option "1"; kedge server --help lists the options`},
		{"list as option", "? [a]\n: b\n", `DIR/config.yaml:1: found a list where an option's name belongs`},
		{"merge key", "<<: {debug: true}\n", `DIR/config.yaml:1: unknown option "<<"; kedge server --help lists the options`},
		{"config in the file", "config: /x\n", `DIR/config.yaml:1: config: cannot be given in a configuration file; use --config or KEDGE_CONFIG`},
		{"twice", "debug: true\n\ndebug: false\n", `DIR/config.yaml:3: debug: is already given on line 1; give it once`},
		{"twice with +", "tls-san: a\ntls-san+: b\n", `DIR/config.yaml:2: tls-san: is already given on line 1; give it once`},
		{"+ on one value", "vmodule+: a=1\n", `DIR/config.yaml:1: vmodule: takes one value, so nothing can be appended to it; write "vmodule" without the +`},

		{"a list for a text", "\ndata-dir:\n  - /a\n", `DIR/config.yaml:2: data-dir: found a list; want a single value`},
		{"a list for a switch", "debug: [true]\n", `DIR/config.yaml:1: debug: found a list; want true or false`},
		{"a mapping for a number", "v: {a: 1}\n", `DIR/config.yaml:1: v: found a mapping; want a number`},
		{"a mapping for a list", "node-label:\n  a: b\n", `DIR/config.yaml:1: node-label: found a mapping; want a single value or a list of them`},
		{"a mapping in a list", "node-label:\n- a=b\n- c: d\n", `DIR/config.yaml:3: node-label: found a mapping; want a single value or a list of them`},
		{"no value", "log:\n", `DIR/config.yaml:1: log: has no value; give one or remove the line`},
		{"no value in a list", "tls-san:\n- a\n-\n", `DIR/config.yaml:3: tls-san: has no value; give one or remove the line`},
		{"a text for a switch", "debug: yes\n", `DIR/config.yaml:1: debug: "yes" is not true or false; give one of them`},
		{"a text for a number", "v: high\n", `DIR/config.yaml:1: v: "high" is not a number; give a level from 0 to 10`},
		{"a fraction for a number", "v: 1.5\n", `DIR/config.yaml:1: v: "1.5" is not a number; give a level from 0 to 10`},

		{"the line of a value", "tls-san:\n- a.example\n- https://b\n",
			`DIR/config.yaml:3: tls-san: "https://b" is neither a host name nor an IP address; give one without scheme and port, such as kedge.example.com`},
		{"the first of several", "debug: true\nv: x\nnode-lable: a\n", `DIR/config.yaml:2: v: "x" is not a number; give a level from 0 to 10`},
		{"though a flag overrides it", "bind-address: x\n", `DIR/config.yaml:1: bind-address: "x" is not an IP address; give one such as 192.0.2.10 or 2001:db8::10`},

		{"not a mapping", "# c\nhello\n", `DIR/config.yaml:2: found a single value; write one option on each line, as "name: value"`},
		{"a list of options", "- debug\n", `DIR/config.yaml:1: found a list; write one option on each line, as "name: value"`},
		{"second document", "debug: true\n---\nv: 1\n", `DIR/config.yaml:2: malformed YAML: a second document begins; give all options in the first one`},

		{"no colon", "# c\n# c\nv: 1\ndebug true\nlog: x\n", `DIR/config.yaml:4: malformed YAML: could not find expected ':'`},
		{"two colons", "v: 1\nlog: a: b\n", `DIR/config.yaml:2: malformed YAML: mapping values are not allowed in this context`},
		{"two colons in the first line", "log: a: b\n", `DIR/config.yaml:1: malformed YAML: mapping values are not allowed in this context`},
		{"tab", "v: 1\n\tlog: b\n", `DIR/config.yaml:2: malformed YAML: found a tab character that violates indentation`},
		{"wrong indent", "# c\nv: 1\ntls-san:\n  - x\n log: b\n", `DIR/config.yaml:5: malformed YAML: did not find expected key`},
		{"open bracket", "v: 1\ntls-san: [a,\n  b\nlog: c\n", `DIR/config.yaml:2: malformed YAML: did not find expected ',' or ']'`},
		{"open quote", "v: 1\nlog: \"a\nnode-name: b\n", `DIR/config.yaml:2: malformed YAML: found unexpected end of stream`},
		{"after a good bracket", "tls-san: [\n  a,\n]\nv: 1\n}\n", `DIR/config.yaml:5: malformed YAML: did not find expected key`},
		{"unknown anchor", "v: 1\nlog: *nope\ndebug: true\n", `DIR/config.yaml:2: malformed YAML: a value begins with *, which refers to an anchor that is not there; put it in quotes`},
		{"not text", "v: 1\nlog: \xff\xfe\n", `DIR/config.yaml:2: malformed YAML: invalid leading UTF-8 octet`},
		{"control character", "v: 1\nlog: a\x00\n", `DIR/config.yaml:2: malformed YAML: control characters are not allowed`},
		{"in a second document", "v: 1\n---\n{\n", `DIR/config.yaml:3: malformed YAML: did not find expected node content`},
		{"very long", strings.Repeat("# c\n", 3000) + "log: a: b\n", `DIR/config.yaml:3001: malformed YAML: mapping values are not allowed in this context`},
		{"too large", strings.Repeat("# comment\n", 1<<17), `DIR/config.yaml: is larger than 1024 KiB; give a configuration file in YAML`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, map[string]string{"config.yaml": tt.file}, nil, Flags{"bind-address": {"0.0.0.0"}})
			if err == nil || err.Error() != tt.want {
				t.Errorf("error is\n%v, want\n%s", err, tt.want)
			}
		})
	}
}

// TestSourceErrors wants each error to begin with the source to look at.
func TestSourceErrors(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		env   []string
		flags Flags
		want  string
	}{
		{name: "environment", env: []string{"KEDGE_HTTPS_LISTEN_PORT=64x"},
			want: `KEDGE_HTTPS_LISTEN_PORT: "64x" is not a number; give a port from 1 to 65535`},
		{name: "flag", flags: Flags{"cluster-dns": {"ten"}},
			want: `--cluster-dns: "ten" is not an IP address; give one such as 192.0.2.10 or 2001:db8::10`},
		{name: "short flag", flags: Flags{"v": {"11"}}, want: `-v: 11 is out of range; give a level from 0 to 10`},
		{name: "unknown flag", flags: Flags{"clusterdns": {"x"}}, want: `unknown option "clusterdns"; did you mean "cluster-dns"?`},
		{name: "drop-in", files: map[string]string{"config.yaml": "v: 1", "config.yaml.d/a.yaml": "debug: maybe"},
			want: `DIR/config.yaml.d/a.yaml:1: debug: "maybe" is not true or false; give one of them`},
		{name: "the first file first", files: map[string]string{"config.yaml": "v: x", "config.yaml.d/a.yaml": "{"},
			want: `DIR/config.yaml:1: v: "x" is not a number; give a level from 0 to 10`},
		{name: "file before environment before flag", files: map[string]string{"config.yaml": "v: x"}, env: []string{"KEDGE_V=y"}, flags: Flags{"v": {"z"}},
			want: `DIR/config.yaml:1: v: "x" is not a number; give a level from 0 to 10`},
		{name: "environment before flag", env: []string{"KEDGE_V=y"}, flags: Flags{"v": {"z"}},
			want: `KEDGE_V: "y" is not a number; give a level from 0 to 10`},
		{name: "an appended value", files: map[string]string{"config.yaml": "node-ip: 192.0.2.1", "config.yaml.d/a.yaml": "debug: true\nnode-ip+: 192.0.2.2"},
			want: `DIR/config.yaml.d/a.yaml:2: node-ip: 192.0.2.1,192.0.2.2 are two addresses of one IP family or more than two; give at most one IPv4 and one IPv6 address`},
		{name: "missing file by flag", flags: Flags{"config": {"/nowhere/c.yaml"}},
			want: `--config: the configuration file "/nowhere/c.yaml" does not exist; create it or name another`},
		{name: "missing file by environment", env: []string{"KEDGE_CONFIG=/nowhere/c.yaml"},
			want: `KEDGE_CONFIG: the configuration file "/nowhere/c.yaml" does not exist; create it or name another`},
		{name: "no file by flag", flags: Flags{"config": {""}},
			want: `--config: the configuration file "" does not exist; create it or name another`},
		{name: "two values of one pair", files: map[string]string{"config.yaml": "disable-scheduler: true"}, flags: Flags{"kube-scheduler-arg": {"v=1"}},
			want: `--kube-scheduler-arg: has no effect with disable-scheduler (DIR/config.yaml:1); remove one of them`},
		{name: "two tokens, flag to blame", files: map[string]string{"config.yaml": "token-file: /nowhere"}, flags: Flags{"token": {"t"}},
			want: `--token: cannot be given with token-file (DIR/config.yaml:1); remove one of them`},
		{name: "two tokens, file to blame", files: map[string]string{"config.yaml": "v: 0\nagent-token: t\nagent-token-file: /nowhere"},
			want: `DIR/config.yaml:3: agent-token-file: cannot be given with agent-token (DIR/config.yaml:2); remove one of them`},
		{name: "two missing token files", env: []string{"KEDGE_AGENT_TOKEN_FILE=/nowhere/b", "KEDGE_TOKEN_FILE=/nowhere/a"},
			want: `KEDGE_TOKEN_FILE: read token: open /nowhere/a: no such file or directory; name a file that holds the token`},
		{name: "overlap, flag to blame", files: map[string]string{"config.yaml": "cluster-cidr: 10.50.0.0/16"}, flags: Flags{"service-cidr": {"10.50.0.0/20"}},
			want: `--service-cidr: 10.50.0.0/20 overlaps cluster-cidr 10.50.0.0/16 (DIR/config.yaml:1); give pods and Services ranges that have no address in common`},
		{name: "overlap, file to blame", files: map[string]string{"config.yaml": "v: 0\ncluster-cidr: 10.43.0.0/17"},
			want: `DIR/config.yaml:2: cluster-cidr: 10.43.0.0/17 overlaps service-cidr 10.43.0.0/16 (default); give pods and Services ranges that have no address in common`},
		{name: "overlap, last line to blame", files: map[string]string{"config.yaml": "service-cidr: 10.43.0.0/17\ncluster-cidr:\n- fd00::/56\n- 10.43.0.0/18\nservice-cidr+: fd00::/112\n"},
			want: `DIR/config.yaml:5: service-cidr: is already given on line 1; give it once`},
		{name: "overlap in IPv6", env: []string{"KEDGE_CLUSTER_CIDR=10.42.0.0/16,fd00::/56", "KEDGE_SERVICE_CIDR=10.43.0.0/16,fd00::/112"},
			want: `KEDGE_SERVICE_CIDR: fd00::/112 overlaps cluster-cidr fd00::/56 (KEDGE_CLUSTER_CIDR); give pods and Services ranges that have no address in common`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 5 { // the same error every time
				_, err := load(t, tt.files, tt.env, tt.flags)
				if err == nil || err.Error() != tt.want {
					t.Fatalf("error is\n%v, want\n%s", err, tt.want)
				}
			}
		})
	}
}

// TestValues wants values to be refused for the right reason.
func TestValues(t *testing.T) {
	tests := []struct {
		flags Flags
		want  string
	}{
		{Flags{"data-dir": {""}}, "--data-dir: is empty; give a path"},
		{Flags{"write-kubeconfig": {""}}, "--write-kubeconfig: is empty; give a path"},
		{Flags{"v": {"-1"}}, "-1 is out of range"},
		{Flags{"v": {"99999999999999999999"}}, "99999999999999999999 is out of range; give a level"},
		{Flags{"vmodule": {"a=1,b"}}, `--vmodule: "b" is not a source file pattern`},
		{Flags{"vmodule": {"=1"}}, `"=1" is not a source file pattern`},
		{Flags{"vmodule": {"a=-1"}}, `"a=-1" is not a source file pattern`},
		{Flags{"bind-address": {"localhost"}}, `"localhost" is not an IP address`},
		{Flags{"bind-address": {"fe80::1%eth0"}}, `"fe80::1%eth0" is not an IP address`},
		{Flags{"bind-address": {"::ffff:192.0.2.1"}}, `is not an IP address`},
		{Flags{"bind-address": {"224.0.0.1"}}, "224.0.0.1 cannot be listened on"},
		{Flags{"bind-address": {"10.42.0.1"}}, "--bind-address: 10.42.0.1 is inside cluster-cidr 10.42.0.0/16 (default); give cluster-cidr a range"},
		{Flags{"https-listen-port": {"0"}}, "0 is out of range; give a port from 1 to 65535"},
		{Flags{"https-listen-port": {"65536"}}, "65536 is out of range"},
		{Flags{"advertise-address": {"0.0.0.0"}}, "0.0.0.0 is no address at which other hosts reach this one"},
		{Flags{"advertise-address": {"127.0.0.1"}}, "127.0.0.1 is no address"},
		{Flags{"advertise-address": {"fe80::1"}}, "fe80::1 is no address"},
		{Flags{"advertise-address": {"2001:db8::1"}}, "--advertise-address: 2001:db8::1 is not of the IP family of the first service-cidr 10.43.0.0/16 (default); give an IPv4 address"},
		{Flags{"advertise-address": {"10.43.0.1"}}, "is inside service-cidr 10.43.0.0/16"},
		{Flags{"tls-san": {"a_b"}}, `"a_b" is neither a host name nor an IP address`},
		{Flags{"tls-san": {"10.0.0.256"}}, `"10.0.0.256" is neither`},
		{Flags{"tls-san": {"a.*.b"}}, `"a.*.b" is neither`},
		{Flags{"tls-san": {"host:6443"}}, `"host:6443" is neither`},

		{Flags{"cluster-cidr": {""}}, "--cluster-cidr: is empty; give a CIDR range"},
		{Flags{"service-cidr": {""}}, "--service-cidr: is empty; give a CIDR range"},
		{Flags{"cluster-cidr": {"10.42.0.0"}}, `"10.42.0.0" is not an address range; give a CIDR`},
		{Flags{"cluster-cidr": {"10.42.0.0/33"}}, `is not an address range`},
		{Flags{"cluster-cidr": {"::ffff:10.0.0.0/104"}}, `is not an address range`},
		{Flags{"cluster-cidr": {"10.42.7.0/16"}}, "10.42.7.0/16 has address bits behind its prefix length; did you mean 10.42.0.0/16?"},
		{Flags{"cluster-cidr": {"127.0.0.0/16"}}, "127.0.0.0/16 overlaps 127.0.0.0/8, which has a special meaning"},
		{Flags{"cluster-cidr": {"0.0.0.0/0"}}, "overlaps 0.0.0.0/8"},
		{Flags{"cluster-cidr": {"ff00::/48"}}, "overlaps ff00::/8"},
		{Flags{"cluster-cidr": {"10.42.0.0/16,10.44.0.0/16"}}, "10.42.0.0/16,10.44.0.0/16 are two ranges of one IP family"},
		{Flags{"cluster-cidr": {"10.42.0.0/16", "fd42::/56", "fd44::/56"}}, "or more than two; give at most one IPv4 and one IPv6 range"},
		{Flags{"cluster-cidr": {"10.42.0.0/16", "fd42::/56"}}, "--cluster-cidr: 10.42.0.0/16,fd42::/56 is not of the same IP families as service-cidr 10.43.0.0/16 (default)"},
		{Flags{"cluster-cidr": {"fd42::/56"}}, "is not of the same IP families as"},
		{Flags{"cluster-cidr": {"fd42::/56"}, "service-cidr": {"10.43.0.0/16,fd43::/112"}}, "is not of the same IP families as"},
		{Flags{"service-cidr": {"fd43::/112"}}, "--service-cidr: fd43::/112 is not of the same IP families as cluster-cidr 10.42.0.0/16"},
		{Flags{"cluster-cidr": {"10.42.0.0/25"}}, "--cluster-cidr: 10.42.0.0/25 cannot be divided into a /24 for each node; give a range from /1 to /24"},
		{Flags{"cluster-cidr": {"fd42::/65"}, "service-cidr": {"fd43::/112"}}, "fd42::/65 cannot be divided into a /64 for each node; give a range from /48 to /64"},
		{Flags{"cluster-cidr": {"fd42::/47"}, "service-cidr": {"fd43::/112"}}, "give a range from /48 to /64"},
		{Flags{"service-cidr": {"10.96.0.0/11"}}, "--service-cidr: 10.96.0.0/11 is larger than Kubernetes allows for Services; give a range from /12 to /28"},
		{Flags{"service-cidr": {"10.96.0.0/29"}}, "10.96.0.0/29 is too small for Services; give a range from /12 to /28"},
		{Flags{"service-cidr": {"fd43::/107"}}, "give a range from /108 to /124"},
		{Flags{"service-node-port-range": {"30000"}}, `"30000" is not a port range; give FIRST-LAST`},
		{Flags{"service-node-port-range": {"0-100"}}, "is not a port range"},
		{Flags{"service-node-port-range": {"300-200"}}, "is not a port range"},
		{Flags{"service-node-port-range": {"1-65536"}}, "is not a port range"},
		{Flags{"cluster-dns": {"10.44.0.10"}}, "--cluster-dns: 10.44.0.10 is outside service-cidr 10.43.0.0/16 (default); give an address inside it"},
		{Flags{"cluster-dns": {"10.43.0.0"}}, "10.43.0.0 is no usable address of service-cidr"},
		{Flags{"cluster-dns": {"10.43.255.255"}}, "10.43.255.255 is no usable address of service-cidr"},
		{Flags{"cluster-dns": {"10.43.0.1"}}, "10.43.0.1 belongs to the Kubernetes API in service-cidr"},
		{Flags{"cluster-dns": {"10.43.0.10,10.43.0.11"}}, "are two addresses of one IP family"},
		{Flags{"flannel-backend": {"wireguard"}}, `--flannel-backend: unknown pod network "wireguard"; give one of: vxlan, host-gw, wireguard-native, none`},
		{Flags{"flannel-backend": {"vxlna"}}, `did you mean "vxlan"?`},
		{Flags{"egress-selector-mode": {"pods"}}, `--egress-selector-mode: unknown mode "pods"; did you mean "pod"?`},
		{Flags{"flannel-backend": {"none"}, "flannel-iface": {"eth0"}}, "--flannel-iface: has no effect with flannel-backend none (--flannel-backend); remove one of them"},
		{Flags{"flannel-backend": {"none"}, "flannel-conf": {"/x"}}, "--flannel-conf: has no effect with flannel-backend none"},
		{Flags{"flannel-backend": {"none"}, "flannel-cni-conf": {"/x"}}, "--flannel-cni-conf: has no effect with flannel-backend none"},
		{Flags{"flannel-backend": {"none"}, "flannel-external-ip": {"true"}}, "--flannel-external-ip: has no effect with flannel-backend none"},
		{Flags{"flannel-backend": {"none"}, "flannel-ipv6-masq": {"true"}}, "--flannel-ipv6-masq: has no effect with flannel-backend none"},
		{Flags{"cluster-domain": {""}}, `"" is not a DNS domain`},
		{Flags{"cluster-domain": {"cluster.local."}}, `"cluster.local." is not a DNS domain`},
		{Flags{"cluster-domain": {"Cluster.local"}}, `"Cluster.local" is not a DNS domain`},
		{Flags{"cluster-domain": {strings.Repeat("a.", 127) + "a"}}, "is not a DNS domain"},

		{Flags{"write-kubeconfig-mode": {"0666"}}, `"0666" lets everyone write the administrator's kubeconfig`},
		{Flags{"write-kubeconfig-mode": {"602"}}, "lets everyone write"},
		{Flags{"write-kubeconfig-mode": {"0680"}}, `"0680" is not a file mode`},
		{Flags{"write-kubeconfig-mode": {"4600"}}, `"4600" is not a file mode`},
		{Flags{"write-kubeconfig-mode": {"rw"}}, `"rw" is not a file mode`},
		{Flags{"write-kubeconfig-mode": {""}}, `"" is not a file mode`},
		{Flags{"disable": {"core-dns"}}, `--disable: unknown add-on "core-dns"; did you mean "coredns"?`},
		{Flags{"disable": {"traefik"}}, `unknown add-on "traefik"; give one of: coredns`},
		{Flags{"disable-scheduler": {"maybe"}}, `"maybe" is not true or false`},
		{Flags{"disable-kube-proxy": {"true"}, "kube-proxy-arg": {"v=1"}}, "--kube-proxy-arg: has no effect with disable-kube-proxy (--disable-kube-proxy); remove one of them"},

		{Flags{"disable-agent": {"true"}, "node-label": {"a=b"}}, "--node-label: has no effect with disable-agent (--disable-agent); remove one of them"},
		{Flags{"disable-agent": {"true"}, "kubelet-arg": {"v=1"}}, "--kubelet-arg: has no effect with disable-agent"},
		{Flags{"disable-agent": {"true"}, "selinux": {"true"}}, "--selinux: has no effect with disable-agent"},
		{Flags{"lb-server-port": {"1"}}, "lb-server-port: is an option of agents; remove it"},

		{Flags{"token": {""}}, "--token: the token is empty; give one as a server has it"},
		{Flags{"token": {"sec ret"}}, "--token: the token contains white space"},
		{Flags{"token": {"K10secret::x"}}, "--token: the part of the token between K10 and '::' must be 64 hexadecimal digits"},
		{Flags{"agent-token": {"nobody:secret"}}, "--agent-token: the user of the token"},
		{Flags{"token": {"secret"}, "token-file": {"/secrets"}}, "--token-file: cannot be given with token (--token); remove one of them"},
		{Flags{"agent-token": {"secret"}, "agent-token-file": {"/x"}}, "--agent-token-file: cannot be given with agent-token (--agent-token); remove one of them"},
		{Flags{"token-file": {"/nowhere/token"}}, "--token-file: read token: open /nowhere/token: no such file or directory; name a file that holds the token"},
		{Flags{"agent-token-file": {"/"}}, "--agent-token-file: read token: / is a directory"},
		{Flags{"token-file": {"secret"}}, "--token-file: names a file that does not exist; name one that holds the token"},
		{Flags{"token-file": {"node:secret"}}, "--token-file: read token: what is given as the path of a token file is itself a token"},

		{Flags{"kubelet-arg": {"=secret"}}, "--kubelet-arg: an argument has no name; give KEY=VALUE"},
		{Flags{"kubelet-arg": {"--"}}, "an argument has no name"},
		{Flags{"kubelet-arg": {""}}, "an argument has no name"},
		{Flags{"kubelet-arg": {"v 1"}}, `"v 1" is not an argument's name`},
		{Flags{"kubelet-arg": {"---v=1"}}, `"-v" is not an argument's name`},

		{Flags{"node-name": {"a_b"}}, `"a_b" is not a node name; give up to 63 letters`},
		{Flags{"node-name": {"-a"}}, `"-a" is not a node name`},
		{Flags{"node-name": {"a..b"}}, `"a..b" is not a node name`},
		{Flags{"node-name": {strings.Repeat("a.", 31) + "bc"}}, "is not a node name"},
		{Flags{"node-ip": {"::1"}}, "::1 is no address"},
		{Flags{"node-ip": {"192.0.2.1,192.0.2.2"}}, "192.0.2.1,192.0.2.2 are two addresses of one IP family"},
		{Flags{"node-ip": {"2001:db8::1"}}, "--node-ip: 2001:db8::1 is not of the IP family of the first service-cidr 10.43.0.0/16 (default); give an IPv4 address too"},
		{Flags{"node-ip": {"10.42.3.4"}}, "--node-ip: 10.42.3.4 is inside cluster-cidr 10.42.0.0/16"},
		{Flags{"node-external-ip": {"127.0.0.1"}}, "--node-external-ip: 127.0.0.1 is no address"},
		{Flags{"node-external-ip": {"192.0.2.1", "192.0.2.2"}}, "are two addresses of one IP family"},
		{Flags{"node-external-ip": {"10.43.3.4"}}, "--node-external-ip: 10.43.3.4 is inside service-cidr 10.43.0.0/16"},
		{Flags{"node-internal-dns": {"a_b"}}, `--node-internal-dns: "a_b" is not a host name; give one such as node1.example.com`},
		{Flags{"node-external-dns": {"192.0.2.1"}}, `--node-external-dns: "192.0.2.1" is not a host name`},
		{Flags{"node-external-dns": {"*.example.com"}}, `is not a host name`},
		{Flags{"flannel-iface": {"a/b"}}, `--flannel-iface: "a/b" is not a network interface; give one that ip link lists`},
		{Flags{"flannel-iface": {"eth0, eth1"}}, "is not a network interface"},
		{Flags{"flannel-iface": {"sixteen-letters-"}}, "is not a network interface"},
		{Flags{"flannel-iface": {".."}}, "is not a network interface"},
		{Flags{"node-label": {"a"}}, `"a" is not a label; give KEY=VALUE`},
		{Flags{"node-label": {"=b"}}, `"" is not a label key; give up to 63 letters`},
		{Flags{"node-label": {"a b=c"}}, `"a b" is not a label key`},
		{Flags{"node-label": {"-a=c"}}, `"-a" is not a label key`},
		{Flags{"node-label": {"a/b/c=d"}}, `"a/b/c" is not a label key`},
		{Flags{"node-label": {"/b=d"}}, `"/b" is not a label key`},
		{Flags{"node-label": {"A.com/b=d"}}, `"A.com/b" is not a label key`},
		{Flags{"node-label": {strings.Repeat("a", 64) + "=b"}}, "is not a label key"},
		{Flags{"node-label": {"a=b c"}}, `"b c" is not a label value; give none or up to 63`},
		{Flags{"node-label": {"a=b="}}, `"b=" is not a label value`},
		{Flags{"node-label": {"a=" + strings.Repeat("b", 64)}}, "is not a label value"},
		{Flags{"node-label": {"node-role.kubernetes.io/worker=true"}},
			`"node-role.kubernetes.io/worker" is reserved by Kubernetes, a node cannot give it to itself; set it with: kedge kubectl label node NODE node-role.kubernetes.io/worker=true`},
		{Flags{"node-label": {"kubernetes.io/x=y"}}, "is reserved by Kubernetes"},
		{Flags{"node-label": {"x.k8s.io/y=z"}}, "is reserved by Kubernetes"},
		{Flags{"node-label": {"node-restriction.kubernetes.io/y=z"}}, "is reserved by Kubernetes"},
		{Flags{"node-taint": {"a=b"}}, `"a=b" is not a taint; give KEY=VALUE:EFFECT`},
		{Flags{"node-taint": {":NoSchedule"}}, `"" is not a taint key`},
		{Flags{"node-taint": {"a=b c:NoSchedule"}}, `"b c" is not a taint value`},
		{Flags{"node-taint": {"a=b:noschedule"}}, `unknown taint effect "noschedule"; did you mean "NoSchedule"?`},
		{Flags{"node-taint": {"a=b:Never"}}, `unknown taint effect "Never"; give one of: NoSchedule, PreferNoSchedule, NoExecute`},
		{Flags{"node-taint": {"a=b:NoExecute", "a=c:NoExecute"}}, `taint "a" with effect NoExecute is given twice`},

		{Flags{"snapshotter": {"overlay"}}, `--snapshotter: unknown snapshotter "overlay"; did you mean "overlayfs"?`},
		{Flags{"snapshotter": {"zfs"}}, `unknown snapshotter "zfs"; give one of: overlayfs, native`},
		{Flags{"pause-image": {"a b"}}, `"a b" is not an image`},
		{Flags{"system-default-registry": {"https://r.example"}}, `"https://r.example" is not a registry; give HOST, HOST:PORT or HOST/PATH`},
		{Flags{"system-default-registry": {"r.example/"}}, `"r.example/" is not a registry`},
		{Flags{"container-runtime-endpoint": {"crio.sock"}}, `"crio.sock" is not a socket; give its absolute path`},
		{Flags{"container-runtime-endpoint": {"tcp://x:1"}}, `"tcp://x:1" is not a socket`},
		{Flags{"container-runtime-endpoint": {"/x"}, "snapshotter": {"native"}}, "--snapshotter: has no effect with container-runtime-endpoint (--container-runtime-endpoint); remove one of them"},
		{Flags{"container-runtime-endpoint": {"/x"}, "private-registry": {"/y"}}, "--private-registry: has no effect with container-runtime-endpoint"},
		{Flags{"container-runtime-endpoint": {"/x"}, "selinux": {"true"}}, "--selinux: has no effect with container-runtime-endpoint"},
		{Flags{"private-registry": {""}}, "--private-registry: is empty; give a path"},
		{Flags{"image-credential-provider-config": {"/x"}}, "--image-credential-provider-config: has no effect without image-credential-provider-bin-dir; give both or neither"},
		{Flags{"image-credential-provider-bin-dir": {"/x"}}, "--image-credential-provider-bin-dir: has no effect without image-credential-provider-config; give both or neither"},
		{Flags{"container-runtime-endpoint": {"/x"}, "pause-image": {"p"}}, "--pause-image: has no effect with container-runtime-endpoint"},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			_, err := load(t, nil, nil, tt.flags)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error for %v is\n%v, want\n%s", tt.flags, err, tt.want)
			}
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("the error is not one line: %q", err)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for path, content := range map[string]string{
		at("file-for-directory.yaml.d"): "",
		at("c.yaml"):                    "",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{at("directory.yaml"), at("dangling.yaml.d")} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", at("dangling.yaml.d/a.yaml")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, file, want string }{
		{"a directory", at("directory.yaml"), "read configuration: read " + at("directory.yaml") + ": is a directory"},
		{"a file for the drop-in directory", at("file-for-directory.yaml"), "find drop-in configuration files: "},
		{"a broken drop-in", at("dangling.yaml"), "read configuration: open " + at("dangling.yaml.d/a.yaml") + ": no such file"},
		{"a path through a file", at("c.yaml/d.yaml"), "find the configuration file: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := loadServer(nil, nil, tt.file, hostname); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %s", err, tt.want)
			}
		})
	}
}
