// Package podgate makes a pod's containers wait until the node is ready for the
// pod's addresses: a CNI plugin, the last of the chain, asks the Kedge that runs
// on the node through a Unix socket, and goes on when it is answered.
package podgate

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// PluginType is the plugin's name in a CNI configuration.
const PluginType = "kedge-gate"

const (
	// askLimit is how long a pod waits; then the runtime is told to try again.
	askLimit = 10 * time.Second
	// openLimit is how long a gate may be missing, as while Kedge starts.
	openLimit = 5 * time.Second
	// answerSlack is for an answer that comes at the limit to arrive.
	answerSlack = time.Second
)

// Pod is a pod that has addresses and no containers yet.
type Pod struct {
	UID       string       `json:"uid"`
	Addresses []netip.Addr `json:"addresses"`
}

type answer struct {
	Error string `json:"error,omitempty"`
}

// Gate answers the plugin.
type Gate struct {
	// Socket is the path it listens at; root alone may open it.
	Socket string
	// Admit returns when the pod may go on, or why it may not.
	Admit func(context.Context, Pod) error
	Log   *slog.Logger

	listener *net.UnixListener
}

// Listen opens the gate. Pods wait until Run is called.
func (g *Gate) Listen() error {
	if err := os.Remove(g.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of an earlier run: %w", err)
	}
	var err error
	g.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: g.Socket})
	if err != nil {
		return err
	}
	return os.Chmod(g.Socket, 0o600)
}

// Run answers until ctx ends, and closes the gate.
func (g *Gate) Run(ctx context.Context) error {
	var pods sync.WaitGroup
	defer pods.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = g.listener.Close() })
	defer stop()
	for {
		conn, err := g.listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept pods at %s: %w", g.Socket, err)
		}
		pods.Go(func() {
			defer func() { _ = conn.Close() }()
			if err := g.answer(ctx, conn); err != nil && ctx.Err() == nil {
				g.Log.Warn("a pod was not answered; it will be started again", "err", err)
			}
		})
	}
}

func (g *Gate) answer(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if err := conn.SetDeadline(time.Now().Add(askLimit + answerSlack)); err != nil {
		return err
	}
	var pod Pod
	if err := json.NewDecoder(conn).Decode(&pod); err != nil {
		return fmt.Errorf("read the request of a pod: %w", err)
	}
	var a answer
	if err := g.Admit(ctx, pod); err != nil {
		a.Error = err.Error()
	}
	return json.NewEncoder(conn).Encode(a)
}

// ask waits at the gate.
func ask(socket string, pod Pod) error {
	conn, err := dial(socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(askLimit + 2*answerSlack)); err != nil {
		return err
	}
	if err := json.NewEncoder(conn).Encode(pod); err != nil {
		return fmt.Errorf("ask Kedge at %s: %w", socket, err)
	}
	var a answer
	if err := json.NewDecoder(bufio.NewReader(conn)).Decode(&a); err != nil {
		return fmt.Errorf("wait for Kedge at %s: %w", socket, err)
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

func dial(socket string) (net.Conn, error) {
	for deadline := time.Now().Add(openLimit); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no Kedge answers for %s, which pods wait for: %w", openLimit, err)
		}
	}
}
