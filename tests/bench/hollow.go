package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kedge-k8s/kedge/tests/bench/cluster"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

const (
	// firstHollow is the address of the first hollow node, in the range of the
	// testbed's network that no host is in.
	firstHollow = "198.18.1.1"
	hollowFile  = "/var/log/hollow.log"
	adminFile   = "/etc/kedge/kedge.yaml"
)

// hollowLabel is the label of the hollow nodes.
var hollowLabel = cluster.Object{"hollow": "true"}

func hollowName(i int) string { return fmt.Sprintf("hollow-%d", i+1) }

// hollowNodes is the process of the hollow nodes.
type hollowNodes struct {
	ctx context.Context // ends with the process, if not before
	end func()
	cmd *exec.Cmd
}

func (h *hollowNodes) pid() int { return h.cmd.Process.Pid }

// startHollow starts hollow nodes on a host of their own.
func (r *run) startHollow(ctx context.Context, nodes int) (_ *hollowNodes, err error) {
	// Each kubelet watches a directory, and the kernel limits how many may.
	restore, err := raise("/proc/sys/fs/inotify/max_user_instances", nodes+maxNodes)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			restore()
		}
	}()
	host, err := r.newHost("hollow")
	if err != nil {
		return nil, err
	}
	if _, err := host.ExecIn(ctx, strings.NewReader(addressCommands(nodes)), "ip", "-batch", "-"); err != nil {
		return nil, err
	}
	if err := copyBetween(r.host, adminFile, host, adminFile); err != nil {
		return nil, err
	}
	log, err := os.Create(host.Path(hollowFile))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := host.Command(context.Background(), r.bench.hollow,
		"-kubeconfig", adminFile, "-server", serverURL(r.host), "-nodes", strconv.Itoa(nodes),
		"-address", firstHollow, "-dir", "/var/lib/kubelet", "-image", pauseImage)
	cmd.Stdout, cmd.Stderr = log, log
	if err := host.StartCommand(cmd); err != nil {
		return nil, err
	}
	life, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := cmd.Wait()
		cancel(fmt.Errorf("the hollow nodes ended: %w; their last words:\n%s", err, lastWords(host)))
	}()
	return &hollowNodes{ctx: life, cmd: cmd, end: func() {
		_ = cmd.Process.Kill()
		<-done
		restore()
	}}, nil
}

// addressCommands give a host the addresses of its hollow nodes.
func addressCommands(nodes int) string {
	var commands strings.Builder
	address := netip.MustParseAddr(firstHollow)
	for range nodes {
		fmt.Fprintf(&commands, "address add %s/32 dev eth0\n", address)
		address = address.Next()
	}
	return commands.String()
}

func lastWords(host *testbed.Host) string {
	text, err := os.ReadFile(host.Path(hollowFile))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// raise raises a limit of the kernel until restore is called.
func raise(path string, least int) (restore func(), err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	before, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if before >= least {
		return func() {}, nil
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(least)), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("raise %s to %d", filepath.Base(path), least), err)
	}
	return func() { _ = os.WriteFile(path, text, 0) }, nil
}
