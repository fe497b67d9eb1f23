package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
)

// roleGrace is how long a server or an agent gets to stop.
const roleGrace = 15 * time.Second

// process is what is known of a process from /proc.
type process struct {
	pid, parent int
	exe         string   // the program's path as its mount namespace has it
	args        []string // its command line
	cgroups     []string // its paths, one for each hierarchy
	here        bool     // it is in this process's mount namespace
}

func (p process) String() string {
	name := filepath.Base(p.exe)
	if len(p.args) > 0 {
		name = filepath.Base(p.args[0])
	}
	return fmt.Sprintf("%s[%d]", name, p.pid)
}

// processes lists all processes but the kernel's own, this one and those that it
// was started from.
func processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid, own); ok {
			all[pid] = p
		}
	}
	for pid := os.Getpid(); pid != 0; {
		parent := all[pid].parent
		delete(all, pid)
		pid = parent
	}
	var list []process
	for _, p := range all {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b process) int { return a.pid - b.pid })
	return list, nil
}

func readProcess(pid int, ownMounts string) (process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, false
	}
	p := process{pid: pid, parent: parentOf(string(stat))}
	if state(string(stat)) == "Z" {
		return process{}, false // it has ended
	}
	exe, _ := os.Readlink(filepath.Join(dir, "exe")) // a thread of the kernel has none
	p.exe = strings.TrimSuffix(exe, " (deleted)")
	if args, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(args) > 0 {
		p.args = strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00")
	}
	if content, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil {
		p.cgroups = cgroupPaths(string(content))
	}
	mounts, err := os.Readlink(filepath.Join(dir, "ns", "mnt"))
	p.here = err == nil && mounts == ownMounts
	return p, true
}

// afterName are the fields of /proc/PID/stat after the name, which may hold
// anything.
func afterName(stat string) []string {
	_, rest, _ := cutLast(stat, ")")
	return strings.Fields(rest)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func state(stat string) string {
	if fields := afterName(stat); len(fields) > 0 {
		return fields[0]
	}
	return ""
}

func parentOf(stat string) int {
	fields := afterName(stat)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// cgroupPaths are the paths in /proc/PID/cgroup.
func cgroupPaths(content string) (paths []string) {
	for line := range strings.Lines(content) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			paths = append(paths, parts[2])
		}
	}
	return paths
}

// isPayload says whether a process runs a program of Kedge's payload.
func (m *Machine) isPayload(p process) bool { return p.here && below(p.exe, m.paths().Payload()) }

// isRole says whether a process is a server or an agent.
func (m *Machine) isRole(p process) bool {
	return m.isPayload(p) && filepath.Base(p.exe) == "kedge" && len(p.args) > 1 && slices.Contains([]string{"server", "agent"}, p.args[1])
}

func (m *Machine) isShim(p process) bool {
	return p.here && strings.HasPrefix(filepath.Base(p.exe), "containerd-shim") &&
		(m.isPayload(p) || slices.ContainsFunc(p.args, func(arg string) bool { return below(arg, config.RuntimeDir) }))
}

// inPod says whether a process is in a cgroup of the kubelet's.
func inPod(p process) bool { return slices.ContainsFunc(p.cgroups, isPodCgroup) }

// podCgroups are the kubelet's cgroups, by either of its drivers.
var podCgroups = []string{"kubepods", "kubepods.slice"}

func isPodCgroup(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return slices.Contains(podCgroups, first)
}

// containerProcesses are the shims, and what runs in containers.
func (m *Machine) containerProcesses() (shims, contained []process, err error) {
	all, err := processes()
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		switch {
		case m.isShim(p):
			shims = append(shims, p)
		case hasAncestor(all, p, m.isShim) || inPod(p):
			contained = append(contained, p)
		}
	}
	return shims, contained, nil
}

// hasAncestor says whether a process was started by one that matches, at any
// remove.
func hasAncestor(all []process, p process, matches func(process) bool) bool {
	for p.parent > 1 {
		i, found := find(all, p.parent)
		if !found {
			return false
		}
		p = all[i]
		if matches(p) {
			return true
		}
	}
	return false
}

// find finds a process in a list that is sorted by pid.
func find(all []process, pid int) (int, bool) {
	return slices.BinarySearchFunc(all, pid, func(p process, pid int) int { return p.pid - pid })
}

