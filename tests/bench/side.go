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

// kedge is the side of Kedge.
type kedge struct {
	host    *testbed.Host
	process *testbed.Process
}

// Prepare unpacks the file: any command does.
func (k *kedge) Prepare(ctx context.Context) error {
	_, err := k.host.Kedge(ctx, "version")
	return err
}

func (k *kedge) Start() (err error) {
	k.process, err = k.host.Start("server")
	return err
}

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
	if k.process.Running() {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(k.process.Log()), "\n")
	return "kedge has ended; its last line: " + lines[len(lines)-1]
}

func (k *kedge) CopyLogs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "kedge.log"), []byte(k.process.Log()), 0o600)
}

func (k *kedge) Close() {
	if k.process != nil && k.process.Running() {
		_ = k.process.Kill()
	}
}
