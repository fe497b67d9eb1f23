package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// probeLimit is how long one question of a probe may take.
const probeLimit = 4 * time.Second

// answer is what a probe has found out about one target.
type answer struct {
	Target string  `json:"target"`
	Detail string  `json:"detail,omitempty"` // the address that a name has
	Error  string  `json:"error,omitempty"`
	Millis float64 `json:"millis"`
}

// probed is what a probe prints.
type probed struct {
	Time    time.Time `json:"time"` // by the clock of the probe's machine
	Answers []answer  `json:"answers"`
}

// probe is what kedge doctor runs in pods of its own to see the cluster with a
// pod's eyes:
//
//	probe serve :PORT              takes connections, until SIGTERM
//	probe ask dial:ADDRESS:PORT…   connects
//	probe ask name:NAME…           resolves a name to addresses
//	probe ask zone:NAME…           asks for the name servers of a zone
func probe() {
	if err := runProbe(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func runProbe(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) > 1 {
		verb, rest := args[0], args[1:]
		switch {
		case verb == "serve" && len(rest) == 1:
			return takeConnections(ctx, rest[0])
		case verb == "ask":
			return json.NewEncoder(os.Stdout).Encode(ask(ctx, rest))
		}
	}
	return errors.New("serve :PORT, or ask dial:ADDRESS:PORT, name:NAME, zone:NAME")
}

func takeConnections(ctx context.Context, address string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil // asked to end
		}
		if err != nil {
			return err
		}
		_ = conn.Close()
	}
}

// ask asks all at once.
func ask(ctx context.Context, targets []string) probed {
	found := probed{Time: time.Now(), Answers: make([]answer, len(targets))}
	var wg sync.WaitGroup
	for i, target := range targets {
		wg.Go(func() { found.Answers[i] = askOne(ctx, target) })
	}
	wg.Wait()
	return found
}

func askOne(ctx context.Context, target string) answer {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	a := answer{Target: target}
	kind, what, _ := strings.Cut(target, ":")
	var err error
	began := time.Now()
	switch kind {
	case "dial":
		var conn net.Conn
		if conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", what); err == nil {
			_ = conn.Close()
		}
	case "name":
		var addresses []string
		addresses, err = net.DefaultResolver.LookupHost(ctx, what)
		a.Detail = strings.Join(addresses, ", ")
	case "zone":
		_, err = net.DefaultResolver.LookupNS(ctx, what)
		if answered := (*net.DNSError)(nil); errors.As(err, &answered) && answered.IsNotFound {
			err = nil // an answer all the same
		}
	default:
		err = fmt.Errorf("there is no %q", kind)
	}
	a.Millis = float64(time.Since(began).Microseconds()) / 1000
	if err != nil {
		a.Error = err.Error()
	}
	return a
}
