package crictl

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
)

func TestTables(t *testing.T) {
	_, socket := startFake(t)
	for _, test := range []struct {
		args string
		want string
	}{
		{"ps", `
CONTAINER           IMAGE                         CREATED             STATE               NAME                ATTEMPT             POD ID              POD                 NAMESPACE
1122bbbbbbbbb       docker.io/library/busybox:1   2 hours ago         Running             ticker              1                   aaaa111111111       web                 default
1111aaaaaaaaa       b0b1111111111                 3 hours ago         Running             httpd               0                   aaaa111111111       web                 default
`},
		{"ps -a --state exited -r", `
CONTAINER           IMAGE                         CREATED             STATE               NAME                ATTEMPT             POD ID              POD                 NAMESPACE
3333ccccccccc       docker.io/library/busybox:1   5 hours ago         Exited              job                 2                   aabb222222222       old                 batch
`},
		{"pods", `
POD ID              CREATED             STATE               NAME                NAMESPACE           ATTEMPT             RUNTIME
aaaa111111111       4 hours ago         Ready               web                 default             1                   (default)
aabb222222222       6 hours ago         NotReady            old                 batch               0                   kata
`},
		{"images", `
IMAGE                        TAG                 IMAGE ID            SIZE
docker.io/library/busybox    1                   b0b1111111111       2.13MB
docker.io/library/busybox    latest              b0b1111111111       2.13MB
example.com:5000/team/tool   <none>              c333333333333       66.2MB
kedge.io/pause               1                   b0a2222222222       1.51kB
`},
		{"images --digests --pinned --no-trunc kedge.io/pause", `
IMAGE               TAG                 DIGEST              IMAGE ID                                                                  SIZE                PINNED
kedge.io/pause      1                   <none>              ` + pause + `   1.51kB              true
`},
		{"stats", `
CONTAINER           NAME                CPU %               MEM                 DISK                INODES
1111aaaaaaaaa       httpd               50.00               770kB               45.06kB             13
1122bbbbbbbbb       ticker              50.00               770kB               45.06kB             13
`},
		{"stats -a 33", `
CONTAINER           NAME                CPU %               MEM                 DISK                INODES
3333ccccccccc       job                 -                   0B                  0B                  0
`},
		{"statsp --id aaaa", `
POD                 POD ID              CPU %               MEM
web                 aaaa111111111       200.00              1.217MB
`},
		{"version", `
Version:  0.1.0
RuntimeName:  fake
RuntimeVersion:  v9
RuntimeApiVersion:  v1
`},
		{"inspect -o table 33", `
ID: ` + ended + `
Name: job
Attempt: 2
State: CONTAINER_EXITED
Created: 5 hours ago
Started: 5 hours ago
Finished: About an hour ago
Exit Code: 3
Labels:
	io.kubernetes.pod.name -> old
	io.kubernetes.pod.namespace -> batch
	part -> job
Info:
	info -> {"pid":77}
`},
		{"inspecti -o table b0b", `
ID: ` + busybox + `
Tag: docker.io/library/busybox:1
Tag: docker.io/library/busybox:latest
Digest: docker.io/library/busybox@sha256:d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1
Size: 2.13MB
`},
	} {
		got := crictl(t, socket, strings.Fields(test.args)...)
		if got.code != 0 || got.err != "" || got.out != strings.TrimPrefix(test.want, "\n") {
			t.Errorf("%s: exit code %d, %s\n%swant%s", test.args, got.code, got.err, got.out, test.want)
		}
	}
}

