package netpol

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// SCTP without the kernel's: the first two packets of an association, as raw IP
// packets. See RFC 9260, 3.

// The chunks of these packets.
const (
	sctpInit    = 1
	sctpInitAck = 2
)

// sctpPacket is a packet with one chunk.
type sctpPacket struct {
	source, destination uint16
	tag                 uint32 // that the receiver told the sender
	chunk               byte
	initiate            uint32 // that the sender tells the receiver
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (p sctpPacket) bytes() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.source)
	b = binary.BigEndian.AppendUint16(b, p.destination)
	b = binary.BigEndian.AppendUint32(b, p.tag)
	b = append(b, 0, 0, 0, 0)        // checksum
	b = append(b, p.chunk, 0, 0, 20) // flags, length
	b = binary.BigEndian.AppendUint32(b, p.initiate)
	b = append(b, 0, 0, 16, 0) // window
	b = append(b, 0, 1, 0, 1)  // streams out and in
	b = append(b, 0, 0, 0, 1)  // first sequence number
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

func parseSCTP(b []byte) (p sctpPacket, ok bool) {
	if len(b) < 20 {
		return p, false
	}
	return sctpPacket{
		source:      binary.BigEndian.Uint16(b),
		destination: binary.BigEndian.Uint16(b[2:]),
		tag:         binary.BigEndian.Uint32(b[4:]),
		chunk:       b[12],
		initiate:    binary.BigEndian.Uint32(b[16:]),
	}, true
}

// listenSCTP opens a raw socket that gets all SCTP packets to an address.
func (h host) listenSCTP(t *testing.T, addr netip.Addr) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	h.do(t, func() (err error) {
		conn, err = net.ListenPacket(fmt.Sprintf("%s:132", familyOf(addr)), addr.String())
		return err
	})
	return conn
}

// serveSCTP answers on SCTP ports of the host's addresses until the test ends.
func (h host) serveSCTP(t *testing.T, ports ...uint16) {
	t.Helper()
	for _, addr := range h.addrs {
		conn := h.listenSCTP(t, addr)
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			buffer := make([]byte, 200)
			for {
				n, from, err := conn.ReadFrom(buffer)
				if err != nil {
					return
				}
				if p, ok := parseSCTP(buffer[:n]); ok && p.chunk == sctpInit && slices.Contains(ports, p.destination) {
					answer := sctpPacket{source: p.destination, destination: p.source, tag: p.initiate, chunk: sctpInitAck, initiate: 1}
					_, _ = conn.WriteTo(answer.bytes(), from)
				}
			}
		}()
	}
}

// reachesSCTP says whether a request for an association is answered.
func (h host) reachesSCTP(t *testing.T, to netip.AddrPort) bool {
	t.Helper()
	conn := h.listenSCTP(t, h.addrs[familyOf(to.Addr())])
	defer func() { _ = conn.Close() }()
	request := sctpPacket{source: 32768 + uint16(rand.N(28000)), destination: to.Port(), chunk: sctpInit, initiate: rand.Uint32() | 1}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	// A packet that the host itself drops is an error here.
	if _, err := conn.WriteTo(request.bytes(), &net.IPAddr{IP: to.Addr().AsSlice()}); err != nil {
		return false
	}
	buffer := make([]byte, 200)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			if !isTimeout(err) {
				t.Errorf("sctp to %s: %v", to, err)
			}
			return false
		}
		if p, ok := parseSCTP(buffer[:n]); ok && p.chunk == sctpInitAck && p.source == to.Port() && p.tag == request.initiate {
			return true
		}
	}
}
