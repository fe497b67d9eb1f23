package hostcheck

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PortInUseError says who listens on a port that Kedge wants.
type PortInUseError struct {
	Host    string
	Port    int
	PID     int    // 0 if the process can't be seen
	Process string // "" if the process can't be seen
	Option  string // the option that chooses another port; "" if none does
}

func (e *PortInUseError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "port %d on %s is in use by ", e.Port, e.Host)
	if e.PID == 0 {
		b.WriteString("a process that can't be seen from here; stop it")
	} else {
		fmt.Fprintf(&b, "process %q (pid %d); stop it", e.Process, e.PID)
	}
	if e.Option != "" {
		b.WriteString(" or choose another with " + e.Option)
	}
	return b.String()
}

// CheckPort says whether a TCP port can be listened on, by doing so for a moment.
// An empty host stands for all addresses. The error is a *[PortInUseError] when
// somebody else listens there; option, such as "--https-listen-port", is what it
// tells the reader to change.
func (h Host) CheckPort(ctx context.Context, host string, port int, option string) error {
	inUse := &PortInUseError{Host: host, Port: port, Option: option}
	if host == "" {
		inUse.Host = "any address"
	}
	if !h.live() {
		p, ok := h.portHolder(host, port)
		if !ok {
			return nil
		}
		inUse.PID, inUse.Process = p.pid, p.name
		return inUse
	}

	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	switch {
	case err == nil:
		return l.Close()
	case errors.Is(err, unix.EADDRINUSE):
		if p, ok := h.portHolder(host, port); ok {
			inUse.PID, inUse.Process = p.pid, p.name
		}
		return inUse
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: this machine has no such address", host)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("listen on port %d: only root may use it", port)
	}
	return err
}

// PortHolder returns who listens on a TCP port, on any address of this network
// namespace. With ok true and pid 0 somebody does, but who can't be seen: it takes
// root to see other users' processes, and the kernel itself has none.
func (h Host) PortHolder(port int) (pid int, process string, ok bool) {
	p, ok := h.portHolder("", port)
	return p.pid, p.name, ok
}

// portHolder returns who listens on a port of a host address, or on all addresses.
func (h Host) portHolder(host string, port int) (process, bool) {
	want, err := netip.ParseAddr(host)
	if err != nil {
		want = netip.Addr{} // any: the holder is asked for by port alone
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for _, s := range h.listening(table) {
			if int(s.addr.Port()) == port && overlap(want, s.addr.Addr()) {
				return h.socketOwner(s.inode), true
			}
		}
	}
	return process{}, false
}

// overlap says whether two addresses to listen on get in each other's way.
func overlap(a, b netip.Addr) bool {
	if !a.IsValid() || a.IsUnspecified() || b.IsUnspecified() {
		return true
	}
	return a.Unmap().WithZone("") == b.Unmap().WithZone("")
}

type listener struct {
	addr  netip.AddrPort
	inode string
}

// stateListen is that of TCP sockets that listen.
const stateListen = "0A"

// listening returns the listening sockets in /proc/net/tcp or tcp6.
func (h Host) listening(table string) []listener { return h.sockets(table, stateListen) }

// sockets returns the sockets in /proc/net/tcp, tcp6, udp or udp6 that are in a
// state. Its fields are described in the kernel's
// Documentation/networking/proc_net_tcp.rst.
func (h Host) sockets(table, state string) []listener {
	content, err := h.read(table)
	if err != nil {
		return nil // tcp6 is missing where IPv6 is
	}
	var found []listener
	for line := range strings.Lines(content) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != state {
			continue
		}
		addr, err := parseSocketAddr(f[1])
		if err != nil {
			continue
		}
		found = append(found, listener{addr: addr, inode: f[9]})
	}
	return found
}

// parseSocketAddr reads an address as /proc/net/tcp writes it: groups of four
// bytes, each as a number in the machine's byte order, then the port.
func parseSocketAddr(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	if !ok || (len(host) != 8 && len(host) != 32) {
		return netip.AddrPort{}, fmt.Errorf("%q is not a socket address", s)
	}
	ip := make([]byte, 0, 16)
	for i := 0; i < len(host); i += 8 {
		word, err := strconv.ParseUint(host[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, err
		}
		ip = binary.NativeEndian.AppendUint32(ip, uint32(word))
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr, _ := netip.AddrFromSlice(ip) // 4 or 16 bytes, as checked
	return netip.AddrPortFrom(addr, uint16(p)), nil
}

// socketOwner returns the first process that has a socket open, or none.
func (h Host) socketOwner(inode string) process {
	processes, err := h.processes()
	if err != nil {
		return process{}
	}
	want := "socket:[" + inode + "]"
	for _, p := range processes {
		dir := h.path(fmt.Sprintf("/proc/%d/fd", p.pid))
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // another user's, or ended meanwhile
		}
		for _, fd := range fds {
			if target, err := os.Readlink(dir + "/" + fd.Name()); err == nil && target == want {
				return p
			}
		}
	}
	return process{}
}