func TestFilters(t *testing.T) {
	_, socket := startFake(t)
	for _, test := range []struct {
		args string
		want []string // ids, in order
	}{
		{"ps -q", []string{ticker, httpd}},
		{"ps -aq", []string{ticker, httpd, ended}},
		{"ps -q -l", []string{ticker}},
		{"ps -q -n 3", []string{ticker, httpd, ended}},
		{"ps -q -n 1 --state EXITED", []string{ended}},
		{"ps -q --name ^h", []string{httpd}},
		{"ps -aq --namespace bat", []string{ended}},
		{"ps -q --label part=ticker", []string{ticker}},
		{"ps -q -p aaaa", []string{ticker, httpd}},
		{"ps -q --pod cri://" + webPod, []string{ticker, httpd}},
		{"ps -q -p nothing", nil},
		{"ps -q --id 1122", []string{ticker}},
		{"ps -aq --image busybox:1", []string{ticker, httpd, ended}},
		{"ps -aq --image b0b", []string{ticker, httpd, ended}},
		{"ps -aq --image kedge.io/pause:1", nil},
		{"ps -aq --image nothing", nil},
		{"pods -q", []string{webPod, oldPod}},
		{"pods -q --latest", []string{webPod}},
		{"pods -q --state notready", []string{oldPod}},
		{"pods -q --name eb", []string{webPod}},
		{"pods -q --namespace batch", []string{oldPod}},
		{"pods -q --label app=web", []string{webPod}},
		{"pods -q --id aab", []string{oldPod}},
		{"images -q", []string{busybox, unused, pause}},
		{"images -q busybox", []string{busybox}},
		{"images -q docker.io/library/busybox:latest", []string{busybox}},
		{"images -q busybox:2", nil},
		{"images -q example.com:5000/team/tool", []string{unused}},
		{"images -q c33", []string{unused}},
	} {
		got := crictl(t, socket, strings.Fields(test.args)...)
		want := strings.Join(test.want, "\n")
		if want != "" {
			want += "\n"
		}
		if got.code != 0 || got.out != want {
			t.Errorf("%s: exit code %d, %s\n%swant\n%s", test.args, got.code, got.err, got.out, want)
		}
	}
}

func TestDocuments(t *testing.T) {
	_, socket := startFake(t)
	for _, test := range []struct {
		args []string
		want []string // parts of the output
	}{
		{[]string{"ps", "-o", "json", "--name", "httpd"}, []string{`{
  "containers": [
    {
      "annotations": {},`, `"state": "CONTAINER_RUNNING"`}},
		{[]string{"ps", "-o", "json", "--image", "nothing"}, []string{"{\n  \"containers\": []\n}\n"}},
		{[]string{"pods", "-o", "yaml"}, []string{"items:\n- annotations: {}\n", "  runtimeHandler: kata\n"}},
		{[]string{"images", "-o", "yaml", "busybox"}, []string{"  - docker.io/library/busybox:1\n"}},
		{[]string{"inspect", "1111"}, []string{`"info": {
    "pid": 77
  }`, `"finishedAt": "0001-01-01T00:00:00Z"`}},
		{[]string{"inspect", "-q", "1111", "1122"}, []string{"[\n  {\n    \"status\": {"}},
		{[]string{"inspect", "-o", "go-template", "--template", "{{.info.pid}} {{.status.metadata.name | upper}} {{json .status.exitCode}}", "3333"}, []string{"77 JOB 3\n"}},
		{[]string{"inspectp", "aab"}, []string{`"ip": "10.42.0.3"`, `"state": "SANDBOX_NOTREADY"`}},
		{[]string{"inspectp", "-o", "table", "aab"}, []string{"IP Addresses: 10.42.0.3\nAdditional IP: fd42::3\n"}},
		{[]string{"inspecti", "busybox", "c333"}, []string{`"id": "` + busybox + `"`, `"id": "` + unused + `"`}},
		{[]string{"info"}, []string{`"golang": "go1.26"`, `"limit": 9007199254740993`, `"lastCNILoadStatus": "OK"`, `"name": "runc"`, `"supplementalGroupsPolicy": true`, `"type": "RuntimeReady"`}},
		{[]string{"stats", "-o", "json", "1111"}, []string{`"usageCoreNanoSeconds"`, `"value": "500000000"`}},
		{[]string{"ps", "-v", "--name", "httpd"}, []string{"ID: " + httpd + "\nPodID: " + webPod + "\nNamespace: default\nName: httpd\nAttempt: 0\nState: Running\n"}},
		{[]string{"pods", "-v", "--name", "old"}, []string{"UID: u2\n", "Runtime: kata\n"}},
		{[]string{"images", "-v", "kedge.io/pause"}, []string{"ID: " + pause + "\nRepoTags: kedge.io/pause:1\nSize: 1510\nPinned: true\n"}},
		{[]string{"--version"}, []string{"crictl version v"}},
		{[]string{"--help"}, []string{"port-forward", "--runtime-endpoint"}},
		{[]string{"ps", "--help"}, []string{"--no-trunc"}},
	} {
		got := crictl(t, socket, test.args...)
		for _, part := range test.want {
			if got.code != 0 || !strings.Contains(got.out, part) {
				t.Errorf("%q: exit code %d, %s\n%s\nwant in it\n%s", test.args, got.code, got.err, got.out, part)
			}
		}
	}
}

