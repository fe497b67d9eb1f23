package vm

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Network is an Ethernet switch between machines. It leads nowhere else.
type Network struct {
	mu    sync.Mutex
	ports []net.Conn                   // one for each machine that is on
	seen  map[[macLength]byte]net.Conn // where each address is
}

const (
	macLength = 6
	maxFrame  = 64 << 10
)

// NewNetwork makes a network that ends with the test.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	n := &Network{seen: map[[macLength]byte]net.Conn{}}
	t.Cleanup(n.close)
	return n
}

// plugIn makes a port and returns the machine's end of its wire, a socket with a
// frame in each datagram. Closing the port unplugs the machine.
func (n *Network) plugIn() (wire *os.File, port net.Conn, err error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a wire: %w", err)
	}
	wire = os.NewFile(uintptr(ends[0]), "wire")
	own := os.NewFile(uintptr(ends[1]), "port")
	defer func() { _ = own.Close() }()
	if port, err = net.FileConn(own); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make a wire: %w", err), wire.Close())
	}
	n.mu.Lock()
	n.ports = append(n.ports, port)
	n.mu.Unlock()
	go n.serve(port)
	return wire, port, nil
}

// serve hands on what comes in at a port until that is closed.
func (n *Network) serve(port net.Conn) {
	defer n.unplug(port)
	frame := make([]byte, maxFrame)
	for {
		length, err := port.Read(frame)
		if err != nil {
			return
		}
		for _, out := range n.route(port, frame[:length]) {
			// A machine that can't keep up loses frames, as on any network.
			_ = out.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			_, _ = out.Write(frame[:length])
		}
	}
}

// route learns where a frame comes from, and tells where it has to go.
func (n *Network) route(from net.Conn, frame []byte) (to []net.Conn) {
	if len(frame) < 2*macLength {
		return nil
	}
	target, source := [macLength]byte(frame), [macLength]byte(frame[macLength:])
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen[source] = from
	if port, known := n.seen[target]; known {
		if port == from {
			return nil
		}
		return []net.Conn{port}
	}
	for _, port := range n.ports {
		if port != from {
			to = append(to, port)
		}
	}
	return to
}

func (n *Network) unplug(port net.Conn) {
	_ = port.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports = slices.DeleteFunc(n.ports, func(p net.Conn) bool { return p == port })
	maps.DeleteFunc(n.seen, func(_ [macLength]byte, p net.Conn) bool { return p == port })
}

func (n *Network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, port := range n.ports {
		_ = port.Close()
	}
}