// isForeignShim says whether a process is another runtime's parent of containers.
func (m *Machine) isForeignShim(p process) bool {
	name := filepath.Base(p.exe)
	return !m.isShim(p) && (strings.HasPrefix(name, "containerd-shim") || strings.HasPrefix(name, "conmon"))
}

// Alone refuses a machine with another Kubernetes: its pods, network interfaces,
// firewall tables and files are called as Kedge's are, and would be removed too.
func (m *Machine) Alone() error {
	if err := m.resolve(); err != nil {
		return err
	}
	all, err := processes()
	if err != nil {
		return err
	}
	other, err := hostcheck.Host{}.OtherKubernetes(func(pid int) bool {
		i, found := find(all, pid)
		return found && hasAncestor(all, all[i], m.isShim)
	})
	const consequence = "its pods, its network and " + config.KubeletDir + " can't be told from Kedge's and would be removed too"
	switch i := slices.IndexFunc(all, m.inForeignPod(all)); {
	case err != nil:
		return err
	case other != nil:
		return fmt.Errorf("there is another Kubernetes on this machine, %s (process %q, pid %d): %s; stop it first (%s), or add --force", other.Name, other.Process, other.PID, consequence, other.Stop)
	case i >= 0:
		return fmt.Errorf("there are pods of another Kubernetes on this machine (process %s): %s; stop them first, or add --force", all[i], consequence)
	}
	return nil
}

// inForeignPod says whether a process is in a pod that another Kubernetes has
// started. One in a pod but below no shim is of Kedge's, whose shim was killed.
func (m *Machine) inForeignPod(all []process) func(process) bool {
	return func(p process) bool { return inPod(p) && hasAncestor(all, p, m.isForeignShim) }
}

// roles are servers and agents.
func (m *Machine) roles() trace {
	find := func(context.Context) ([]process, error) {
		all, err := processes()
		return slices.DeleteFunc(all, func(p process) bool { return !m.isRole(p) }), err
	}
	stopped := false
	return trace{
		kind: "servers and agents",
		find: func(ctx context.Context) ([]string, error) {
			found, err := find(ctx)
			names := texts(found)
			// A service that waits to be started again has no process.
			if m.StopService != nil && !stopped {
				names = append(names, "the service")
			}
			return names, err
		},
		remove: func(ctx context.Context, _ []string) error {
			if m.StopService != nil && !stopped {
				if err := m.StopService(ctx); err != nil {
					return fmt.Errorf("%w: stop the service: %w", errForGood, err)
				}
				stopped = true
			}
			found, err := find(ctx)
			if err != nil {
				return err
			}
			if err := end(found, unix.SIGTERM); err != nil {
				return err
			}
			found, err = waitGone(ctx, roleGrace, find)
			return errors.Join(err, end(found, unix.SIGKILL))
		},
	}
}

// containers are all processes of pods.
func (m *Machine) containers() trace {
	contained := func(context.Context) ([]process, error) {
		_, found, err := m.containerProcesses()
		return found, err
	}
	return trace{
		kind: "processes of pods",
		find: func(context.Context) ([]string, error) {
			shims, found, err := m.containerProcesses()
			return texts(append(found, shims...)), err
		},
		remove: func(ctx context.Context, _ []string) error {
			found, err := contained(ctx)
			if err != nil {
				return err
			}
			if err := end(found, unix.SIGTERM); err != nil {
				return err
			}
			if _, err := waitGone(ctx, m.Grace, contained); err != nil {
				return err
			}
			shims, found, err := m.containerProcesses()
			// The shims last: they take the processes that others have left.
			return errors.Join(err, end(found, unix.SIGKILL), end(shims, unix.SIGKILL))
		},
	}
}

func texts(list []process) (names []string) {
	for _, p := range list {
		names = append(names, p.String())
	}
	return names
}

// end sends a signal to processes. That one has ended meanwhile is no error.
func end(list []process, signal unix.Signal) error {
	var errs []error
	for _, p := range list {
		if err := unix.Kill(p.pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("end %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// waitGone waits until nothing is found, and returns what is found at the limit.
func waitGone(ctx context.Context, limit time.Duration, find func(context.Context) ([]process, error)) ([]process, error) {
	const interval = 50 * time.Millisecond
	deadline := time.Now().Add(limit)
	for {
		found, err := find(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil || len(found) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			return found, err
		}
		time.Sleep(interval)
	}
}
