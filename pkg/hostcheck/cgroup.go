package hostcheck

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// CgroupInfo is what a machine's control groups can do.
type CgroupInfo struct {
	// Version is the version the controllers are used through: 1 or 2.
	Version int
	// Hybrid says that version 2 is mounted beside version 1, without the controllers.
	Hybrid bool
	// Controllers are those that pods can be limited by, sorted.
	Controllers []string
	// Path is this process's own cgroup, from the mounted root.
	Path string
	// Nested says that the mounted root is not the machine's own root cgroup: this
	// is a container, or another delegated part of a machine. In version 2 such a
	// root can hand controllers on only once no process is in it any more.
	Nested bool
	// ReadOnly says that the file system is mounted read-only: no cgroup can be made.
	ReadOnly bool
}

// Has says whether pods can be limited by a controller, such as "memory".
func (c CgroupInfo) Has(controller string) bool {
	return slices.Contains(c.Controllers, controller)
}

// AtRoot says whether this process is in the root cgroup that it sees.
func (c CgroupInfo) AtRoot() bool { return c.Path == "/" }

// errNoCgroups says that no kind of control group is mounted.
var errNoCgroups = errors.New("no control groups are mounted: " + mountCgroups)

// CgroupRoot is where control groups are mounted.
const CgroupRoot = "/sys/fs/cgroup"

const (
	mountCgroups = "mount -t cgroup2 cgroup2 " + CgroupRoot
)

// Cgroups finds out which control groups there are.
func (h Host) Cgroups() (CgroupInfo, error) {
	mounts, err := h.cgroupMounts()
	if err != nil {
		return CgroupInfo{}, fmt.Errorf("find control groups: %w", err)
	}
	own, err := h.ownCgroups()
	if err != nil {
		return CgroupInfo{}, fmt.Errorf("find own control group: %w", err)
	}

	var v1 []*mountinfo.Info
	var v2 *mountinfo.Info
	unified := false
	for _, m := range mounts {
		switch m.FSType {
		case "cgroup":
			v1 = append(v1, m)
		case "cgroup2":
			v2 = m
		}
		if m.Mountpoint == CgroupRoot {
			unified = m.FSType == "cgroup2" // the last mount hides the others
		}
	}
	switch {
	case unified:
		return h.unifiedCgroups(v2At(mounts, CgroupRoot), own[""])
	case len(v1) > 0:
		return h.legacyCgroups(v1, v2 != nil, own)
	}
	return CgroupInfo{}, errNoCgroups
}

func v2At(mounts []*mountinfo.Info, dir string) *mountinfo.Info {
	var found *mountinfo.Info
	for _, m := range mounts {
		if m.FSType == "cgroup2" && m.Mountpoint == dir {
			found = m
		}
	}
	return found
}

// unifiedCgroups describes version 2 alone.
func (h Host) unifiedCgroups(m *mountinfo.Info, own string) (CgroupInfo, error) {
	controllers, err := h.read(m.Mountpoint + "/cgroup.controllers")
	if err != nil {
		return CgroupInfo{}, fmt.Errorf("find control groups: %w", err)
	}
	return CgroupInfo{
		Version:     2,
		Controllers: slices.Sorted(slices.Values(strings.Fields(controllers))),
		Path:        own,
		// Every cgroup but the machine's root has a type.
		Nested:   h.exists(m.Mountpoint + "/cgroup.type"),
		ReadOnly: readOnly(m),
	}, nil
}

// legacyCgroups describes version 1, a mount for each controller or group of them.
func (h Host) legacyCgroups(mounts []*mountinfo.Info, hybrid bool, own map[string]string) (CgroupInfo, error) {
	enabled, err := h.enabledControllers()
	if err != nil {
		return CgroupInfo{}, fmt.Errorf("find control groups: %w", err)
	}
	info := CgroupInfo{Version: 1, Hybrid: hybrid, Path: own["memory"]}
	if info.Path == "" {
		info.Path = own["name=systemd"]
	}
	for _, m := range mounts {
		for option := range strings.SplitSeq(m.VFSOptions, ",") {
			if !enabled[option] {
				continue // "rw" and the like, or switched off
			}
			info.Controllers = append(info.Controllers, option)
			info.ReadOnly = info.ReadOnly || readOnly(m)
			// Only the machine's root has a release agent.
			if !h.exists(m.Mountpoint + "/release_agent") {
				info.Nested = true
			}
		}
	}
	slices.Sort(info.Controllers)
	info.Controllers = slices.Compact(info.Controllers)
	return info, nil
}

