package vm

import (
	"net"
	"testing"
	"time"
)

// station is what a machine has of a network.
type station struct {
	net.Conn
	t    *testing.T
	port net.Conn
	mac  string
}

func newStation(t *testing.T, n *Network, mac string) *station {
	t.Helper()
	wire, port, err := n.plugIn()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(wire)
	_ = wire.Close() // conn has its own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &station{Conn: conn, t: t, port: port, mac: mac}
}

const broadcast = "\xff\xff\xff\xff\xff\xff"

func (s *station) send(to, text string) {
	s.t.Helper()
	if _, err := s.Write([]byte(to + s.mac + text)); err != nil {
		s.t.Fatal(err)
	}
}

// hears fails the test unless the next frame has this text.
func (s *station) hears(want string) {
	s.t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	frame := make([]byte, maxFrame)
	length, err := s.Read(frame)
	if err != nil {
		s.t.Fatalf("waiting for %q: %v", want, err)
	}
	if got := string(frame[min(length, 2*macLength):length]); got != want {
		s.t.Errorf("%q came, want %q", got, want)
	}
}

func TestSwitch(t *testing.T) {
	n := NewNetwork(t)
	a, b, c := newStation(t, n, "AAAAAA"), newStation(t, n, "BBBBBB"), newStation(t, n, "CCCCCC")

	a.send(b.mac, "to nobody known") // so everybody gets it
	b.hears("to nobody known")
	c.hears("to nobody known")
	b.send(a.mac, "answer")
	a.hears("answer")
	a.send(b.mac, "private")
	if _, err := a.Write([]byte("short")); err != nil {
		t.Fatal(err)
	}
	a.send(broadcast, "public")
	b.hears("private")
	b.hears("public")
	c.hears("public") // and nothing before

	// A machine that is switched off and on again is at another port.
	_ = b.port.Close()
	again := newStation(t, n, b.mac)
	again.send(broadcast, "back")
	a.hears("back")
	c.hears("back")
	a.send(b.mac, "welcome")
	again.hears("welcome")
}
