package hostcheck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// message is a netlink request that the kernel acknowledges. Its body is the
// protocol's own header and attributes.
type message struct {
	kind  uint16
	flags uint16
	body  []byte
}

// netlinkConn is a netlink socket in the network namespace of the thread that
// opened it.
type netlinkConn struct{ fd int }

func dialNetlink(protocol int, timeout time.Duration) (netlinkConn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return netlinkConn{}, fmt.Errorf("open a netlink socket: %w", err)
	}
	tv := unix.NsecToTimeval(timeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return netlinkConn{}, errors.Join(err, unix.Close(fd))
	}
	return netlinkConn{fd}, nil
}

func (c netlinkConn) close() { _ = unix.Close(c.fd) }

// exchange sends messages in one go and returns the kernel's answer to each: nil
// or what is wrong with it.
func (c netlinkConn) exchange(messages ...message) ([]error, error) {
	var buf []byte
	for i, m := range messages {
		buf = appendMessage(buf, m, unix.NLM_F_ACK, uint32(i))
	}
	return c.roundTrip(buf, len(messages))
}

// exchangeBatch does the same with messages of a netfilter subsystem that all take
// effect or none. An error about the batch as such is returned as the error.
func (c netlinkConn) exchangeBatch(subsystem uint16, messages []message) ([]error, error) {
	frame := message{kind: unix.NFNL_MSG_BATCH_BEGIN, body: append([]byte{unix.AF_UNSPEC, 0}, big16(subsystem)...)}
	buf := appendMessage(nil, frame, 0, frameSeq)
	for i, m := range messages {
		buf = appendMessage(buf, m, unix.NLM_F_ACK, uint32(i))
	}
	frame.kind = unix.NFNL_MSG_BATCH_END
	buf = appendMessage(buf, frame, 0, frameSeq)
	return c.roundTrip(buf, len(messages))
}

// frameSeq numbers what is not one of the caller's messages.
const frameSeq = 1 << 31

// roundTrip sends a buffer of messages and collects the answers to those that are
// numbered from 0 to n-1.
func (c netlinkConn) roundTrip(buf []byte, n int) ([]error, error) {
	if err := unix.Sendto(c.fd, buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask the kernel by netlink: %w", err)
	}
	answers := make([]error, n)
	in := make([]byte, 1<<16)
	for missing := n; missing > 0; {
		size, _, err := unix.Recvfrom(c.fd, in, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the kernel's answer by netlink: %w", err)
		}
		for rest := in[:size]; len(rest) >= unix.SizeofNlMsghdr+4; {
			length := int(binary.NativeEndian.Uint32(rest))
			kind := binary.NativeEndian.Uint16(rest[4:])
			seq := binary.NativeEndian.Uint32(rest[8:])
			errno := int32(binary.NativeEndian.Uint32(rest[unix.SizeofNlMsghdr:]))
			if length < unix.SizeofNlMsghdr {
				return nil, errors.New("read the kernel's answer by netlink: it is cut off")
			}
			rest = rest[min(align4(length), len(rest)):]
			switch {
			case kind != unix.NLMSG_ERROR:
			case seq < uint32(n):
				missing--
				if errno != 0 {
					answers[seq] = unix.Errno(-errno)
				}
			case errno != 0:
				return nil, unix.Errno(-errno)
			}
		}
	}
	return answers, nil
}

// appendMessage appends a message with its header, see netlink(7).
func appendMessage(buf []byte, m message, flags uint16, seq uint32) []byte {
	buf = binary.NativeEndian.AppendUint32(buf, uint32(unix.SizeofNlMsghdr+len(m.body)))
	buf = binary.NativeEndian.AppendUint16(buf, m.kind)
	buf = binary.NativeEndian.AppendUint16(buf, unix.NLM_F_REQUEST|m.flags|flags)
	buf = binary.NativeEndian.AppendUint32(buf, seq)
	buf = binary.NativeEndian.AppendUint32(buf, 0) // the sender: the kernel fills it in
	return pad4(append(buf, m.body...))
}

// attribute encodes one attribute; its value may be made of several parts, such as
// further attributes.
func attribute(kind uint16, value ...[]byte) []byte {
	v := join(value...)
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return pad4(append(b, v...))
}

func text(s string) []byte     { return append([]byte(s), 0) }
func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
func big32(n uint32) []byte    { return binary.BigEndian.AppendUint32(nil, n) }
func big16(n uint16) []byte    { return binary.BigEndian.AppendUint16(nil, n) }
func join(b ...[]byte) []byte  { return slices.Concat(b...) }
func align4(n int) int         { return (n + 3) &^ 3 }
func pad4(b []byte) []byte     { return append(b, make([]byte, align4(len(b))-len(b))...) }
