package netpol

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netns is a network namespace, which exists as long as the file is open.
type netns struct{ file *os.File }

func newNetns(t testing.TB) netns {
	t.Helper()
	var ns netns
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		ns.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.file.Close() })
	ns.do(t, func() error {
		// Link-local addresses can be used at once, as the others can.
		if err := sysctl("ipv6/conf/default/accept_dad", "0"); err != nil {
			return err
		}
		return setUp("lo")
	})
	return ns
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		result <- f()
	}()
	return <-result
}

// in runs f in the namespace. Sockets that it opens and programs that it
// starts belong there, goroutines that it starts do not.
func (ns netns) in(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

func (ns netns) do(t testing.TB, f func() error) {
	t.Helper()
	if err := ns.in(f); err != nil {
		t.Fatal(err)
	}
}

// nft runs the program nft in the namespace.
func (ns netns) nft(t *testing.T, script string) string {
	t.Helper()
	var output string
	ns.do(t, func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		out, err := cmd.CombinedOutput()
		output = string(out)
		if err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
	return output
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// configure gives an interface addresses and sets it up.
func configure(name string, prefixes ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, prefix := range prefixes {
		addr, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s: address %s: %w", name, prefix, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// connect makes a veth pair between the namespace of the thread and another.
func connect(name string, other netns, otherName string) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: name},
		PeerName:      otherName,
		PeerNamespace: netlink.NsFd(other.file.Fd()),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth %s: %w", name, err)
	}
	return nil
}

func route(to, via string) error {
	_, destination, err := net.ParseCIDR(to)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: destination, Gw: net.ParseIP(via)})
}

func sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644)
}

// host is an end of connections: a pod or another machine.
type host struct {
	netns
	addrs [2]netip.Addr // by family
}

// serve answers on TCP and UDP ports of the host's addresses until the test ends.
func (h host) serve(t *testing.T, ports ...uint16) {
	t.Helper()
	for _, addr := range h.addrs {
		for _, port := range ports {
			to := netip.AddrPortFrom(addr, port).String()
			h.serveTCP(t, to)
			var conn net.PacketConn
			h.do(t, func() (err error) {
				conn, err = net.ListenPacket("udp", to)
				return err
			})
			t.Cleanup(func() { _ = conn.Close() })
			go answerUDP(conn)
		}
	}
}

func (h host) serveTCP(t *testing.T, addr string) {
	t.Helper()
	var listener net.Listener
	h.do(t, func() (err error) {
		listener, err = net.Listen("tcp", addr)
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })
	go answerTCP(listener)
}

// answerTCP echoes until the listener is closed.
func answerTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			buffer := make([]byte, 100)
			for {
				n, err := conn.Read(buffer)
				if err != nil {
					return
				}
				if _, err := conn.Write(buffer[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// answerUDP echoes until the socket is closed.
func answerUDP(conn net.PacketConn) {
	buffer := make([]byte, 100)
	for {
		n, addr, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(buffer[:n], addr)
	}
}

// patience is how long connections are waited for. What should pass is tried
// again, so that it may be short.
const patience = 250 * time.Millisecond

// dial opens a connection from the host's address of the family to another.
func (h host) dial(network string, to netip.AddrPort) (net.Conn, error) {
	f := familyOf(to.Addr())
	dialer := net.Dialer{Timeout: patience}
	if local := h.addrs[f]; local.IsValid() {
		if network == "tcp" {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
		} else {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
		}
	}
	var conn net.Conn
	err := h.in(func() (err error) {
		conn, err = dialer.Dial(network, to.String())
		return err
	})
	return conn, err
}

// reaches says whether there is an answer. A refusal is silence: any other
// failure is an error of the test.
func (h host) reaches(t *testing.T, network string, to netip.AddrPort) bool {
	t.Helper()
	if network == "sctp" {
		return h.reachesSCTP(t, to)
	}
	conn, err := h.dial(network, to)
	if err == nil {
		defer func() { _ = conn.Close() }()
		err = echo(conn, patience)
	}
	if err != nil && !isTimeout(err) {
		t.Errorf("%s to %s: %v", network, to, err)
	}
	return err == nil
}

// echo waits for an answer.
func echo(conn net.Conn, limit time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 100))
	return err
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// linkLocal is the address that the kernel gave the interface of a pod.
func linkLocal(t *testing.T, ns netns) netip.Addr {
	t.Helper()
	var found netip.Addr
	ns.do(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		for _, addr := range addrs {
			if addr.IP.IsLinkLocalUnicast() {
				found, _ = netip.AddrFromSlice(addr.IP)
			}
		}
		if err == nil && !found.IsValid() {
			err = errors.New("eth0 has no link-local address")
		}
		return err
	})
	return found
}

// makeBridge makes the bridge as the CNI plugin does.
func makeBridge() error {
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: labBridge}}); err != nil {
		return fmt.Errorf("bridge %s: %w", labBridge, err)
	}
	return configure(labBridge, "10.77.0.1/24", "fd77::1/64")
}

// newPod makes a pod on the bridge.
func (l *lab) newPod(number int) host {
	l.t.Helper()
	v4, v6 := fmt.Sprintf("10.77.0.%d", number), fmt.Sprintf("fd77::%d", number)
	pod := host{newNetns(l.t), addrsOf(v4, v6)}
	port := fmt.Sprintf("veth%d", number)
	l.node.do(l.t, func() error {
		if err := connect(port, pod.netns, "eth0"); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName(labBridge)
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(link, bridge); err != nil {
			return err
		}
		if err := netlink.LinkSetHairpin(link, true); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	pod.do(l.t, func() error {
		if err := configure("eth0", v4+"/24", v6+"/64"); err != nil {
			return err
		}
		if err := route("0.0.0.0/0", "10.77.0.1"); err != nil {
			return err
		}
		return route("::/0", "fd77::1")
	})
	return pod
}