func readOnly(m *mountinfo.Info) bool {
	return slices.Contains(strings.Split(m.Options, ","), "ro")
}

// cgroupMounts returns the mounted hierarchies in the order they were mounted.
func (h Host) cgroupMounts() ([]*mountinfo.Info, error) {
	f, err := os.Open(h.path("/proc/self/mountinfo"))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		relevant := m.Mountpoint == CgroupRoot || m.FSType == "cgroup" || m.FSType == "cgroup2"
		return !relevant, false
	})
}

// ownCgroups returns this process's cgroup by controller; version 2's is under "".
func (h Host) ownCgroups() (map[string]string, error) {
	content, err := h.read("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(content) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3) // id, controllers, path
		if len(f) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(f[1], ",") {
			own[controller] = path.Clean("/" + f[2])
		}
	}
	return own, nil
}

// enabledControllers returns what /proc/cgroups says is not switched off. It tells
// about version 1 only: newer kernels leave out what version 2 alone has.
func (h Host) enabledControllers() (map[string]bool, error) {
	content, err := h.read("/proc/cgroups")
	if err != nil {
		return nil, err
	}
	enabled := map[string]bool{}
	for line := range strings.Lines(content) {
		f := strings.Fields(line) // name, hierarchy, number of cgroups, enabled
		if len(f) == 4 && f[3] == "1" {
			enabled[f[0]] = true
		}
	}
	return enabled, nil
}

// needed returns the controllers that the kubelet and runc can't do without.
func (c CgroupInfo) needed() []string {
	if c.Version == 1 {
		return []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer"}
	}
	return []string{"cpu", "cpuset", "memory", "pids"}
}

// CheckCgroups returns an error that says what to do if pods can't be run with the
// machine's control groups.
func (h Host) CheckCgroups() error {
	info, err := h.Cgroups()
	if err != nil {
		return err
	}
	for _, f := range h.cgroupFindings(info) {
		if err := f.Err(); err != nil {
			return err
		}
	}
	return nil
}

// memoryOnArgs switch the memory controller on where the firmware or the
// distribution switches it off, as on a Raspberry Pi.
const memoryOnArgs = "cgroup_memory=1 cgroup_enable=memory"

// cgroupFindings judges control groups.
func (h Host) cgroupFindings(info CgroupInfo) []Finding {
	var found []Finding
	version := Finding{Name: "version", Detail: "v2"}
	if info.Version == 1 {
		version.Level = Warning
		version.Detail = "v1, which Kubernetes has deprecated and will drop"
		if info.Hybrid {
			version.Detail = "v1 (hybrid: v2 is mounted too, without the controllers), which Kubernetes has deprecated and will drop"
		}
		version.Fix = h.unifyFix()
	}
	if info.Nested {
		version.Detail += "; a delegated part of a machine, as in a container"
	}
	found = append(found, version)

	if info.ReadOnly {
		found = append(found, Finding{
			Name: "access", Level: Failure, Detail: CgroupRoot + " is mounted read-only",
			Fix: "mount -o remount,rw " + CgroupRoot + " (in a container: run the container privileged)",
		})
	}

	var missing []string
	for _, c := range info.needed() {
		if !info.Has(c) {
			missing = append(missing, c)
		}
	}
	if i := slices.Index(missing, "memory"); i >= 0 && h.memoryOff(info) {
		missing = slices.Delete(missing, i, i+1)
		found = append(found, Finding{
			Name: "memory", Level: Failure, Detail: "the kernel's memory control group is off", Fix: h.bootFix(memoryOnArgs),
		})
	}
	if len(missing) > 0 {
		found = append(found, h.missingControllers(info, missing))
	} else {
		found = append(found, okf("controllers", "%s", strings.Join(info.Controllers, ", ")))
	}

	disk := "io"
	if info.Version == 1 {
		disk = "blkio"
	}
	if !info.Has(disk) {
		found = append(found, Finding{
			Name: disk, Level: Warning, Detail: "the control groups lack " + disk + ": disk use of pods can't be measured or limited",
			Fix: "run a kernel with CONFIG_BLK_CGROUP=y",
		})
	}
	return found
}

