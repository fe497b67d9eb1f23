package netpol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// monitor reports when a table with the name of Kedge's was deleted, or when
// it may have been: host firewalls flush the whole ruleset when they reload.
//
// The kernel tells about every change of nftables, so that nothing has to be
// looked up now and then, and a deleted table is back within milliseconds.
type monitor struct {
	socket  *os.File
	deleted chan struct{}
}

// newMonitor listens in the network namespace of the calling thread.
func newMonitor() (*monitor, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "netlink")
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		_ = socket.Close()
		return nil, fmt.Errorf("subscribe to changes of nftables: %w", err)
	}
	m := &monitor{socket: socket, deleted: make(chan struct{}, 1)}
	go m.run()
	return m, nil
}

func (m *monitor) close() { _ = m.socket.Close() }

func (m *monitor) run() {
	buffer := make([]byte, 64<<10)
	for {
		n, err := m.socket.Read(buffer)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, unix.ENOBUFS): // messages were lost
			m.report()
		case err != nil:
			return
		case tableDeleted(buffer[:n]):
			m.report()
		}
	}
}

func (m *monitor) report() {
	select {
	case m.deleted <- struct{}{}:
	default: // one is waiting already
	}
}

// tableDeleted says whether one of the netlink messages is that a table of
// family inet with the name of Kedge's was deleted.
func tableDeleted(messages []byte) bool {
	const (
		deletedTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE
		attributes   = unix.SizeofNlMsghdr + 4 // after struct nfgenmsg
	)
	order := binary.NativeEndian
	for len(messages) >= attributes {
		length := int(order.Uint32(messages))
		if length < attributes || length > len(messages) {
			return false
		}
		message := messages[:length]
		if order.Uint16(message[4:]) == deletedTable && message[unix.SizeofNlMsghdr] == unix.NFPROTO_INET &&
			attribute(message[attributes:], unix.NFTA_TABLE_NAME) == TableName {
			return true
		}
		messages = messages[min(align(length), len(messages)):]
	}
	return false
}

// attribute is a netlink attribute that is a string.
func attribute(attributes []byte, kind uint16) string {
	order := binary.NativeEndian
	for len(attributes) >= unix.SizeofNlAttr {
		length := int(order.Uint16(attributes))
		if length <= unix.SizeofNlAttr || length > len(attributes) {
			return ""
		}
		if order.Uint16(attributes[2:]) == kind {
			return unix.ByteSliceToString(attributes[unix.SizeofNlAttr:length])
		}
		attributes = attributes[min(align(length), len(attributes)):]
	}
	return ""
}

// align rounds up as netlink does.
func align(length int) int { return (length + 3) &^ 3 }
