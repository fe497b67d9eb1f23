//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func testLogs(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
	restartPolicy: Never
	containers:
	- {name: one, image: BUSYBOX, command: [sh, -c, 'for i in 1 2 3; do echo line $i; sleep 1; done; echo error >&2']}
	- {name: two, image: BUSYBOX, command: [echo, other]}
`)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/talker")
	const all = "line 1\nline 2\nline 3\nerror"
	s.check("the log", s.kubectl("logs", "talker", "-c", "one"), all)
	s.check("the log as it grows", s.kubectl("logs", "talker", "-c", "one", "--follow"), all)
	s.check("the end of the log", s.kubectl("logs", "talker", "-c", "one", "--tail=1"), "error")
	s.check("the log of the other container", s.kubectl("logs", "talker", "-c", "two"), "other")
	out := s.kubectl("logs", "-l", "app=talker", "--all-containers", "--timestamps")
	if lines := strings.Split(out, "\n"); len(lines) != 5 || !strings.HasPrefix(lines[0], "20") {
		s.t.Errorf("the log of all containers with times is %q", lines)
	}
	if _, err := s.try("logs", "talker", "-c", "three"); err == nil {
		s.t.Error("a container that isn't there has a log")
	}
}

func testExec(s *sandbox) {
	s.shell("pod")
	ctx := s.t.Context()
	args := []string{"kubectl", "--namespace", s.namespace, "exec", "-i", "pod", "--"}
	result, err := s.node.Run(ctx, strings.NewReader("input"), s.node.Binary,
		append(args, "sh", "-c", "cat; echo error >&2; exit 7")...)
	if err != nil || result.Code != 7 || result.Stdout != "input" || !strings.HasPrefix(result.Stderr, "error\n") {
		s.t.Errorf("exec gave %+v, error %v, want the input back, an error and code 7", result, err)
	}
	// More than fits in any buffer.
	const size = 20 << 20
	result, err = s.node.Run(ctx, strings.NewReader(strings.Repeat("x", size)), s.node.Binary, append(args, "cat")...)
	if err != nil || len(result.Stdout) != size {
		s.t.Errorf("of %d bytes %d came back, code %d, error %v", size, len(result.Stdout), result.Code, err)
	}
	if result, err = s.node.Run(ctx, nil, s.node.Binary, append(args, "missing")...); err != nil || result.Code == 0 {
		s.t.Errorf("a program that isn't there gave %+v, error %v", result, err)
	}
}

func testCopy(s *sandbox) {
	s.shell("pod")
	local := s.t.TempDir()
	files := map[string]string{"file": "content", "sub/other": strings.Repeat("long ", 100_000)}
	for name, content := range files {
		path := filepath.Join(local, "in", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	s.kubectl("cp", filepath.Join(local, "in"), "pod:/tmp/copy")
	s.kubectl("cp", "pod:/tmp/copy", filepath.Join(local, "out"))
	for name, content := range files {
		got, err := os.ReadFile(filepath.Join(local, "out", name))
		if err != nil || string(got) != content {
			s.t.Errorf("%s came back with %d bytes, want %d, error %v", name, len(got), len(content), err)
		}
	}
}

func testAttach(s *sandbox) { s.attaches("") }

// attaches talks to a container on a node, empty for any.
func (s *sandbox) attaches(node string) {
	s.t.Helper()
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
	nodeName: "` + node + `"
	restartPolicy: Never
	containers:
	- name: main
		image: BUSYBOX
		stdin: true
		stdinOnce: true
		command: [sh, -c, 'while read line; do echo "heard $line"; done; sleep 1; echo bye']
`)
	s.wait("condition=Ready", "pod/echo")
	out, err := s.node.KubectlIn(s.t.Context(), "hello\n", "--namespace", s.namespace, "attach", "-i", "echo")
	if err != nil || !strings.Contains(out, "heard hello\n") {
		s.t.Errorf("attach gave %q, error %v", out, err)
	}
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/echo")
	s.check("the log", s.kubectl("logs", "echo"), "heard hello\nbye")
}