func TestChanges(t *testing.T) {
	for _, test := range []struct {
		args  string
		calls string // what the runtime is asked to do
		out   string
		err   string // lines of errors; none: exit code 0
	}{
		{args: "stop -t 5 1111 1122", calls: "stop 1111aaaaaaaaa 5, stop 1122bbbbbbbbb 5", out: "1111\n1122\n"},
		{args: "stop 1111 no 1122", calls: "stop 1111aaaaaaaaa 0, stop 1122bbbbbbbbb 0", out: "1111\n1122\n",
			err: "crictl: no container has the id no\n"},
		{args: "stop 11 no", err: "crictl: the id 11 is ambiguous, it begins those of 2 containers: 1111aaaaaaaaa (httpd), 1122bbbbbbbbb (ticker)\ncrictl: no container has the id no\n"},
		{args: "rm 3333", calls: "remove 3333ccccccccc", out: "3333\n"},
		{args: "rm 1111 3333", calls: "remove 3333ccccccccc", out: "3333\n",
			err: "crictl: container 1111aaaaaaaaa runs: stop it first, or remove it with --force\n"},
		{args: "rm -f 1111", calls: "stop 1111aaaaaaaaa 0, remove 1111aaaaaaaaa", out: "1111\n"},
		{args: "rm -af", calls: "remove 3333ccccccccc, stop 1111aaaaaaaaa 0, remove 1111aaaaaaaaa, stop 1122bbbbbbbbb 0, remove 1122bbbbbbbbb",
			out: ended + "\n" + httpd + "\n" + ticker + "\n"},
		{args: "rm", err: "crictl: which? name ids, or all with --all\n"},
		{args: "rm -a 1111", err: "crictl: --all and ids exclude each other\n"},
		{args: "stopp aaaa", calls: "stop pod aaaa111111111", out: "Stopped sandbox aaaa\n"},
		{args: "stopp aa", err: "crictl: the id aa is ambiguous, it begins those of 2 pods: aabb222222222 (batch/old), aaaa111111111 (default/web)\n"},
		{args: "rmp aabb aaaa", calls: "remove pod aabb222222222", out: "Removed sandbox aabb\n",
			err: "crictl: pod aaaa111111111 runs: stop it first, or remove it with --force\n"},
		{args: "rmp -f aaaa", calls: "stop pod aaaa111111111, remove pod aaaa111111111", out: "Stopped sandbox aaaa\nRemoved sandbox aaaa\n"},
		{args: "rmp --all --force", calls: "remove pod aabb222222222, stop pod aaaa111111111, remove pod aaaa111111111",
			out: "Removed sandbox " + oldPod + "\nStopped sandbox " + webPod + "\nRemoved sandbox " + webPod + "\n"},
		{args: "rmi busybox no", calls: "remove image b0b1111111111", out: "Deleted: docker.io/library/busybox:1\nDeleted: docker.io/library/busybox:latest\n",
			err: "crictl: no image has the name or id no\n"},
		{args: "rmi b0", err: "crictl: the id b0 is ambiguous, it begins those of 2 images: b0a2222222222 (kedge.io/pause:1), b0b1111111111 (docker.io/library/busybox:1)\n"},
		{args: "rmi sha256:b0a", calls: "remove image b0a2222222222", out: "Deleted: kedge.io/pause:1\n"},
		{args: "rmi --prune", calls: "remove image c333333333333", out: "Deleted: example.com:5000/team/tool@sha256:d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2\n"},
		{args: "rmi -a", calls: "remove image b0b1111111111, remove image c333333333333",
			out: "Deleted: docker.io/library/busybox:1\nDeleted: docker.io/library/busybox:latest\nDeleted: example.com:5000/team/tool@sha256:d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2\n"},
		{args: "rmi -a busybox", err: "crictl: --all and --prune exclude names of images\n"},
		{args: "rmi", err: "crictl: which? name images, or all with --all, or unused ones with --prune\n"},
	} {
		f, socket := startFake(t)
		got := crictl(t, socket, strings.Fields(test.args)...)
		if calls := f.changes(); calls != test.calls {
			t.Errorf("%s: the runtime was asked to %q, want %q", test.args, calls, test.calls)
		}
		if got.out != test.out || got.err != test.err || (got.code == 0) != (test.err == "") {
			t.Errorf("%s: exit code %d\n%s%swant\n%s%s", test.args, got.code, got.out, got.err, test.out, test.err)
		}
	}
}

