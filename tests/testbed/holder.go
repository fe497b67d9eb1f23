package testbed

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// holderName is argument 0 of process 1 of a space: this same program,
	// started again.
	holderName  = "kedge-testbed-host"
	holderReady = "ready"
)

// spec tells process 1 what to make of its namespaces.
type spec struct {
	Name        string            // host name
	Dir         string            // the host's directory on the machine; empty: keep the machine's files
	Hierarchies []hierarchy       // cgroups to mount
	Etc         map[string]string // files in /etc, by name
}

// The same program is process 1 of the hosts it makes: no second program has to
// be built or found for it.
func init() {
	if os.Args[0] == holderName {
		if err := hold(os.Stdin, os.Stdout); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// hold sets up the namespaces it runs in, says so, and returns when in ends.
func hold(in io.Reader, out io.Writer) error {
	input := bufio.NewReader(in)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the specification: %w", err)
	}
	var sp spec
	if err := json.Unmarshal(line, &sp); err != nil {
		return fmt.Errorf("read the specification: %w", err)
	}
	if err := sp.setUp(); err != nil {
		return err
	}
	go reap()
	if _, err := fmt.Fprintln(out, holderReady); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, input)
	return err
}

// reap takes the exit codes of orphans, as every process 1 has to.
func reap() {
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	for range child {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || pid == 0 {
				break
			}
		}
	}
}

// Directories of the machine that a host sees with changes of its own.
var overlaid = []string{"/etc", "/opt", "/var/lib", "/var/log", "/mnt", "/srv", "/usr/local"}

// Directories that a host has for itself, on the machine's disk: overlayfs, which
// holds the containers in them, can't be stacked on the overlays above.
var private = []string{"/var/lib/kedge", "/var/lib/kubelet"}

// What a Kedge or another Kubernetes on the machine may have left in the
// directories above.
var hidden = []string{
	"/etc/kedge", "/etc/cni", "/etc/rancher", "/opt/cni", "/var/lib/cni", "/var/lib/containerd",
	"/var/lib/rancher", "/var/log/pods", "/var/log/containers", "/var/lib/kedge", "/var/lib/kubelet",
}

func (sp *spec) setUp() error {
	if err := unix.Sethostname([]byte(sp.Name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if sp.Dir != "" {
		if err := sp.mountFiles(); err != nil {
			return err
		}
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := sp.mountSys(); err != nil {
		return err
	}
	// The kubelet hands mounts on to containers, which a booted machine allows.
	return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// mountFiles gives the host its own /run and its own copies of directories.
func (sp *spec) mountFiles() error {
	// The host's directory may be hidden by the mounts to come.
	const disk = "/run/disk"
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{disk, "/run/lock"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := mount(sp.Dir, disk, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	first := false
	for _, dir := range overlaid {
		upper, work := filepath.Join(disk, "changes", dir), filepath.Join(disk, "work", dir)
		if _, err := os.Stat(upper); err != nil {
			first = true
		}
		for _, made := range []string{upper, work} {
			if err := os.MkdirAll(made, 0o755); err != nil {
				return err
			}
		}
		if err := mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+work); err != nil {
			return err
		}
	}
	if first {
		for _, path := range hidden {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	for _, dir := range private {
		source := filepath.Join(disk, "private", dir)
		for _, made := range []string{source, dir} {
			if err := os.MkdirAll(made, 0o755); err != nil {
				return err
			}
		}
		if err := mount(source, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if first {
		for name, content := range sp.Etc {
			file := filepath.Join("/etc", name)
			// It may be a link to somewhere in /run.
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
				return err
			}
		}
	}
	if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", disk, err)
	}
	return os.Remove(disk)
}

// mountSys shows the host its own network devices and its own cgroups.
func (sp *spec) mountSys() error {
	links := map[string]string{}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		// Such as cpu, a link to cpu,cpuacct.
		if target, err := os.Readlink(filepath.Join(cgroupRoot, entry.Name())); err == nil {
			links[entry.Name()] = target
		}
	}
	if err := mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if len(sp.Hierarchies) != 1 || sp.Hierarchies[0].Mount != cgroupRoot {
		if err := mount("tmpfs", cgroupRoot, "tmpfs", flags, "mode=755"); err != nil {
			return err
		}
	}
	for _, h := range sp.Hierarchies {
		if err := os.MkdirAll(h.Mount, 0o755); err != nil {
			return err
		}
		kind := "cgroup"
		if h.Unified {
			kind = "cgroup2"
		}
		if err := mount(kind, h.Mount, kind, flags, h.Data); err != nil {
			return err
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(cgroupRoot, name)); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s (%s): %w", kind, target, data, err)
	}
	return nil
}
