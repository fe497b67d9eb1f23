//go:build labs

package labs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// limit is how long a lab waits for what takes a few seconds on an idle machine.
const limit = 2 * time.Minute

const (
	registryName = "registry.lab.example" // in the hosts file of every machine
	privatePort  = "5000"
	mirrorPort   = "5001"
	user         = "student"
	password     = "pass word"
)

// lab is the machines of a lab.
type lab struct {
	bed      *testbed.Bed
	registry *testbed.Host
	ca       string
}

// newLab has a machine with two registries: a mirror of Docker Hub for everybody,
// and a private one with a login.
func newLab(t *testing.T) *lab {
	t.Helper()
	images := newStore(t)
	l := &lab{bed: testbed.New(t)}
	l.registry = l.host(t, "registry")
	certificate, ca := newAuthority(t, registryName)
	l.ca = string(ca)
	registry{store: images, prefixes: []string{"library/", "prom/", "e2e-test-images/"}}.serve(t, l.registry, mirrorPort, certificate)
	registry{store: images, prefixes: []string{"lab/"}, user: user, password: password}.serve(t, l.registry, privatePort, certificate)
	return l
}

// host adds a machine that knows the registries.
func (l *lab) host(t *testing.T, name string) *testbed.Host {
	t.Helper()
	host, err := l.bed.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	if l.registry == nil {
		return host
	}
	hosts, err := os.ReadFile(host.Path("/etc/hosts"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, host, "/etc/hosts", string(hosts)+l.registry.Address.String()+" "+registryName+"\n")
	put(t, host, "/etc/kedge/lab-ca.pem", l.ca)
	put(t, host, "/etc/kedge/registries.yaml", strings.NewReplacer("MIRROR", registryName+":"+mirrorPort, "PRIVATE", registryName+":"+privatePort).Replace(`
mirrors:
  docker.io:
    endpoint: ["https://MIRROR"]
  registry.k8s.io:
    endpoint: ["https://MIRROR"]
configs:
  "MIRROR":
    tls: {ca_file: /etc/kedge/lab-ca.pem}
  "PRIVATE":
    tls: {ca_file: /etc/kedge/lab-ca.pem}
`))
	for _, name := range []string{"kedge", "kubectl"} {
		if err := os.Symlink(host.Binary, host.Path("/usr/local/bin/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

// server starts a server on a machine of its own, waits until its node is Ready,
// and gives a shell there.
func (l *lab) server(t *testing.T, name string, args ...string) shell {
	t.Helper()
	return l.serverOn(t, l.host(t, name), args...)
}

func (l *lab) serverOn(t *testing.T, host *testbed.Host, args ...string) shell {
	t.Helper()
	begin := time.Now()
	server, err := host.Start(append([]string{"server"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.WaitReady(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	t.Logf("server %s is ready after %s", host.Name, time.Since(begin).Round(100*time.Millisecond))
	return newShell(t, host)
}

// step is a part of a lab. Steps follow each other; a failed one doesn't keep the
// rest from being tried.
type step struct {
	name string
	run  func(shell)
}

func (s shell) steps(t *testing.T, steps ...step) {
	t.Helper()
	for _, step := range steps {
		begin := time.Now()
		t.Run(step.name, func(t *testing.T) {
			own := s
			own.t = t
			step.run(own)
		})
		t.Logf("%s: %s", step.name, time.Since(begin).Round(100*time.Millisecond))
	}
}

// put writes a file on a machine.
func put(t *testing.T, host *testbed.Host, path, content string) {
	t.Helper()
	path = host.Path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// words says which of the words a text lacks; empty if none.
func missing(text string, words []string) string {
	var lacks []string
	for _, word := range words {
		if !strings.Contains(text, word) {
			lacks = append(lacks, fmt.Sprintf("%q", word))
		}
	}
	return strings.Join(lacks, ", ")
}
