package testbed

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Listen listens on an address of the host, of the form IP:port, for a server in
// the test itself.
func (h *Host) Listen(network, address string) (listener net.Listener, err error) {
	if h.space == nil {
		return nil, fmt.Errorf("listen on %s: host %s is off", address, h.Name)
	}
	err = onThread(func() error {
		if err := h.space.enter(unix.CLONE_NEWNET); err != nil {
			return err
		}
		listener, err = net.Listen(network, address)
		return err
	})
	return listener, err
}
