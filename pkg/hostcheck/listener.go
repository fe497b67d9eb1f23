package hostcheck

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Listener is a socket that takes what comes to a port from anybody.
type Listener struct {
	Protocol string // tcp, udp or sctp
	Port     uint16
	inode    string
}

// Listeners are the sockets of this machine that take what comes to one of the
// addresses: those on it and those on all addresses.
func (h Host) Listeners(at []netip.Addr) []Listener {
	// The state of a UDP socket that is not connected to one peer.
	const stateUnconnected = "07"
	var found []Listener
	add := func(protocol string, sockets []listener) {
		for _, s := range sockets {
			if slices.ContainsFunc(at, func(a netip.Addr) bool { return overlap(a, s.addr.Addr()) }) {
				found = append(found, Listener{protocol, s.addr.Port(), s.inode})
			}
		}
	}
	for _, family := range []string{"", "6"} {
		add("tcp", h.sockets("/proc/net/tcp"+family, stateListen))
		add("udp", h.sockets("/proc/net/udp"+family, stateUnconnected))
	}
	add("sctp", h.sctpEndpoints())
	return found
}

// Program is the name of the process that has the socket, or "" if it can't be
// seen or the kernel itself has it.
func (h Host) Program(l Listener) string { return h.socketOwner(l.inode).name }

// sctpEndpoints are the sockets in /proc/net/sctp/eps, where the kernel has SCTP: the
// sixth field is the port, the eighth the inode, and the addresses follow.
func (h Host) sctpEndpoints() []listener {
	content, err := h.read("/proc/net/sctp/eps")
	if err != nil {
		return nil
	}
	var found []listener
	for line := range strings.Lines(content) {
		f := strings.Fields(line)
		if len(f) < 9 {
			continue
		}
		port, err := strconv.ParseUint(f[5], 10, 16)
		if err != nil {
			continue // the heading
		}
		for _, text := range f[8:] {
			if a, err := netip.ParseAddr(text); err == nil {
				found = append(found, listener{netip.AddrPortFrom(a, uint16(port)), f[7]})
			}
		}
	}
	return found
}
