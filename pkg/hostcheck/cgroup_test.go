package hostcheck

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
)

const (
	v2Mount    = "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
	tmpfsMount = "25 20 0:21 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:7 - tmpfs tmpfs ro,mode=755\n"

	cgroupsHeading = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
)

// v1Mounts mounts controllers as systemd does in version 1.
func v1Mounts(controllers ...string) string {
	s := tmpfsMount
	for _, c := range controllers {
		s += "31 25 0:27 / /sys/fs/cgroup/" + c + " rw,relatime shared:11 - cgroup cgroup rw," + c + "\n"
	}
	return s
}

// v1Enabled is /proc/cgroups with all controllers mounted in a version 1 hierarchy
// and on but some.
func v1Enabled(off ...string) string {
	s := cgroupsHeading
	for _, c := range []string{"cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "pids"} {
		enabled := "1"
		for _, o := range off {
			if o == c {
				enabled = "0"
			}
		}
		s += c + "\t5\t1\t" + enabled + "\n"
	}
	return s
}

var allV1 = []string{"cpu,cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio"}

func rootAgents() map[string]string {
	files := map[string]string{}
	for _, c := range allV1 {
		files["/sys/fs/cgroup/"+c+"/release_agent"] = ""
	}
	return files
}

func with(files ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, f := range files {
		maps.Copy(all, f)
	}
	return all
}

func TestCgroups(t *testing.T) {
	all := []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  CgroupInfo
	}{
		{"v2", map[string]string{
			"/proc/self/mountinfo":              v2Mount,
			"/proc/self/cgroup":                 "0::/system.slice/kedge.service\n",
			"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
		}, CgroupInfo{Version: 2, Path: "/system.slice/kedge.service",
			Controllers: []string{"cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"}}},
		{"v2 in a container, read-only", map[string]string{
			"/proc/self/mountinfo":              strings.Replace(v2Mount, " rw,", " ro,", 1),
			"/proc/self/cgroup":                 "0::/\n",
			"/sys/fs/cgroup/cgroup.controllers": "cpu memory pids",
			"/sys/fs/cgroup/cgroup.type":        "domain",
		}, CgroupInfo{Version: 2, Path: "/", Nested: true, ReadOnly: true, Controllers: []string{"cpu", "memory", "pids"}}},
		{"v2 mounted over v1", map[string]string{
			"/proc/self/mountinfo":              v1Mounts("memory") + v2Mount,
			"/proc/self/cgroup":                 "5:memory:/x\n0::/y\n",
			"/sys/fs/cgroup/cgroup.controllers": "cpu",
		}, CgroupInfo{Version: 2, Path: "/y", Controllers: []string{"cpu"}}},
		{"v1", with(rootAgents(), map[string]string{
			"/proc/self/mountinfo": v1Mounts(allV1...),
			"/proc/self/cgroup":    "9:cpu,cpuacct:/a\n4:memory:/system.slice/kedge.service\n1:name=systemd:/b\n",
			"/proc/cgroups":        v1Enabled(),
		}), CgroupInfo{Version: 1, Path: "/system.slice/kedge.service", Controllers: all}},
		{"hybrid", with(rootAgents(), map[string]string{
			"/proc/self/mountinfo": v1Mounts(allV1...) + "40 25 0:28 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n",
			"/proc/self/cgroup":    "4:memory:/\n0::/\n",
			"/proc/cgroups":        v1Enabled(),
		}), CgroupInfo{Version: 1, Hybrid: true, Path: "/", Controllers: all}},
		{"v1 in a container", map[string]string{
			"/proc/self/mountinfo": v1Mounts("memory", "pids"),
			"/proc/self/cgroup":    "4:memory:/docker/abc\n",
			"/proc/cgroups":        v1Enabled(),
		}, CgroupInfo{Version: 1, Path: "/docker/abc", Nested: true, Controllers: []string{"memory", "pids"}}},
		{"v1, memory off", with(rootAgents(), map[string]string{
			"/proc/self/mountinfo": v1Mounts("pids", "memory"),
			"/proc/self/cgroup":    "1:name=systemd:/s\n",
			"/proc/cgroups":        v1Enabled("memory"),
		}), CgroupInfo{Version: 1, Path: "/s", Controllers: []string{"pids"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := machine(t, c.files).Cgroups()
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if got.AtRoot() != (c.want.Path == "/") {
				t.Errorf("AtRoot: %v", got.AtRoot())
			}
		})
	}
}

func TestCgroupsNone(t *testing.T) {
	h := machine(t, map[string]string{"/proc/self/mountinfo": "1 1 0:1 / / rw - ext4 /dev/a rw\n", "/proc/self/cgroup": "0::/\n"})
	if _, err := h.Cgroups(); !errors.Is(err, errNoCgroups) {
		t.Errorf("none mounted: %v", err)
	}
	f := h.checkControlGroups(t.Context(), Request{})
	if len(f) != 1 || f[0].Level != Failure || f[0].Fix != "mount -t cgroup2 cgroup2 /sys/fs/cgroup" {
		t.Errorf("none mounted: %+v", f)
	}
	if f := machine(t, nil).checkControlGroups(t.Context(), Request{}); len(f) != 1 || f[0].Level != Unknown {
		t.Errorf("nothing known: %+v", f)
	}
}