func testPortForward(s *sandbox) {
	s.apply(web)
	s.rollout("deployment/web")
	for _, target := range []string{"pod/" + s.pods("app=web")[0], "service/web"} {
		port := map[bool]string{true: "80", false: "8080"}[target == "service/web"]
		s.forwards(target, port, "web")
	}
}

// forwards checks that a port forwarded to target is answered by a host whose
// name begins with the given one.
func (s *sandbox) forwards(target, port, name string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	forward := s.node.Command(ctx, s.node.Binary, "kubectl", "--namespace", s.namespace, "port-forward", target, ":"+port)
	stdout, err := forward.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.node.StartCommand(forward); err != nil {
		s.t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		s.t.Fatalf("port-forward to %s printed nothing: %v", target, forward.Wait())
	}
	// Forwarding from 127.0.0.1:40001 -> 8080
	at := strings.Fields(lines.Text())[2]
	for range 3 {
		answer, err := get(ctx, s.node, "http://"+at+"/hostname")
		if err != nil || !strings.HasPrefix(answer, name) {
			s.t.Errorf("the port forwarded to %s answers %q, error %v", target, answer, err)
		}
	}
	_ = forward.Process.Kill()
	_ = forward.Wait()
}

// testInteractive uses kubectl as a person at a terminal does.
func testInteractive(s *sandbox) {
	terminal, program := openTerminal(s)
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	run := s.node.Command(ctx, s.node.Binary, "kubectl", "--namespace", s.namespace, "run", "-it", "--rm", "shell",
		"--image="+s.images.Busybox.Name, "--restart=Never", "--", "sh")
	run.Env = append(run.Env, "TERM=dumb")
	run.Stdin, run.Stdout, run.Stderr = program, program, program
	run.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := s.node.StartCommand(run); err != nil {
		s.t.Fatal(err)
	}
	_ = program.Close()

	screen := make(chan string)
	go func() {
		defer close(screen)
		buffer := make([]byte, 4096)
		for {
			n, err := terminal.Read(buffer)
			if n > 0 {
				screen <- string(buffer[:n])
			}
			if err != nil {
				return // the other end is closed
			}
		}
	}()
	seen := ""
	expect := func(what string, pattern string) {
		s.t.Helper()
		wanted, timeout := regexp.MustCompile(pattern), time.After(limit)
		for !wanted.MatchString(seen) {
			select {
			case more, ok := <-screen:
				if !ok {
					s.t.Fatalf("the terminal ended before %s; seen: %q", what, seen)
				}
				seen += more
			case <-timeout:
				s.t.Fatalf("waited %s for %s; seen: %q", limit, what, seen)
			}
		}
		seen = seen[wanted.FindStringIndex(seen)[1]:]
	}
	send := func(line string) {
		if _, err := terminal.WriteString(line + "\r"); err != nil {
			s.t.Fatal(err)
		}
	}
	expect("the prompt", `/ # `)
	// Parted, so that the echo of what was typed isn't taken for the answer.
	send("tty && echo ans''wer $(stty size)")
	expect("an answer of the shell", `/dev/pts/0\r\nanswer 33 99`)
	send("sh -c 'echo g''o; exec sleep 1000'")
	expect("the command to start", `go\r\n`)
	send("\x03")
	expect("Ctrl-C to end the command", `/ # `)
	send("exit 0")
	expect("the end", `pod "shell" deleted`)
	go func() {
		for range screen { // nobody looks any more
		}
	}()
	if err := run.Wait(); err != nil {
		s.t.Error(err)
	}
	s.check("pods left", s.kubectl("get", "pods", "-o", "name"), "")
}

// openTerminal returns the two ends of a new terminal of 99 columns and 33
// lines: that of the person, and that of the program.
func openTerminal(s *sandbox) (person, program *os.File) {
	s.t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = person.Close() })
	fd := int(person.Fd())
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		s.t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 99}); err != nil {
		s.t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return person, program
}

