package hostcheck

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseVersion(t *testing.T) {
	for release, want := range map[string]Version{
		"6.18.44":                            {6, 18, 44},
		"5.15.0-91-generic":                  {5, 15, 0},
		"6.1.21-v8+":                         {6, 1, 21},
		"5.10.102.1-microsoft-standard-WSL2": {5, 10, 102},
		"6.12-rc3":                           {6, 12, 0},
		"4.18.0-513.el8.x86_64":              {4, 18, 0},
		"6.6.31+rpt-rpi-2712":                {6, 6, 31},
	} {
		got, err := ParseVersion(release)
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", release, got, err, want)
		}
	}
	for _, release := range []string{"", "6", "linux", "6.", "6.x", "5-15-0", ".5.1"} {
		if got, err := ParseVersion(release); err == nil {
			t.Errorf("%q is read as %v", release, got)
		}
	}
}

func TestVersionLess(t *testing.T) {
	ordered := []Version{{4, 19, 300}, {5, 4, 0}, {5, 13, 0}, {5, 13, 1}, {6, 0, 0}}
	for i, v := range ordered {
		for j, w := range ordered {
			if v.Less(w) != (i < j) {
				t.Errorf("%v less than %v: %v", v, w, v.Less(w))
			}
		}
	}
}

func TestKernelVersionHere(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	v, err := Host{}.KernelVersion()
	if err != nil || !strings.HasPrefix(unix.ByteSliceToString(u.Release[:]), strings.TrimSuffix(v.String(), ".0")) {
		t.Errorf("got %v, %v; uname says %s", v, err, u.Release)
	}
}

func TestCheckKernel(t *testing.T) {
	for _, c := range []struct {
		release string
		skip    string
		want    Level
	}{
		{"6.1.0", "", OK},
		{"5.13.0-1", "", OK},
		{"5.12.19", "", Failure},
		{"5.10.0-28-amd64", "", Failure},
		{"5.10.0-28-amd64", "1", Warning},
		{"5.4.0", "1", Warning},
		{"5.3.0", "1", Failure},
		{"4.18.0-513.el8", "", Failure},
		{"gibberish", "", Unknown},
	} {
		t.Setenv(skipKernelCheck, c.skip)
		h := machine(t, map[string]string{"/proc/sys/kernel/osrelease": c.release + "\n"})
		f := h.kernelFinding()
		if f.Level != c.want || (f.Fix != "") != (f.Level >= Warning) {
			t.Errorf("%s, skip %q: got %+v, want %v", c.release, c.skip, f, c.want)
		}
		if err := h.CheckKernel(); (err != nil) != (c.want == Failure) {
			t.Errorf("%s, skip %q: error %v", c.release, c.skip, err)
		}
	}
	if f := machine(t, nil).kernelFinding(); f.Level != Unknown {
		t.Errorf("nothing known: %+v", f)
	}
}

func zipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestFeatureByFiles has one question asked of kernels that tell in different ways.
func TestFeatureByFiles(t *testing.T) {
	const rel = "6.1.0-9"
	const modules = "/lib/modules/" + rel
	var (
		veth    = feature{module: "veth", config: "VETH", use: "no network", onDemand: true}
		bridge  = feature{module: "br_netfilter", config: "BRIDGE_NETFILTER", use: "no Services", files: []string{"/proc/sys/net/bridge/x"}}
		overlay = feature{module: "overlay", config: "OVERLAY_FS", use: "slow", fs: "overlay", onDemand: true}
		mqueue  = feature{config: "POSIX_MQUEUE", use: "no containers", fs: "mqueue"}
	)
	for _, c := range []struct {
		name    string
		feature feature
		files   map[string]string
		level   Level
		detail  string
		fix     string
	}{
		{"loaded", veth, map[string]string{"/proc/modules": "veth 40960 0 - Live 0x0\n"}, OK, "module loaded", ""},
		{"in sysfs", veth, map[string]string{"/sys/module/veth/refcnt": "0"}, OK, "in the kernel", ""},
		{"built in, by modules.builtin", veth, map[string]string{modules + "/modules.builtin": "kernel/drivers/net/veth.ko\n"}, OK, "built in", ""},
		{"built in, by config.gz", veth, map[string]string{"/proc/config.gz": zipped(t, "# x\nCONFIG_VETH=y\n")}, OK, "built in", ""},
		{"built in, by /boot", veth, map[string]string{"/boot/config-" + rel: "CONFIG_VETH=y\n"}, OK, "built in", ""},
		{"another kernel's config", veth, map[string]string{"/boot/config-6.0.0": "CONFIG_VETH=y\n"}, Unknown, "neither /proc/config.gz", ""},
		{"loadable on demand", veth, map[string]string{modules + "/modules.dep": "kernel/drivers/net/veth.ko.zst: kernel/x.ko.zst\n"}, OK, "module installed, loaded when it is used", ""},
		{"loadable by hand", bridge, map[string]string{modules + "/modules.dep": "kernel/net/bridge/br_netfilter.ko.xz: kernel/net/bridge/bridge.ko.xz\n"},
			Warning, "is installed, but not loaded", "modprobe br_netfilter; echo br_netfilter >>/etc/modules-load.d/kedge.conf"},
		{"in use", bridge, map[string]string{"/proc/sys/net/bridge/x": "1"}, OK, "in use", ""},
		{"a dash in the file's name", bridge, map[string]string{modules + "/modules.builtin": "kernel/net/br-netfilter.ko\n"}, OK, "built in", ""},
		{"built without", veth, map[string]string{"/proc/config.gz": zipped(t, "CONFIG_NET=y\n# CONFIG_VETH is not set\n")},
			Failure, "the kernel has no veth (built without CONFIG_VETH): no network", "run a kernel with CONFIG_VETH=y or =m"},
		{"not installed", veth, map[string]string{"/boot/config-" + rel: "CONFIG_VETH=m\n", modules + "/modules.dep": "kernel/a.ko:\n"},
			Failure, "its module isn't in " + modules, "apt-get install linux-modules-extra-" + rel},
		{"not listed", veth, map[string]string{modules + "/modules.builtin": "kernel/b.ko\n", modules + "/modules.dep": "kernel/a.ko:\n"},
			Failure, "neither built in nor in " + modules, "linux-modules-extra"},
		{"upgraded, not rebooted", veth, map[string]string{"/boot/config-" + rel: "CONFIG_VETH=m\n", "/lib/modules/6.2.0/modules.dep": ""},
			Failure, "its module isn't in", "reboot: the modules of the running kernel 6.1.0-9 are no longer in /lib/modules"},
		{"a module, in a container", veth, map[string]string{"/proc/config.gz": zipped(t, "CONFIG_VETH=m\n")}, Unknown, "no /lib/modules", ""},
		{"a file system", overlay, map[string]string{"/proc/filesystems": "nodev\tproc\n\text4\nnodev\toverlay\n"}, OK, "in /proc/filesystems", ""},
		{"no overlayfs", overlay, map[string]string{"/proc/config.gz": zipped(t, "CONFIG_NET=y\n")}, Warning, "the kernel has no overlay", "CONFIG_OVERLAY_FS"},
		{"not a module", mqueue, map[string]string{"/proc/config.gz": zipped(t, "CONFIG_NET=y\n")}, Failure, "the kernel has no mqueue", "CONFIG_POSIX_MQUEUE"},
		{"not a module, unknown", mqueue, map[string]string{modules + "/modules.builtin": "a.ko\n", modules + "/modules.dep": "b.ko:\n"}, Unknown, "", ""},
		{"a broken config.gz", veth, map[string]string{"/proc/config.gz": "not zipped"}, Unknown, "neither", ""},
		{"an empty config", veth, map[string]string{"/boot/config-" + rel: "\n"}, Unknown, "neither", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.files["/proc/sys/kernel/osrelease"] = rel + "\n"
			k, err := machine(t, c.files).kernel()
			if err != nil {
				t.Fatal(err)
			}
			f := k.finding(c.feature, ErrUntried)
			if f.Level != c.level || !strings.Contains(f.Detail, c.detail) || !strings.Contains(f.Fix, c.fix) || (f.Fix != "") != (f.Level >= Warning) {
				t.Errorf("got %+v, want %v, %q, %q", f, c.level, c.detail, c.fix)
			}
		})
	}
}