func TestCheckCgroups(t *testing.T) {
	v2 := func(controllers string) map[string]string {
		return map[string]string{
			"/proc/self/mountinfo":              v2Mount,
			"/proc/self/cgroup":                 "0::/\n",
			"/proc/cgroups":                     cgroupsHeading,
			"/proc/cmdline":                     "console=tty1 cgroup_disable=memory root=/dev/mmcblk0p2\n",
			"/sys/fs/cgroup/cgroup.controllers": controllers,
		}
	}
	const noMemory, all = "cpuset cpu io pids", "cpuset cpu io memory pids"
	v1 := func(mounts string, enabled string) map[string]string {
		return with(rootAgents(), map[string]string{
			"/proc/self/mountinfo": mounts, "/proc/self/cgroup": "1:name=systemd:/\n", "/proc/cgroups": enabled,
		})
	}
	const off = "the kernel's memory control group is off: "
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"all there", v2(all), ""},
		{"all there in v1", v1(v1Mounts(allV1...), v1Enabled()), ""},
		{"Raspberry Pi OS 12", with(v2(noMemory), map[string]string{
			"/boot/firmware/cmdline.txt": "root=x rootwait\n", "/boot/cmdline.txt": "DO NOT EDIT THIS FILE",
		}), off + `add "cgroup_memory=1 cgroup_enable=memory" to the end of the one line of /boot/firmware/cmdline.txt and reboot`},
		{"Raspberry Pi OS 11", with(v2(noMemory), map[string]string{"/boot/cmdline.txt": "root=x\n"}),
			off + `add "cgroup_memory=1 cgroup_enable=memory" to the end of the one line of /boot/cmdline.txt and reboot`},
		{"added, not rebooted", with(v2(noMemory), map[string]string{"/boot/firmware/cmdline.txt": "root=x cgroup_memory=1 cgroup_enable=memory\n"}),
			off + `reboot: "cgroup_memory=1 cgroup_enable=memory" is in /boot/firmware/cmdline.txt already, but the running kernel was started without`},
		{"GRUB", with(v2(noMemory), map[string]string{"/etc/default/grub": ""}),
			off + `add "cgroup_memory=1 cgroup_enable=memory" to GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, and reboot`},
		{"Fedora", with(v2(noMemory), map[string]string{"/etc/default/grub": "", "/usr/sbin/grubby": ""}),
			off + `grubby --update-kernel=ALL --args="cgroup_memory=1 cgroup_enable=memory", and reboot`},
		{"another boot loader", v2(noMemory),
			off + `add "cgroup_memory=1 cgroup_enable=memory" to the kernel's command line in the boot loader's settings and reboot`},
		{"v1, memory off", with(v1(v1Mounts(allV1...), v1Enabled("memory")), map[string]string{"/boot/cmdline.txt": ""}),
			off + `add "cgroup_memory=1 cgroup_enable=memory" to the end of the one line of /boot/cmdline.txt and reboot`},
		{"v1, memory not mounted", v1(v1Mounts("cpu,cpuacct", "cpuset", "pids", "devices", "freezer"), v1Enabled()),
			"the control groups lack memory: mkdir -p /sys/fs/cgroup/memory && mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory"},
		{"v2, memory taken by v1", with(v2(noMemory), map[string]string{"/proc/cgroups": cgroupsHeading + "memory\t3\t1\t1\n"}),
			`the control groups lack memory (taken by a cgroup v1 mount): add "systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all" to the kernel's command line in the boot loader's settings and reboot`},
		{"not delegated", with(v2("memory pids"), map[string]string{"/sys/fs/cgroup/cgroup.type": "domain"}),
			"the control groups lack cpu, cpuset: have them delegated: Delegate=yes in the systemd unit around this, or run the container with --privileged --cgroupns=host"},
		{"memory not delegated", with(v2("cpu cpuset pids"), map[string]string{"/sys/fs/cgroup/cgroup.type": "domain"}),
			"the control groups lack memory: have them delegated: Delegate=yes in the systemd unit around this, or run the container with --privileged --cgroupns=host"},
		{"a kernel without", v2("cpu cpuset memory"),
			"the control groups lack pids: take cgroup_disable= off the kernel's command line, or run a kernel with CONFIG_CGROUP_SCHED, CONFIG_CPUSETS, CONFIG_MEMCG and CONFIG_CGROUP_PIDS, and reboot"},
		{"read-only", with(v2(all), map[string]string{"/proc/self/mountinfo": strings.Replace(v2Mount, " rw,", " ro,", 1)}),
			"/sys/fs/cgroup is mounted read-only: mount -o remount,rw /sys/fs/cgroup (in a container: run the container privileged)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := machine(t, c.files).CheckCgroups(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestCgroupWarnings(t *testing.T) {
	h := machine(t, with(rootAgents(), map[string]string{
		"/proc/self/mountinfo": v1Mounts("cpu,cpuacct", "cpuset", "memory", "pids", "devices", "freezer"),
		"/proc/self/cgroup":    "4:memory:/\n",
		"/proc/cgroups":        v1Enabled(),
		"/proc/1/comm":         "systemd\n",
		"/etc/default/grub":    "",
	}))
	found := h.checkControlGroups(t.Context(), Request{})
	if f := find(t, found, "version"); f.Level != Warning || !strings.Contains(f.Fix, `"systemd.unified_cgroup_hierarchy=1" to GRUB_CMDLINE_LINUX`) {
		t.Errorf("version 1: %+v", f)
	}
	if f := find(t, found, "blkio"); f.Level != Warning || f.Fix == "" {
		t.Errorf("no blkio: %+v", f)
	}
	if f := find(t, found, "controllers"); f.Level != OK {
		t.Errorf("controllers: %+v", f)
	}
}

// TestCgroupsHere compares with what the kernel says about the machine at hand.
func TestCgroupsHere(t *testing.T) {
	info, err := Host{}.Cgroups()
	if errors.Is(err, errNoCgroups) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if info.Version != 1 && info.Version != 2 || info.Path == "" {
		t.Errorf("got %+v", info)
	}
	if len(info.Controllers) == 0 {
		t.Errorf("no controllers: %+v", info)
	}
}
