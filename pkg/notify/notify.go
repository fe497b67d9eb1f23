// Package notify tells a service manager how a service is doing, see
// sd_notify(3).
package notify

import (
	"fmt"
	"net"
	"strings"
)

// Socket is the address of a service manager's socket, as the environment
// variable NOTIFY_SOCKET has it. With an empty one nobody is told.
type Socket string

// Ready tells that the service does its work.
func (s Socket) Ready() error { return s.send("READY=1\nSTATUS=the node is Ready\n") }

// Stopping tells that the service has begun to stop.
func (s Socket) Stopping() error { return s.send("STOPPING=1\nSTATUS=stopping; pods keep running\n") }

func (s Socket) send(state string) error {
	if s == "" {
		return nil
	}
	name := string(s)
	if abstract, found := strings.CutPrefix(name, "@"); found {
		name = "\x00" + abstract
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}