// TestFeatureTried has what came of trying count more than what files say.
func TestFeatureTried(t *testing.T) {
	const rel = "6.1.0-9"
	veth := feature{module: "veth", config: "VETH", use: "no network", onDemand: true}
	osrelease := map[string]string{"/proc/sys/kernel/osrelease": rel}
	installed := map[string]string{"/lib/modules/" + rel + "/modules.dep": "kernel/veth.ko:\n"}
	without := map[string]string{"/proc/config.gz": zipped(t, "CONFIG_NET=y\n")}
	denied := errors.New("operation not permitted")
	for _, c := range []struct {
		name   string
		files  map[string]string
		tried  error
		level  Level
		detail string
		fix    string
	}{
		{"works, whatever files say", without, nil, OK, "works", ""},
		{"absent, nothing known", nil, errAbsent, Failure, "the kernel has no veth: no network", "CONFIG_VETH"},
		{"absent, and built without", without, errAbsent, Failure, "(built without CONFIG_VETH)", "CONFIG_VETH"},
		{"not loaded though installed", installed, errAbsent, Failure, "the kernel didn't load its module veth", "modprobe veth; echo veth >>/etc/modules-load.d/kedge.conf"},
		{"denied, installed", installed, denied, OK, "loaded when it is used", ""},
		{"denied, nothing known", nil, denied, Unknown, "operation not permitted", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, err := machine(t, with(osrelease, c.files)).kernel()
			if err != nil {
				t.Fatal(err)
			}
			f := k.finding(veth, c.tried)
			if f.Level != c.level || !strings.Contains(f.Detail, c.detail) || !strings.Contains(f.Fix, c.fix) {
				t.Errorf("got %+v, want %v, %q, %q", f, c.level, c.detail, c.fix)
			}
		})
	}
}

func TestNamespaces(t *testing.T) {
	full := map[string]string{"/proc/sys/user/max_user_namespaces": "15000\n"}
	for _, ns := range []string{"pid", "net", "ipc", "uts", "mnt", "user"} {
		full["/proc/self/ns/"+ns] = "-> " + ns + ":[4026531836]"
	}
	without := func(names ...string) map[string]string {
		files := with(full)
		for _, n := range names {
			delete(files, n)
		}
		return files
	}
	for _, c := range []struct {
		name       string
		files      map[string]string
		kinds, use Level
	}{
		{"all", full, OK, OK},
		{"no ipc", without("/proc/self/ns/ipc"), Failure, OK},
		{"no user", without("/proc/self/ns/user"), OK, Warning},
		{"user at 0", with(full, map[string]string{"/proc/sys/user/max_user_namespaces": "0\n"}), OK, Warning},
		{"user not known", without("/proc/sys/user/max_user_namespaces"), OK, Unknown},
	} {
		found := machine(t, c.files).namespaceFindings()
		if got := find(t, found, "namespaces").Level; got != c.kinds {
			t.Errorf("%s: namespaces %v", c.name, got)
		}
		if got := find(t, found, "user namespaces").Level; got != c.use {
			t.Errorf("%s: user namespaces %v", c.name, got)
		}
	}
	if found := machine(t, nil).namespaceFindings(); len(found) != 1 || found[0].Level != Unknown {
		t.Errorf("nothing known: %+v", found)
	}
}

func TestSeccomp(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  Level
	}{
		{"filters", map[string]string{"/proc/sys/kernel/seccomp/actions_avail": "kill_process trap errno allow\n"}, OK},
		{"none", map[string]string{"/proc/self/status": "Name:\tx\n"}, Failure},
		{"perhaps", map[string]string{"/proc/self/status": "Seccomp:\t0\n"}, Unknown},
		{"nothing known", nil, Unknown},
	} {
		if got := machine(t, c.files).seccompFinding(); got.Level != c.want {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
