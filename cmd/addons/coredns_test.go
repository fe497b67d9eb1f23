package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// program is the test program as the add-ons' one, with these arguments.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Args = args
	cmd.Env = append(os.Environ(), "ADDONS_TEST_AS_PROGRAM=1")
	return cmd
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"/coredns", "-version"}, {"/addons", "coredns", "-version"}} {
		out, err := program(t, args...).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "CoreDNS-1.") {
			t.Errorf("%q: %v, said %q", args, err, out)
		}
	}
}

func TestPlugins(t *testing.T) {
	out, err := program(t, "coredns", "-plugins").Output()
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]bool)
	for _, name := range strings.Fields(string(out)) {
		listed[name] = true
	}
	// What the Corefiles of Kubernetes distributions use.
	for _, name := range strings.Fields(`acl autopath bind bufsize cache cancel debug dns64 errors file forward
		header health hosts k8s_external kubernetes loadbalance log loop metadata minimal prometheus ready
		reload rewrite root template tls transfer view whoami`) {
		if !listed[name] {
			t.Errorf("the plugin %s is missing:\n%s", name, out)
		}
	}
	for _, name := range []string{"azure", "clouddns", "dnssec", "etcd", "route53", "trace"} {
		if listed[name] {
			t.Errorf("the plugin %s is not wanted for its libraries", name)
		}
	}
}

// freePorts returns TCP and UDP ports of the loopback address that nobody uses now.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func TestServesAndStops(t *testing.T) {
	const lameduck = 400 * time.Millisecond
	ports := freePorts(t, 4)
	dir := t.TempDir()
	corefile := fmt.Sprintf(`
.:%d {
    bind 127.0.0.1
    errors
    health 127.0.0.1:%d {
        lameduck %s
    }
    ready 127.0.0.1:%d
    prometheus 127.0.0.1:%d
    hosts {
        192.0.2.7 host.example
    }
    cache 30
    reload
    loadbalance
    import %s/custom/*.override
}
`, ports[0], ports[1], lameduck, ports[2], ports[3], dir)
	for file, text := range map[string]string{
		"Corefile":            corefile,
		"custom/log.override": "template IN A custom.example {\n answer \"{{ .Name }} 60 IN A 192.0.2.8\"\n}\n",
	} {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	cmd := program(t, "/coredns", "-conf", filepath.Join(dir, "Corefile"))
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if t.Failed() {
			_ = cmd.Process.Kill()
			t.Logf("CoreDNS ended with %v and said:\n%s", <-ended, &output)
		}
	})

	ready := fmt.Sprintf("http://127.0.0.1:%d/ready", ports[2])
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if response, err := http.Get(ready); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer 200 within 10 s", ready)
		}
	}

	ask := func(name, want string) {
		t.Helper()
		question := new(dns.Msg).SetQuestion(name, dns.TypeA)
		for _, network := range []string{"udp", "tcp"} {
			client := dns.Client{Net: network, Timeout: 2 * time.Second}
			reply, _, err := client.Exchange(question, fmt.Sprintf("127.0.0.1:%d", ports[0]))
			if err != nil {
				t.Fatalf("ask for %s by %s: %v", name, network, err)
			}
			if len(reply.Answer) != 1 || !strings.HasSuffix(reply.Answer[0].String(), want) {
				t.Errorf("asked for %s by %s, got %v, want %s", name, network, reply.Answer, want)
			}
		}
	}
	ask("host.example.", "192.0.2.7")
	ask("custom.example.", "192.0.2.8")

	stopped := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(lameduck / 4)
	ask("host.example.", "192.0.2.7")
	err := <-ended
	ended <- err
	if err != nil {
		t.Errorf("ended with %v, want exit code 0", err)
	}
	if took := time.Since(stopped); took < lameduck || took > lameduck+2*time.Second {
		t.Errorf("ended %s after SIGTERM, want about the lameduck time, %s", took, lameduck)
	}
}
