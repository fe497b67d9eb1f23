package testbed

import (
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// The network of every bed. Beds don't meet, so they can all use the same range:
// one that RFC 2544 keeps for tests of networks.
const (
	gateway   = "198.18.0.1"
	prefixLen = 24
	firstHost = 11
)

// openSwitch makes the switch: a namespace with a bridge that is the default
// gateway of all hosts. It leads nowhere else.
func (b *Bed) openSwitch() error {
	const name = "switch"
	cg, err := newCgroup(b.name + "/" + name)
	if err != nil {
		return err
	}
	if b.wires, err = newSpace(cg, spec{Name: name}); err != nil {
		return err
	}
	return b.wires.ip(
		"link set lo up",
		"link add bridge type bridge",
		fmt.Sprintf("address add %s/%d dev bridge", gateway, prefixLen),
		"link set bridge up",
	)
}

// plugIn joins a host that has just booted to the switch.
func (b *Bed) plugIn(h *Host) error {
	err := b.wires.ip(
		fmt.Sprintf("link add %s type veth peer name eth0 netns %d", h.wire, h.space.pid()),
		fmt.Sprintf("link set %s master bridge up", h.wire),
	)
	if err != nil {
		return err
	}
	return h.space.ip(
		"link set lo up",
		fmt.Sprintf("address add %s/%d dev eth0", h.Address, prefixLen),
		"link set eth0 up",
		"route add default via "+gateway,
	)
}

// unplug takes the wire of a host that is going away.
func (b *Bed) unplug(h *Host) {
	// The kernel does the same when the host's namespace goes, but later.
	_ = b.wires.ip("link delete " + h.wire)
}

// Cut takes a host off the network, as a switch that fails would: the host keeps
// its link and hears nothing.
func (b *Bed) Cut(h *Host) error { return b.wires.ip("link set " + h.wire + " nomaster") }

// Mend undoes Cut.
func (b *Bed) Mend(h *Host) error { return b.wires.ip("link set " + h.wire + " master bridge") }

// ip runs commands of the program ip in the network namespace of the space. It
// stays in the machine's other namespaces: process numbers are the machine's.
func (s *space) ip(commands ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := s.start(cmd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("run ip: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(commands, "; "), err, strings.TrimSpace(output.String()))
	}
	return nil
}
