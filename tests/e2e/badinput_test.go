//go:build e2e

package e2e

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

const nobody = 65534

// TestBadInput gives a server what it can't start with. It must say so in one
// line, end with a code other than 0, and leave the disk as it was.
func TestBadInput(t *testing.T) {
	t.Parallel()
	host := newHost(t, testbed.New(t), "node")
	shell := func(t *testing.T, command string) {
		t.Helper()
		if _, err := host.Exec(t.Context(), "sh", "-c", command); err != nil {
			t.Fatal(err)
		}
	}
	// Anybody can run it there, and what it unpacks is unpacked.
	shell(t, "mkdir -p /usr/local/bin && cp "+host.Binary+" /usr/local/bin/kedge && chmod 755 /usr/local/bin/kedge && kedge version")

	for _, test := range []struct {
		name    string
		prepare string   // shell command before
		undo    string   // shell command after
		under   []string // a program that runs kedge
		args    []string // of kedge server
		user    uint32
		want    []string // in the one line
	}{
		{name: "unknown flag", args: []string{"--node-lable=a=b"}, want: []string{"--node-lable", `did you mean "--node-label"`}},
		{name: "unexpected argument", args: []string{"now"}, want: []string{`"now"`}},
		{name: "unknown key", prepare: config("debug: false", "node-lable: a=b"),
			want: []string{"/etc/kedge/config.yaml:2", "node-lable", `did you mean "node-label"`}},
		{name: "unknown key in a drop-in file", prepare: "mkdir -p /etc/kedge/config.yaml.d && echo 'tls-sam: x' > /etc/kedge/config.yaml.d/a.yaml",
			want: []string{"/etc/kedge/config.yaml.d/a.yaml:1", "tls-san"}},
		{name: "malformed YAML", prepare: config("debug: true", "node-label: [a=b"), want: []string{"/etc/kedge/config.yaml:2", "YAML"}},
		{name: "missing configuration file", args: []string{"--config=/nowhere.yaml"}, want: []string{"/nowhere.yaml"}},
		{name: "wrong type of a key", prepare: config("", "https-listen-port: many"),
			want: []string{"/etc/kedge/config.yaml:2", "https-listen-port", "many"}},
		{name: "wrong type of a flag", args: []string{"--https-listen-port=many"}, want: []string{"--https-listen-port", "many"}},
		{name: "wrong type of a variable", under: []string{"env", "KEDGE_DEBUG=perhaps"}, want: []string{"KEDGE_DEBUG", "perhaps"}},
		{name: "number out of range", args: []string{"--https-listen-port=70000"}, want: []string{"--https-listen-port", "70000"}},
		{name: "no range", args: []string{"--cluster-cidr=10.42.0.0"}, want: []string{"--cluster-cidr", "10.42.0.0"}},
		{name: "pod range overlaps service range", args: []string{"--cluster-cidr=10.43.128.0/17"}, want: []string{"10.43.128.0/17", "10.43.0.0/16"}},
		{name: "pod range overlaps the host's", args: []string{"--cluster-cidr=198.18.0.0/16"}, want: []string{"198.18.0.0/16", "eth0"}},
		{name: "service range overlaps the host's", args: []string{"--service-cidr=198.18.0.0/16"}, want: []string{"198.18.0.0/16", "eth0"}},
		{name: "DNS address outside of the service range", args: []string{"--cluster-dns=10.99.0.10"}, want: []string{"10.99.0.10", "10.43.0.0/16"}},
		{name: "node name", args: []string{"--node-name=Bad_Name"}, want: []string{"--node-name", "Bad_Name"}},
		{name: "port in use", prepare: "busybox nc -l -p 6443 > /dev/null 2>&1 & for i in $(seq 100); do grep -q ':192B .* 0A ' /proc/net/tcp* && exit 0; sleep 0.1; done; exit 1",
			undo: "pkill -x busybox", want: []string{"6443", "busybox", "--https-listen-port"}},
		{name: "not root", user: nobody, want: []string{"root", "sudo"}},
		{name: "data directory read-only", prepare: "mount -t tmpfs -o ro none /mnt", undo: "umount /mnt",
			args: []string{"--data-dir=/mnt/kedge"}, want: []string{"/mnt", "read-only"}},
		{name: "data directory becomes read-only", prepare: "mount -o remount,bind,ro /var/lib/kedge", undo: "mount -o remount,bind,rw /var/lib/kedge",
			want: []string{"/var/lib/kedge", "read-only"}},
		{name: "data directory is a file", args: []string{"--data-dir=/etc/passwd"}, want: []string{"/etc/passwd", "not a directory"}},
		{name: "disk full", prepare: "mount -t tmpfs -o size=8m none /mnt", undo: "left=$(find /mnt -mindepth 1); umount /mnt; test -z \"$left\" || { echo left behind: $left >&2; exit 1; }",
			args: []string{"--data-dir=/mnt"}, want: []string{"/mnt", "space", "--data-dir"}},
		{name: "corrupt datastore", prepare: datastore("echo this is no database > state.db"),
			want: []string{"/var/lib/kedge/server/db/state.db", "damaged", "backup"}},
		{name: "datastore with a corrupt page", prepare: datastore("printf 'SQLite format 3\\0' > state.db && head -c 8192 /dev/zero | tr '\\0' x >> state.db"),
			want: []string{"/var/lib/kedge/server/db/state.db", "damaged", "backup"}},
		{name: "kubeconfig is a directory", args: []string{"--write-kubeconfig=/etc"}, want: []string{"--write-kubeconfig", "/etc", "directory"}},
		{name: "unknown group of the kubeconfig", args: []string{"--write-kubeconfig-group=nosuchgroup"}, want: []string{"nosuchgroup"}},
		{name: "unknown add-on", args: []string{"--disable=cordns"}, want: []string{"cordns", "coredns"}},
		{name: "kernel too old", prepare: "echo 4.19.0 > /run/release && mount --bind /run/release /proc/sys/kernel/osrelease",
			undo: "umount /proc/sys/kernel/osrelease", want: []string{"kernel 4.19.0", "Debian 12"}},
		{name: "data directory of a newer version", prepare: "mkdir -p /var/lib/kedge/server && echo v1.99.0+kedge1 > /var/lib/kedge/server/version",
			want: []string{"/var/lib/kedge", "v1.99.0+kedge1"}},
		{name: "argument for the API server", args: []string{"--kube-apiserver-arg=no-such-flag=1"}, want: []string{"no-such-flag"}},
		{name: "argument for the kubelet", args: []string{"--kubelet-arg=no-such-flag=1"}, want: []string{"no-such-flag"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.prepare != "" {
				shell(t, test.prepare)
			}
			before, err := host.Disk()
			if err != nil {
				t.Fatal(err)
			}
			// A server that starts after all must not run for ever.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			command := slices.Concat(test.under, []string{"/usr/local/bin/kedge", "server"})
			cmd := host.Command(ctx, command[0], append(command[1:], test.args...)...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if test.user != 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: test.user, Gid: test.user}}
			}
			if err := host.StartCommand(cmd); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // the code tells more
			refused(t, testbed.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}, test.want...)
			after, err := host.Disk()
			if err != nil {
				t.Fatal(err)
			}
			if err := after.Compare(before); err != nil {
				t.Errorf("the disk has changed:\n%v", err)
			}
			if test.undo != "" {
				shell(t, test.undo)
			}
			shell(t, "rm -rf /etc/kedge /var/lib/kedge/server")
		})
	}
}

func config(lines ...string) string {
	return "mkdir -p /etc/kedge && cat > /etc/kedge/config.yaml <<'END'\n" + strings.Join(lines, "\n") + "\nEND"
}

func datastore(command string) string {
	return "mkdir -p /var/lib/kedge/server/db && cd /var/lib/kedge/server/db && " + command
}
