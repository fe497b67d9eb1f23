package flannel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// listen has the kernel tell, until ctx ends, when something of the network
// goes: a table (a firewall that is reloaded flushes all tables), a device, a
// route. That costs nothing while nothing happens, and the loop that it wakes
// looks for itself what is missing.
func (n *Network) listen(ctx context.Context) error {
	tables, err := subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return err
	}
	routes, err := subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		_ = tables.Close()
		return err
	}
	n.work.Go(func() {
		receive(ctx, tables, deletesTable, func() {
			n.tableGone.Store(true)
			n.signal()
		})
	})
	n.work.Go(func() { receive(ctx, routes, n.concerns, n.signal) })
	return nil
}

func subscribe(protocol int, groups ...uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("listen to the kernel: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "netlink")
	address := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, group := range groups {
		address.Groups |= 1 << (group - 1)
	}
	if err := unix.Bind(fd, address); err != nil {
		_ = socket.Close()
		return nil, fmt.Errorf("listen to the kernel: %w", err)
	}
	return socket, nil
}

// receive calls notify for messages that match, and when some were lost. It
// closes the socket when ctx ends.
func receive(ctx context.Context, socket *os.File, matches func(syscall.NetlinkMessage) bool, notify func()) {
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer func() {
		if stop() {
			_ = socket.Close()
		}
	}()
	buffer := make([]byte, 16<<10) // messages come in bundles of a page
	for {
		size, err := socket.Read(buffer)
		if errors.Is(err, unix.ENOBUFS) || size == len(buffer) {
			notify()
			continue
		}
		if err != nil {
			return // closed
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:size])
		if err != nil || slices.ContainsFunc(messages, matches) {
			notify()
		}
	}
}

// deletesTable says whether a message of nftables is about the end of one of
// the tables.
func deletesTable(m syscall.NetlinkMessage) bool {
	const genmsg = 4 // struct nfgenmsg
	if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE || len(m.Data) < genmsg {
		return false
	}
	attributes, err := nl.ParseRouteAttr(m.Data[genmsg:])
	return err != nil || slices.ContainsFunc(attributes, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == unix.NFTA_TABLE_NAME && string(a.Value) == tableName+"\x00"
	})
}

// concerns says whether a message is about a link of the network or about a
// route that went and that the kernel had not made itself.
func (n *Network) concerns(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		links := n.links.Load()
		return links != nil && len(m.Data) >= unix.SizeofIfInfomsg &&
			slices.Contains(*links, int(binary.NativeEndian.Uint32(m.Data[4:]))) // ifi_index
	case unix.RTM_DELROUTE:
		return len(m.Data) >= unix.SizeofRtMsg && m.Data[5] == unix.RTPROT_BOOT // rtm_protocol
	}
	return false
}