func TestRemoveLogs(t *testing.T) {
	for _, test := range []struct {
		args string
		left int
	}{
		{"rm 3333", 1},
		{"rm -k 3333", 3},
	} {
		f, socket := startFake(t)
		dir := t.TempDir()
		for _, name := range []string{"0.log", "0.log.20260101-000000", "1.log"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f.logs[ended] = filepath.Join(dir, "0.log")
		if got := crictl(t, socket, strings.Fields(test.args)...); got.code != 0 {
			t.Errorf("%s: %s", test.args, got.err)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != test.left {
			t.Errorf("%s: left %v, %v, want %d files", test.args, left, err, test.left)
		}
	}
}

func TestPull(t *testing.T) {
	f, socket := startFake(t)
	got := crictl(t, socket, "pull", "--creds", "me:a:b", "-a", "k=v=w", "busybox")
	if got.out != "Image is up to date for "+busybox+"\n" || got.code != 0 {
		t.Errorf("got %+v", got)
	}
	auth := f.pulled.GetAuth()
	if f.pulled.GetImage().GetImage() != "busybox" || auth.GetUsername() != "me" || auth.GetPassword() != "a:b" || f.pulled.GetImage().GetAnnotations()["k"] != "v=w" {
		t.Errorf("asked for %v", f.pulled)
	}
	crictl(t, socket, "pull", "--auth", "bWU6c2VjcmV0", "busybox")
	if f.pulled.GetAuth().GetAuth() != "bWU6c2VjcmV0" {
		t.Errorf("asked for %v", f.pulled)
	}
	crictl(t, socket, "pull", "busybox")
	if f.pulled.GetAuth() != nil {
		t.Errorf("asked for %v", f.pulled)
	}
	if got := crictl(t, socket, "--debug", "pull", "--creds", "me:secret", "busybox"); strings.Contains(got.err, "secret") || !strings.Contains(got.err, "ImageService/PullImage") {
		t.Errorf("the debug output is %s", got.err)
	}
}

func TestMistakes(t *testing.T) {
	_, socket := startFake(t)
	for _, test := range []struct {
		args []string
		want string // the one line
	}{
		{[]string{"pss"}, `unknown command "pss"; did you mean "ps"?; crictl --help lists the commands`},
		{[]string{"ps", "--al"}, "unknown option --al; crictl ps --help lists the options"},
		{[]string{"--al", "ps"}, "unknown option --al; crictl --help lists the options"},
		{[]string{"ps", "-n", "x"}, `invalid value "x" for flag -n: parse error; crictl ps --help explains the options`},
		{[]string{"ps", "what"}, "wrong number of arguments, the usage is: crictl ps [options]"},
		{[]string{"logs", "1111", "--tail", "3"}, "options go before the arguments: crictl logs --tail 3 1111"},
		{[]string{"exec", "1111"}, "wrong number of arguments, the usage is: crictl exec [options] CONTAINER-ID COMMAND [ARG...]"},
		{[]string{"ps", "--state", "dead"}, `a container has no state "dead": there are created, running, exited and unknown`},
		{[]string{"pods", "--state", "dead"}, `a pod has no state "dead": there are ready and notready`},
		{[]string{"ps", "--name", "("}, "--name is not a regular expression: error parsing regexp: missing closing ): `(`"},
		{[]string{"ps", "--label", "a"}, `"a" is not of the form key=value`},
		{[]string{"ps", "-o", "xml"}, `unknown format "xml": there are json, yaml and table`},
		{[]string{"inspect", "-o", "xml", "1111"}, `unknown format "xml": there are json, yaml, go-template and, but for info, table`},
		{[]string{"inspect", "-o", "go-template", "1111"}, "--output go-template needs --template"},
		{[]string{"inspect", ""}, "the id of the container is empty"},
		{[]string{"ps", "--id", "11"}, "the id 11 is ambiguous, it begins those of 2 containers: 1111aaaaaaaaa (httpd), 1122bbbbbbbbb (ticker)"},
		{[]string{"inspecti", "no"}, "no image has the name or id no"},
		{[]string{"pull", "nowhere/x"}, "pull nowhere/x: failed to pull: not found"},
		{[]string{"pull", "--creds", "a:b", "--auth", "c", "x"}, "--creds and --auth exclude each other"},
		{[]string{"pull", "--creds", ":b", "x"}, "--creds has no user before the colon"},
		{[]string{"logs", "1111"}, "container 1111aaaaaaaaa has no log"},
		{[]string{"logs", "--since", "soon", "1111"}, `--since "soon" is neither a duration such as 42m nor a time such as 2026-01-02T13:23:37`},
		{[]string{"exec", "-t", "1111", "sh"}, "a terminal needs its input too: use -it"},
		{[]string{"exec", "-it", "1111", "sh"}, "the input is not a terminal: leave out -t"},
		{[]string{"stats", "-s", "0"}, "--seconds must be more than zero"},
		{[]string{"--timeout", "soon", "ps"}, `the timeout "soon" is neither a duration such as 10s nor a number of seconds`},
		{[]string{"--runtime-endpoint", "tcp://127.0.0.1:1", "ps"}, `the endpoint "tcp://127.0.0.1:1" is not a socket such as ` + DefaultEndpoint},
		{[]string{"--runtime-endpoint", "/nowhere/s", "ps"}, "no container runtime answers at /nowhere/s: is kedge running? (start it with kedge server, or name another with --runtime-endpoint)"},
		{[]string{"-i", "unix:///nowhere/i", "images"}, "no container runtime answers at /nowhere/i: is kedge running? (start it with kedge server, or name another with --runtime-endpoint)"},
	} {
		got := crictl(t, socket, test.args...)
		if want := "crictl: " + test.want + "\n"; got.code != 1 || got.err != want {
			t.Errorf("%q: exit code %d, got\n%s%swant\n%s", test.args, got.code, got.out, got.err, want)
		}
	}
}

func TestDialError(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{fs.ErrNotExist, "no container runtime answers at /s: is kedge running? (start it with kedge server, or name another with --runtime-endpoint)"},
		{syscall.ECONNREFUSED, "no container runtime answers at /s: is kedge running? (start it with kedge server, or name another with --runtime-endpoint)"},
		{fs.ErrPermission, "you may not use the container runtime at /s: use sudo"},
		{syscall.ENOTSOCK, "no container runtime answers at /s: dial: socket operation on non-socket"},
	} {
		if got := dialError("/s", &net.OpError{Op: "dial", Err: test.err}); got.Error() != test.want {
			t.Errorf("%v: %v, want %s", test.err, got, test.want)
		}
	}
}

// A runtime that doesn't answer is given up.
func TestTimeout(t *testing.T) {
	f, socket := startFake(t)
	f.slow = make(chan struct{})
	defer close(f.slow)
	got := crictl(t, socket, "-t", "50ms", "version")
	if want := "crictl: no answer from " + socket + " to Version in 50ms; --timeout allows more\n"; got.err != want || got.code != 1 {
		t.Errorf("got %+v, want %s", got, want)
	}
	got = crictl(t, socket, "-t", "1ms", "pull", "--pull-timeout", "50ms", "busybox")
	if want := "crictl: pull busybox: it is not done in 50ms\n"; got.err != want || got.code != 1 {
		t.Errorf("got %+v, want %s", got, want)
	}
}

func TestNotARuntime(t *testing.T) {
	socket := socketPath(t)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	got := crictl(t, socket, "ps")
	if want := "crictl: what listens at " + socket + " doesn't offer ListContainers of the container runtime interface v1: "; !strings.HasPrefix(got.err, want) {
		t.Errorf("got %s, want %s", got.err, want)
	}
}

func TestSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "crictl.yaml")
	text := "runtime-endpoint: unix:///file.sock\nimage-endpoint: /images.sock\ntimeout: 7\ndebug: true\npull-image-on-create: false\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		options options
		want    settings
	}{
		{"defaults", options{config: os.DevNull}, settings{DefaultEndpoint, DefaultEndpoint, defaultTimeout, false}},
		{"file", options{config: path}, settings{"unix:///file.sock", "/images.sock", 7 * time.Second, true}},
		{"options before the file", options{config: path, runtime: "/r", image: "/i", timeout: "1m"}, settings{"/r", "/i", time.Minute, true}},
		{"images from the runtime", options{config: os.DevNull, runtime: "/r", debug: true}, settings{"/r", "/r", defaultTimeout, true}},
		{"no time is the default", options{config: os.DevNull, timeout: "0"}, settings{DefaultEndpoint, DefaultEndpoint, defaultTimeout, false}},
	} {
		if got, err := test.options.settings(); err != nil || got != test.want {
			t.Errorf("%s: %+v, %v, want %+v", test.name, got, err, test.want)
		}
	}
	if err := os.WriteFile(path, []byte("timeout: [1]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, config := range []string{path, filepath.Join(t.TempDir(), "none.yaml")} {
		if _, err := (options{config: config}).settings(); err == nil || !strings.Contains(err.Error(), config) {
			t.Errorf("%s: %v, want an error that names the file", config, err)
		}
	}
}

// The environment names the runtime where no option does, and a command's own
// option of the same name as a global one is not taken for it.
func TestEnvironment(t *testing.T) {
	f, socket := startFake(t)
	isolate(t)
	t.Setenv("CRI_CONFIG_FILE", os.DevNull)
	t.Setenv("CONTAINER_RUNTIME_ENDPOINT", "unix://"+socket)
	var out, errOut strings.Builder
	if code := Run(context.Background(), []string{"stop", "--timeout", "5", "1111"}, nil, &out, &errOut); code != 0 {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
	if want := fmt.Sprintf("stop %s 5", short(httpd)); f.changes() != want {
		t.Errorf("asked to %q, want %q", f.changes(), want)
	}
}
