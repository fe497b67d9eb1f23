package podgate

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// open runs a gate and returns its socket.
func open(t *testing.T, admit func(context.Context, Pod) error) string {
	t.Helper()
	g := &Gate{Socket: filepath.Join(t.TempDir(), "gate.sock"), Admit: admit, Log: slog.New(slog.DiscardHandler)}
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return g.Socket
}

func TestAsk(t *testing.T) {
	socket := open(t, func(_ context.Context, p Pod) error {
		if p.UID != "good" || !slices.Equal(p.Addresses, []netip.Addr{netip.MustParseAddr("10.42.0.7"), netip.MustParseAddr("fd42::7")}) {
			return errors.New("not this one")
		}
		return nil
	})
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	addresses := []netip.Addr{netip.MustParseAddr("10.42.0.7"), netip.MustParseAddr("fd42::7")}
	if err := ask(socket, Pod{UID: "good", Addresses: addresses}); err != nil {
		t.Error(err)
	}
	if err := ask(socket, Pod{UID: "bad", Addresses: addresses}); err == nil || err.Error() != "not this one" {
		t.Errorf("the answer is %v", err)
	}
}

func TestPodsDoNotWaitForEachOther(t *testing.T) {
	first := make(chan struct{})
	socket := open(t, func(ctx context.Context, p Pod) error {
		if p.UID == "first" {
			close(first)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	go func() { _ = ask(socket, Pod{UID: "first"}) }()
	<-first
	if err := ask(socket, Pod{UID: "second"}); err != nil {
		t.Error(err)
	}
}

func TestGateOpensLater(t *testing.T) {
	dir := t.TempDir()
	asked := make(chan error)
	socket := filepath.Join(dir, "late.sock")
	go func() { asked <- ask(socket, Pod{}) }()
	time.Sleep(100 * time.Millisecond)
	g := &Gate{Socket: socket, Admit: func(context.Context, Pod) error { return nil }, Log: slog.New(slog.DiscardHandler)}
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	if err := <-asked; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	const before = `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],
		"ips":[{"address":"10.42.0.7/24","interface":0},{"address":"fd42::7/64","interface":0}]}`
	_, result, err := parse([]byte(`{"cniVersion":"1.0.0","name":"n","type":"kedge-gate","socket":"/s","prevResult":` + before + `}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := addresses(result); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.42.0.7"), netip.MustParseAddr("fd42::7")}) {
		t.Errorf("the addresses are %v", got)
	}
	for text, want := range map[string]string{
		`{"cniVersion":"1.0.0","name":"n","type":"kedge-gate","socket":"/s"}`:               "behind another plugin",
		`{"cniVersion":"1.0.0","name":"n","type":"kedge-gate","prevResult":` + before + `}`: "names no socket",
		`{`: "read the CNI configuration",
	} {
		if _, _, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q", text, err, want)
		}
	}
}