// profiles is where kube-apiserver and kubelets serve one of Go's profiles.
const profiles = "/debug/pprof/goroutine?debug=1"

func testRBAC(s *sandbox) {
	s.kubectl("create", "configmap", "settings")
	forbidden := func(args ...string) {
		s.t.Helper()
		out, err := s.try(args...)
		if err == nil || !strings.Contains(err.Error(), "Forbidden") {
			s.t.Errorf("%s gave %q, error %v, want it to be forbidden", args, out, err)
		}
	}
	forbidden("--as=alice", "get", "configmaps")
	s.kubectl("create", "role", "reader", "--verb=get,list", "--resource=configmaps")
	s.kubectl("create", "rolebinding", "alice", "--role=reader", "--user=alice")
	eventually(s.t, "the role to be in force", func() (bool, string) {
		out, err := s.try("--as=alice", "get", "configmaps", "-o", "name")
		return strings.Contains(out, "configmap/settings"), fmt.Sprint(out, err)
	})
	forbidden("--as=alice", "delete", "configmap/settings")
	forbidden("--as=alice", "--namespace=default", "get", "configmaps")
	forbidden("--as=alice", "get", "secrets")

	// The same with a token in place of a user that the administrator plays.
	token := s.kubectl("create", "token", "default")
	server := []string{"--kubeconfig=/dev/null", "--server=https://127.0.0.1:6443", "--insecure-skip-tls-verify", "--token=" + token}
	forbidden(append(server, "get", "configmaps")...)
	s.kubectl("create", "rolebinding", "pods", "--role=reader", "--serviceaccount="+s.namespace+":default")
	eventually(s.t, "the service account to have the role", func() (bool, string) {
		out, err := s.try(append(server, "get", "configmaps", "-o", "name")...)
		return strings.Contains(out, "configmap/settings"), fmt.Sprint(out, err)
	})

	// A client without any identity learns only whether the server is well.
	for path, want := range map[string]string{
		"/livez": "200", "/readyz": "200", "/healthz": "200",
		"/api/v1/namespaces": "401", "/api/v1/nodes": "401", "/apis": "401", "/metrics": "401", "/debug/pprof/": "401",
	} {
		code := anonymous(s, "https://127.0.0.1:6443"+path)
		if code != want {
			s.t.Errorf("%s answers %s to anybody, want %s", path, code, want)
		}
	}
	for _, path := range []string{"/pods", "/metrics", "/configz", "/healthz"} {
		if code := anonymous(s, "https://127.0.0.1:10250"+path); code != "401" && code != "403" {
			s.t.Errorf("the kubelet's %s answers %s to anybody", path, code)
		}
	}
	if _, err := get(s.t.Context(), s.node, "http://127.0.0.1:10255/pods"); err == nil {
		s.t.Error("the kubelet's read-only port is open")
	}
	// Nobody gets profiles, administrators neither: TestConfiguration turns them on.
	for path, want := range map[string]string{
		profiles: "NotFound",
		"/api/v1/nodes/" + s.node.Name + "/proxy" + profiles: "MethodNotAllowed",
	} {
		if out, err := s.try("get", "--raw", path); err == nil || !strings.Contains(err.Error(), want) {
			s.t.Errorf("%s gives an administrator %.100q, error %v, want %q", path, out, err, want)
		}
	}
}

// testPodAccessToAPI lets a pod find the API server and prove who it is.
func testPodAccessToAPI(s *sandbox) {
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
	terminationGracePeriodSeconds: 0
	containers: [{name: main, image: AGNHOST, args: [inclusterclient, --poll-interval=1]}]
`)
	eventually(s.t, "the pod to have called the API twice", func() (bool, string) {
		log, err := s.try("logs", "client")
		if strings.Contains(log, "status=failed") {
			s.t.Fatalf("the pod can't reach the API: %s", log)
		}
		return strings.Count(log, "calling /healthz") > 2 && strings.Contains(log, "authz_header="), fmt.Sprint(log, err)
	})
}
