// Package hostcheck knows what Kedge needs of the machine it runs on, and finds
// out whether the machine has it. Single questions (is this port free, which
// cgroups are there) are for the components that start; [Host.Check] asks all of
// them for a person.
//
// It changes nothing that lasts: what it tries, it tries in a network namespace
// that goes away, on a mount that is attached nowhere, or in a temporary
// directory that it removes. Trying may make the kernel load a module, as Kedge
// itself would.
package hostcheck

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is a machine as its files tell about it. The zero value is the machine
// this process runs on.
type Host struct {
	// Root is where the machine's /proc, /sys, /etc … are. With any other value
	// than "" or "/" the machine is only read about; nothing is tried on it but
	// the data directory.
	Root string
}

// live says whether the files are of the running machine, so that things can be
// tried and not only read.
func (h Host) live() bool { return h.Root == "" || h.Root == "/" }

// path returns where a file of the machine is found.
func (h Host) path(name string) string { return filepath.Join(h.Root, "/", name) }

// read returns the trimmed content of a file of the machine.
func (h Host) read(name string) (string, error) {
	b, err := os.ReadFile(h.path(name))
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

// readInt returns the number that is a file's whole content.
func (h Host) readInt(name string) (int64, error) {
	s, err := h.read(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return n, nil
}

func (h Host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// sysctlWritable says whether a file below /proc/sys can be opened for writing.
// Only opening tells: a sysctl may be read-only for root too, by its mode in a
// network namespace, or because /proc/sys is mounted read-only.
func (h Host) sysctlWritable(name string) bool {
	f, err := os.OpenFile(h.path(name), os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// statusField returns a field of /proc/self/status.
func (h Host) statusField(name string) (string, error) {
	status, err := h.read("/proc/self/status")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(status) {
		if key, value, ok := strings.Cut(line, ":"); ok && key == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("/proc/self/status has no %s", name)
}

// effectiveUID returns the user that this process acts as.
func (h Host) effectiveUID() (int, error) {
	s, err := h.statusField("Uid")
	if err != nil {
		return 0, err
	}
	ids := strings.Fields(s) // real, effective, saved, file system
	if len(ids) < 2 {
		return 0, fmt.Errorf("/proc/self/status: Uid %q is not a list of ids", s)
	}
	return strconv.Atoi(ids[1])
}

// asRoot says whether this process acts as root; if that can't be read, it says no.
func (h Host) asRoot() bool {
	uid, err := h.effectiveUID()
	return err == nil && uid == 0
}

// capabilities returns the effective capabilities, one bit each.
func (h Host) capabilities() (uint64, error) {
	s, err := h.statusField("CapEff")
	if err != nil {
		return 0, err
	}
	mask, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/self/status: CapEff: %w", err)
	}
	return mask, nil
}

// HasCapability says whether this process has a capability, such as
// unix.CAP_SYS_RESOURCE, in effect. When that can't be read it says no.
func (h Host) HasCapability(capability int) bool {
	mask, err := h.capabilities()
	return err == nil && mask&(1<<capability) != 0
}

// SwapOn says whether the machine swaps to anything.
func (h Host) SwapOn() (bool, error) {
	s, err := h.read("/proc/swaps")
	if err != nil {
		return false, err
	}
	return strings.Count(s, "\n") > 0, nil // the first line is the heading
}

const conntrackMax = "/proc/sys/net/netfilter/nf_conntrack_max"

// ConntrackMaxWritable says whether the limit of tracked connections can be set.
// It can't in a network namespace other than the first, nor before the kernel's
// nf_conntrack is loaded. kube-proxy exits when told to set it where it can't.
func (h Host) ConntrackMaxWritable() bool { return h.sysctlWritable(conntrackMax) }

// process is a running program.
type process struct {
	pid  int
	name string // the kernel's name for it: at most 15 bytes
}

// processes returns what runs, as far as /proc shows it, by pid.
func (h Host) processes() ([]process, error) {
	entries, err := os.ReadDir(h.path("/proc"))
	if err != nil {
		return nil, err
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		name, err := h.read(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue // ended meanwhile
		}
		found = append(found, process{pid: pid, name: name})
	}
	slices.SortFunc(found, func(a, b process) int { return a.pid - b.pid })
	return found, nil
}

// sameNetwork says whether a process is in this process's network namespace.
// When that can't be read it says yes.
func (h Host) sameNetwork(pid int) bool {
	own, err := os.Readlink(h.path("/proc/self/ns/net"))
	if err != nil {
		return true
	}
	other, err := os.Readlink(h.path(fmt.Sprintf("/proc/%d/ns/net", pid)))
	return err != nil || own == other
}

// stopCommand returns what to type to stop a process: by its systemd service
// when it belongs to one, else by its pid.
func (h Host) stopCommand(pid int) string {
	cgroups, err := h.read(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err == nil {
		for line := range strings.Lines(cgroups) {
			unit := filepath.Base(strings.TrimSpace(line))
			if strings.HasSuffix(unit, ".service") && !strings.HasPrefix(unit, "user@") {
				return "systemctl disable --now " + unit
			}
		}
	}
	return fmt.Sprintf("kill %d", pid)
}

// capabilityNames has the capabilities that Kedge asks for by number.
var capabilityNames = map[int]string{
	unix.CAP_SYS_ADMIN:    "CAP_SYS_ADMIN",
	unix.CAP_NET_ADMIN:    "CAP_NET_ADMIN",
	unix.CAP_SYS_RESOURCE: "CAP_SYS_RESOURCE",
}
