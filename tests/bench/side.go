package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/tests/bench/stock"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// side is one of the two that are compared, on a host of its own.
type side interface {
	// Prepare leaves all programs on the disk, and no cluster.
	Prepare(ctx context.Context) error
	// Start starts the processes, and waits for nothing.
	Start() error
	// Stop sends SIGTERM and waits until all processes have ended.
	Stop(limit time.Duration) (took time.Duration, err error)
	// PIDs are the side's processes as the machine numbers them.
	PIDs() []int
	// Kubeconfig is the administrator's, on the host.
	Kubeconfig() string
	// State says what isn't as it should be; empty: nothing.
	State() string
	// CopyLogs copies logs to a directory of the machine.
	CopyLogs(dir string) error
	// Close ends what runs, in no order.
	Close()
}

var _ side = (*stock.Stack)(nil)

// kedge is the side of Kedge: a server, or an agent of another host's server.
type kedge struct {
	host    *testbed.Host
	server  *testbed.Host // that an agent joins; nil: this is a server
	args    []string      // more of them
	process *testbed.Process
}

// nodeTokenFile is where a server keeps the token for agents, and joinTokenFile
// where an administrator puts it on another host.
const (
	nodeTokenFile = "/var/lib/kedge/server/node-token"
	joinTokenFile = "/etc/kedge/token"
)

// Prepare unpacks the file, as any command does, and gives an agent its token.
func (k *kedge) Prepare(ctx context.Context) error {
	if _, err := k.host.Kedge(ctx, "version"); err != nil || k.server == nil {
		return err
	}
	return copyBetween(k.server, nodeTokenFile, k.host, joinTokenFile)
}

// copyBetween copies a file of one host to another.
func copyBetween(from *testbed.Host, source string, to *testbed.Host, target string) error {
	content, err := os.ReadFile(from.Path(source))
	if err != nil {
		return err
	}
	path := to.Path(target)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// dnsOnly are the arguments of a server that brings no more than what the stock
// stack is given: DNS.
var dnsOnly = []string{"--disable=metrics-server", "--disable=ingress", "--disable=gateway-api", "--disable=dashboard"}

func (k *kedge) Start() (err error) {
	args := []string{"server"}
	if k.server != nil {
		args = []string{"agent", "--server", serverURL(k.server), "--token-file", joinTokenFile}
	}
	k.process, err = k.host.Start(append(args, k.args...)...)
	return err
}

// serverURL is where other hosts find a host's API.
func serverURL(host *testbed.Host) string { return "https://" + host.Address.String() + ":6443" }

func (k *kedge) Stop(limit time.Duration) (time.Duration, error) {
	took, code, err := k.process.Stop(limit)
	if err == nil && code != 0 {
		err = fmt.Errorf("kedge stopped with code %d", code)
	}
	return took, err
}

func (k *kedge) PIDs() []int        { return []int{k.process.PID()} }
func (k *kedge) Kubeconfig() string { return "/etc/kedge/kedge.yaml" }

func (k *kedge) State() string {
	if k.process == nil || k.process.Running() {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(k.process.Log()), "\n")
	return "kedge has ended; its last line: " + lines[len(lines)-1]
}

func (k *kedge) CopyLogs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if k.process == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "kedge.log"), []byte(k.process.Log()), 0o600)
}

func (k *kedge) Close() {
	if k.process != nil && k.process.Running() {
		_ = k.process.Kill()
	}
}
