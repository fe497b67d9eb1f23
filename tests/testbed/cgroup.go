package testbed

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where distributions mount the cgroup file systems.
const cgroupRoot = "/sys/fs/cgroup"

// leaf is the version 2 cgroup that holds a host's own processes. The cgroup
// above it stays empty of processes, so that controllers can be turned on for
// its children, as on a machine with an init system.
const leaf = "init"

// hierarchy is one mounted cgroup file system.
type hierarchy struct {
	Mount   string // where, such as /sys/fs/cgroup/memory
	Unified bool   // version 2
	Data    string // options that mount the same hierarchy again (version 1)
}

// hierarchies reads the cgroup file systems out of /proc/self/mountinfo, whose
// lines are described in proc_pid_mountinfo(5).
func hierarchies(mountinfo io.Reader) ([]hierarchy, error) {
	var found []hierarchy
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			return nil, fmt.Errorf("mountinfo line not understood: %q", lines.Text())
		}
		mount := left[4]
		if mount != cgroupRoot && filepath.Dir(mount) != cgroupRoot {
			continue
		}
		switch right[0] {
		case "cgroup2":
			found = append(found, hierarchy{Mount: mount, Unified: true})
		case "cgroup":
			found = append(found, hierarchy{Mount: mount, Data: controllers(right[2])})
		}
	}
	return found, lines.Err()
}

// controllers leaves of a super block's options those that select a hierarchy.
func controllers(options string) string {
	var keep []string
	for option := range strings.SplitSeq(options, ",") {
		switch key, _, _ := strings.Cut(option, "="); key {
		case "rw", "ro", "xattr", "clone_children", "noprefix", "release_agent":
		default:
			keep = append(keep, option)
		}
	}
	return strings.Join(keep, ",")
}

// cgroup is a cgroup of the same name in every hierarchy.
type cgroup struct {
	name        string // such as kedge-testbed-123/server
	hierarchies []hierarchy
}

// newCgroup describes the cgroup; it makes nothing.
func newCgroup(name string) (*cgroup, error) {
	mountinfo, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = mountinfo.Close() }()
	all, err := hierarchies(mountinfo)
	if err != nil {
		return nil, err
	}
	return &cgroup{name: name, hierarchies: all}, nil
}

func (c *cgroup) dir(h hierarchy) string { return filepath.Join(h.Mount, c.name) }

// create makes the cgroup ready to take processes.
func (c *cgroup) create() error {
	for _, h := range c.hierarchies {
		dir := h.Mount
		for _, part := range strings.Split(c.name, "/") {
			if h.Unified {
				if err := enableControllers(dir); err != nil {
					return err
				}
			}
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make cgroup: %w", err)
			}
			if err := inheritCpuset(dir); err != nil {
				return err
			}
		}
		if h.Unified {
			if err := os.Mkdir(filepath.Join(dir, leaf), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make cgroup: %w", err)
			}
		}
	}
	return nil
}

// enableControllers lets the children of a version 2 cgroup use all of its
// controllers.
func enableControllers(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("list cgroup controllers: %w", err)
	}
	for _, name := range strings.Fields(string(available)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0o644); err != nil {
			return fmt.Errorf("enable cgroup controller %s in %s: %w", name, dir, err)
		}
	}
	return nil
}

// inheritCpuset copies the parent's processors and memory nodes to a version 1
// cpuset, which takes no process while they are empty.
func inheritCpuset(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(own)) != "" {
			continue
		}
		if err != nil {
			return err
		}
		// A version 2 cpuset is empty too, and inherits by itself.
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), parent, 0o644); err != nil {
			return fmt.Errorf("fill %s of cgroup %s: %w", file, dir, err)
		}
	}
	return nil
}

// joinThread moves the calling thread into the version 1 cgroups. A process it
// starts then begins its life there.
func (c *cgroup) joinThread() error {
	for _, h := range c.hierarchies {
		if h.Unified {
			continue
		}
		tid := strconv.Itoa(unix.Gettid())
		if err := os.WriteFile(filepath.Join(c.dir(h), "tasks"), []byte(tid), 0o644); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// open returns the directory of the version 2 cgroup, or its child, to start a
// process in; nil when version 2 isn't mounted.
func (c *cgroup) open(child string) (*os.File, error) {
	for _, h := range c.hierarchies {
		if h.Unified {
			return os.Open(filepath.Join(c.dir(h), child))
		}
	}
	return nil, nil
}

// moveToLeaf moves a process that began in the version 2 cgroup to its leaf.
func (c *cgroup) moveToLeaf(pid int) error {
	for _, h := range c.hierarchies {
		if !h.Unified {
			continue
		}
		file := filepath.Join(c.dir(h), leaf, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("move process to cgroup: %w", err)
		}
	}
	return nil
}

// kill sends SIGKILL to every process of the cgroup and of those below it.
func (c *cgroup) kill() {
	for _, h := range c.hierarchies {
		for _, dir := range subdirs(c.dir(h)) {
			procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				continue
			}
			for _, field := range strings.Fields(string(procs)) {
				// A version 2 cgroup shows processes of other namespaces as 0,
				// and a process group must never be hit by mistake. This very
				// process is listed while a thread of it starts another one.
				if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	}
}

// remove removes the cgroup and those below it. Processes that have just been
// killed leave their cgroup a moment later, so it tries for up to limit.
func (c *cgroup) remove(limit time.Duration) error {
	var last error
	for deadline := time.Now().Add(limit); ; {
		last = nil
		for _, h := range c.hierarchies {
			dirs := subdirs(c.dir(h))
			slices.Reverse(dirs)
			for _, dir := range dirs {
				if err := unix.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOENT) {
					last = fmt.Errorf("remove cgroup %s: %w", dir, err)
				}
			}
		}
		if last == nil || time.Now().After(deadline) {
			return last
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// subdirs lists a directory and all below it, parents first.
func subdirs(root string) []string {
	var dirs []string
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // a directory that goes while we look is no error
	})
	return dirs
}