// memoryOff says whether a missing memory controller is one that the kernel was
// started without, rather than one that is not mounted or not handed on.
func (h Host) memoryOff(info CgroupInfo) bool {
	if info.Nested {
		return false
	}
	if info.Version == 2 {
		return !h.anyInV1([]string{"memory"})
	}
	enabled, err := h.enabledControllers()
	return err == nil && !enabled["memory"]
}

// unifyFix says how to boot with version 2 alone.
func (h Host) unifyFix() string {
	if init, err := h.read("/proc/1/comm"); err == nil && init == "systemd" {
		return h.bootFix("systemd.unified_cgroup_hierarchy=1")
	}
	return "have only cgroup2 mounted on " + CgroupRoot + " at boot (OpenRC: rc_cgroup_mode=\"unified\" in /etc/rc.conf), and reboot"
}

// missingControllers says how to get controllers that are not there.
func (h Host) missingControllers(info CgroupInfo, missing []string) Finding {
	names := strings.Join(missing, ", ")
	f := Finding{Name: "controllers", Level: Failure, Detail: "the control groups lack " + names}
	switch {
	case info.Nested:
		f.Fix = "have them delegated: Delegate=yes in the systemd unit around this, or run the container with --privileged --cgroupns=host"
	case info.Version == 2 && h.anyInV1(missing):
		f.Detail += " (taken by a cgroup v1 mount)"
		f.Fix = h.bootFix("systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all")
	case info.Version == 1:
		var mounts []string
		for _, c := range missing {
			mounts = append(mounts, fmt.Sprintf("mkdir -p %[1]s/%[2]s && mount -t cgroup -o %[2]s cgroup %[1]s/%[2]s", CgroupRoot, c))
		}
		f.Fix = strings.Join(mounts, "\n")
	default:
		f.Fix = "take cgroup_disable= off the kernel's command line, or run a kernel with CONFIG_CGROUP_SCHED, CONFIG_CPUSETS, CONFIG_MEMCG and CONFIG_CGROUP_PIDS, and reboot"
	}
	return f
}

// anyInV1 says whether a controller is bound to a hierarchy of version 1.
func (h Host) anyInV1(controllers []string) bool {
	content, err := h.read("/proc/cgroups")
	if err != nil {
		return false
	}
	for line := range strings.Lines(content) {
		f := strings.Fields(line)
		if len(f) == 4 && f[1] != "0" && slices.Contains(controllers, f[0]) {
			return true
		}
	}
	return false
}

// bootFix says where to add arguments to the kernel's command line. A Raspberry
// Pi has them in one line of a file, other machines mostly in GRUB's settings.
func (h Host) bootFix(args string) string {
	for _, file := range []string{"/boot/firmware/cmdline.txt", "/boot/cmdline.txt"} {
		line, err := h.read(file)
		if err != nil {
			continue
		}
		if running, err := h.read("/proc/cmdline"); err == nil && hasArgs(line, args) && !hasArgs(running, args) {
			return fmt.Sprintf("reboot: %q is in %s already, but the running kernel was started without", args, file)
		}
		return fmt.Sprintf("add %q to the end of the one line of %s and reboot", args, file)
	}
	switch {
	case h.exists("/usr/sbin/grubby"):
		return fmt.Sprintf("grubby --update-kernel=ALL --args=%q, and reboot", args)
	case h.exists("/etc/default/grub"):
		return fmt.Sprintf("add %q to GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and reboot", args)
	}
	return fmt.Sprintf("add %q to the kernel's command line in the boot loader's settings and reboot", args)
}

// hasArgs says whether a kernel command line has all of some arguments.
func hasArgs(line, args string) bool {
	have := strings.Fields(line)
	for _, a := range strings.Fields(args) {
		if !slices.Contains(have, a) {
			return false
		}
	}
	return true
}
