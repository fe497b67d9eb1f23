package hostcheck

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Version is a kernel's version.
type Version struct{ Major, Minor, Patch int }

// String returns the version without what distributions append.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Less says whether v is older than w.
func (v Version) Less(w Version) bool {
	if v.Major != w.Major {
		return v.Major < w.Major
	}
	if v.Minor != w.Minor {
		return v.Minor < w.Minor
	}
	return v.Patch < w.Patch
}

// ParseVersion reads a kernel release such as "6.1.21-v8+".
func ParseVersion(release string) (Version, error) {
	var v Version
	rest := release
	for i, part := range []*int{&v.Major, &v.Minor, &v.Patch} {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.Atoi(rest[:digits])
		if err != nil {
			return Version{}, fmt.Errorf("kernel release %q doesn't begin with a version", release)
		}
		*part = n
		rest = rest[digits:]
		if !strings.HasPrefix(rest, ".") {
			if i == 0 {
				return Version{}, fmt.Errorf("kernel release %q doesn't begin with a version", release)
			}
			break // no patch level: "6.12-rc3"
		}
		rest = rest[1:]
	}
	return v, nil
}

// KernelVersion returns the version of the running kernel.
func (h Host) KernelVersion() (Version, error) {
	release, err := h.kernelRelease()
	if err != nil {
		return Version{}, err
	}
	return ParseVersion(release)
}

func (h Host) kernelRelease() (string, error) {
	release, err := h.read("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", fmt.Errorf("read the kernel's release: %w", err)
	}
	return release, nil
}

// MinKernel is the oldest kernel that Kedge runs on. kube-proxy refuses its
// nftables mode, the only one Kedge has, on older ones
// (k8s.io/kubernetes/pkg/util/kernel, NFTablesKubeProxyKernelVersion): their
// distributions come with an nft that breaks on kube-proxy's rules. All else that
// Kedge needs is older: overlayfs, cgroup v2 as the kubelet uses it (5.8).
var MinKernel = Version{5, 13, 0}

// minKernelUnchecked is how far down kube-proxy works when its check is skipped.
var minKernelUnchecked = Version{5, 4, 0}

// skipKernelCheck is the environment variable with which kube-proxy skips its own
// check of the kernel's version.
const skipKernelCheck = "KUBE_PROXY_NFTABLES_SKIP_KERNEL_VERSION_CHECK"

// CheckKernel returns an error if the kernel is too old for Kedge. Where
// KUBE_PROXY_NFTABLES_SKIP_KERNEL_VERSION_CHECK is set, which kube-proxy heeds
// too, it lets pass what upstream has tried.
func (h Host) CheckKernel() error { return h.kernelFinding().Err() }

func (h Host) kernelFinding() Finding {
	const name = "version"
	v, err := h.KernelVersion()
	if err != nil {
		return unknownf(name, "%v", err)
	}
	skip := os.Getenv(skipKernelCheck) != ""
	f := Finding{
		Name: name, Level: Failure,
		Detail: fmt.Sprintf("kernel %v is older than %v, which kube-proxy's nftables mode needs", v, MinKernel),
		Fix:    "upgrade to a system with a newer kernel, such as Debian 12, Ubuntu 22.04, RHEL 9, Raspberry Pi OS 12",
	}
	switch {
	case !v.Less(MinKernel):
		return okf(name, "%v (%v or newer is needed)", v, MinKernel)
	case v.Less(minKernelUnchecked):
	case skip:
		f.Level = Warning
		f.Detail += "; allowed by " + skipKernelCheck
	default:
		f.Fix += "; or, if no nft older than 1.0.1 is used on it, " + skipKernelCheck + "=1"
	}
	return f
}

// feature is something a kernel may have built in, have as a module, or not have.
type feature struct {
	module   string   // as modprobe calls it
	config   string   // the kernel's build option, without CONFIG_
	use      string   // what doesn't work without it
	files    []string // any of them exists once the feature is there
	fs       string   // the file system's name in /proc/filesystems once it is there
	onDemand bool     // the kernel or Kedge loads the module when it is used
}

// features are what Kedge and the pods need of the kernel.
var features = []feature{
	{module: "overlay", config: "OVERLAY_FS", use: "images take several times the disk space and time", fs: "overlay", onDemand: true},
	{module: "bridge", config: "BRIDGE", use: "pods have no network", onDemand: true},
	{module: "br_netfilter", config: "BRIDGE_NETFILTER", use: "pods don't reach Services whose pod is on their own node", files: []string{"/proc/sys/net/bridge/bridge-nf-call-iptables"}, onDemand: true},
	{module: "veth", config: "VETH", use: "pods have no network", onDemand: true},
	{module: "vxlan", config: "VXLAN", use: "pods don't reach other nodes through the default pod network", onDemand: true},
	{module: "nf_tables", config: "NF_TABLES", use: "Services and network policies don't work", onDemand: true},
	{module: "nf_conntrack", config: "NF_CONNTRACK", use: "Services don't work", files: []string{"/proc/sys/net/netfilter/nf_conntrack_max"}, onDemand: true},
	{module: "nf_nat", config: "NF_NAT", use: "Services don't work", onDemand: true},
	{module: "nft_nat", config: "NFT_NAT", use: "Services don't work", onDemand: true},
	{module: "nft_masq", config: "NFT_MASQ", use: "pods don't reach the world", onDemand: true},
	{module: "nft_ct", config: "NFT_CT", use: "Services don't work", onDemand: true},
	{module: "nft_fib_ipv4", config: "NFT_FIB_IPV4", use: "NodePorts don't work", onDemand: true},
	{module: "nft_numgen", config: "NFT_NUMGEN", use: "Services with several pods don't work", onDemand: true},
	{module: "nft_reject_ipv4", config: "NFT_REJECT_IPV4", use: "connections to Services without pods hang", onDemand: true},
	{config: "POSIX_MQUEUE", use: "containers don't start", fs: "mqueue"},
}

// name returns what findings call the feature.
func (f feature) name() string {
	if f.module != "" {
		return f.module
	}
	return f.fs
}

// presence says what a kernel's files tell about a feature.
type presence int

const (
	presenceUnknown presence = iota
	absent
	loadable // there is a module, which is not loaded
	present
)

// kernel is what a machine's files tell about its kernel.
type kernel struct {
	host    Host
	release string
	config  map[string]string // build options without CONFIG_, "y" or "m"; nil if not to be had
	builtin map[string]bool   // modules that are in the kernel; nil if not to be had
	modules map[string]bool   // modules that are installed for it; nil if not to be had
	loaded  map[string]bool
	fs      map[string]bool // file systems it has at the moment
}

func (h Host) kernel() (kernel, error) {
	release, err := h.kernelRelease()
	if err != nil {
		return kernel{}, err
	}
	k := kernel{host: h, release: release}
	dir := "/lib/modules/" + release
	k.config = h.kernelConfig("/proc/config.gz", "/boot/config-"+release, dir+"/config")
	k.builtin = h.moduleList(dir + "/modules.builtin")
	k.modules = h.moduleList(dir + "/modules.dep")

	k.loaded = map[string]bool{}
	if s, err := h.read("/proc/modules"); err == nil {
		for line := range strings.Lines(s) {
			name, _, _ := strings.Cut(line, " ")
			k.loaded[name] = true
		}
	}
	k.fs = map[string]bool{}
	if s, err := h.read("/proc/filesystems"); err == nil {
		for line := range strings.Lines(s) {
			if f := strings.Fields(line); len(f) > 0 {
				k.fs[f[len(f)-1]] = true
			}
		}
	}
	return k, nil
}

// kernelConfig reads the first of some files with the kernel's build options.
func (h Host) kernelConfig(files ...string) map[string]string {
	for _, name := range files {
		config, err := h.readKernelConfig(name)
		if err == nil {
			return config
		}
	}
	return nil
}

func (h Host) readKernelConfig(name string) (map[string]string, error) {
	file, err := os.Open(h.path(name))
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	var r io.Reader = file
	if strings.HasSuffix(name, ".gz") {
		if r, err = gzip.NewReader(file); err != nil {
			return nil, err
		}
	}
	config := map[string]string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		option, ok := strings.CutPrefix(lines.Text(), "CONFIG_")
		if !ok {
			continue
		}
		if key, value, ok := strings.Cut(option, "="); ok {
			config[key] = value
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(config) == 0 {
		return nil, errors.New(name + " has no options")
	}
	return config, nil
}

// moduleList reads the modules' names from modules.builtin or modules.dep.
func (h Host) moduleList(name string) map[string]bool {
	s, err := h.read(name)
	if err != nil {
		return nil
	}
	list := map[string]bool{}
	for line := range strings.Lines(s) {
		file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		module, _, _ := strings.Cut(path.Base(file), ".ko")
		list[strings.ReplaceAll(module, "-", "_")] = true
	}
	return list
}

// has says what the files tell about a feature, and how they do.
func (k kernel) has(f feature) (presence, string) {
	switch {
	case f.fs != "" && k.fs[f.fs]:
		return present, "in /proc/filesystems"
	case slices.ContainsFunc(f.files, k.host.exists):
		return present, "in use"
	case f.module != "" && k.loaded[f.module]:
		return present, "module loaded"
	case f.module != "" && k.host.exists("/sys/module/"+f.module):
		return present, "in the kernel"
	case k.builtin[f.module]:
		return present, "built in"
	case k.modules[f.module]:
		return loadable, "module installed"
	}
	if k.config != nil {
		switch k.config[f.config] {
		case "y":
			return present, "built in"
		case "m":
			if k.modules == nil && !k.host.exists("/lib/modules") {
				return presenceUnknown, "a module of this kernel, but there is no /lib/modules to see it in"
			}
			return absent, fmt.Sprintf("its module isn't in /lib/modules/%s", k.release)
		default:
			return absent, fmt.Sprintf("built without CONFIG_%s", f.config)
		}
	}
	if f.module != "" && k.builtin != nil && k.modules != nil {
		return absent, fmt.Sprintf("neither built in nor in /lib/modules/%s", k.release)
	}
	return presenceUnknown, "neither /proc/config.gz nor /boot nor /lib/modules tells"
}

// getFix says how to get a feature that the kernel doesn't have.
func (k kernel) getFix(f feature) string {
	entries, err := os.ReadDir(k.host.path("/lib/modules"))
	if err == nil && len(entries) > 0 && !k.host.exists("/lib/modules/"+k.release) {
		return fmt.Sprintf("reboot: the modules of the running kernel %s are no longer in /lib/modules", k.release)
	}
	fix := fmt.Sprintf("run a kernel with CONFIG_%s=y or =m", f.config)
	if f.module != "" && k.modules != nil {
		fix = fmt.Sprintf("install the rest of the kernel's modules (Ubuntu: apt-get install linux-modules-extra-%[1]s; Fedora, RHEL: dnf install kernel-modules-extra-%[1]s), or %s", k.release, fix)
	}
	return fix
}

// loadFix says how to have a module loaded now and at every boot.
func loadFix(module string) string {
	return fmt.Sprintf("modprobe %[1]s; echo %[1]s >>/etc/modules-load.d/kedge.conf", module)
}

// finding judges a feature by what the files tell and by what came of trying it;
// see [tryFeatures] for the meaning of tried.
func (k kernel) finding(f feature, tried error) Finding {
	there, how := k.has(f)
	failed := Finding{Name: f.name(), Level: Failure}
	if f.fs == "overlay" {
		failed.Level = Warning // the native snapshotter does instead
	}
	switch {
	case tried == nil:
		return okf(f.name(), "works")
	case errors.Is(tried, errAbsent) && there == loadable:
		failed.Detail = fmt.Sprintf("the kernel didn't load its module %s, which is installed: %s", f.module, f.use)
		failed.Fix = loadFix(f.module)
	case errors.Is(tried, errAbsent):
		failed.Detail = fmt.Sprintf("the kernel has no %s: %s", f.name(), f.use)
		if there == absent {
			failed.Detail = fmt.Sprintf("the kernel has no %s (%s): %s", f.name(), how, f.use)
		}
		failed.Fix = k.getFix(f)
	case there == present:
		return okf(f.name(), "%s", how)
	case there == loadable && f.onDemand:
		return okf(f.name(), "%s, loaded when it is used", how)
	case there == loadable:
		failed.Level = Warning
		failed.Detail = fmt.Sprintf("the kernel's module %s is installed, but not loaded: until then %s", f.module, f.use)
		failed.Fix = loadFix(f.module)
	case there == absent:
		failed.Detail = fmt.Sprintf("the kernel has no %s (%s): %s", f.name(), how, f.use)
		failed.Fix = k.getFix(f)
	default:
		return unknownf(f.name(), "%s (%v)", how, tried)
	}
	return failed
}

// namespaceFindings looks at the kinds of namespaces. Each that the kernel has
// is a file of every process.
func (h Host) namespaceFindings() []Finding {
	if !h.exists("/proc/self/ns") {
		return []Finding{unknownf("namespaces", "there is no /proc/self/ns")}
	}
	var missing []string
	for _, ns := range []string{"pid", "net", "ipc", "uts", "mnt"} {
		if _, err := os.Lstat(h.path("/proc/self/ns/" + ns)); err != nil {
			missing = append(missing, ns)
		}
	}
	f := okf("namespaces", "pid, net, ipc, uts, mnt")
	if len(missing) > 0 {
		f = Finding{
			Name: "namespaces", Level: Failure, Detail: "the kernel has no namespaces for " + strings.Join(missing, ", "),
			Fix: "run a kernel with CONFIG_PID_NS, CONFIG_NET_NS, CONFIG_IPC_NS and CONFIG_UTS_NS",
		}
	}
	return []Finding{f, h.userNamespaceFinding()}
}

func (h Host) userNamespaceFinding() Finding {
	const name, use = "user namespaces", "pods with hostUsers: false can't run"
	if _, err := os.Lstat(h.path("/proc/self/ns/user")); err != nil {
		return Finding{Name: name, Level: Warning, Detail: "the kernel has no user namespaces: " + use, Fix: "run a kernel with CONFIG_USER_NS=y"}
	}
	limit, err := h.readInt("/proc/sys/user/max_user_namespaces")
	switch {
	case err != nil:
		return unknownf(name, "the kernel has them, but how many may be made: %v", err)
	case limit == 0:
		return Finding{
			Name: name, Level: Warning, Detail: "no user namespaces may be made (user.max_user_namespaces=0): " + use,
			Fix: "sysctl -w user.max_user_namespaces=16384; echo user.max_user_namespaces=16384 >>/etc/sysctl.d/99-kedge.conf",
		}
	}
	return okf(name, "up to %d", limit)
}

// seccompFinding says whether the kernel can filter system calls.
func (h Host) seccompFinding() Finding {
	const name = "seccomp"
	actions, err := h.read("/proc/sys/kernel/seccomp/actions_avail")
	if err == nil && slices.Contains(strings.Fields(actions), "errno") {
		return okf(name, "filters")
	}
	if _, err := h.read("/proc/self/status"); err != nil {
		return unknownf(name, "%v", err)
	}
	if _, err := h.statusField("Seccomp"); err == nil {
		return unknownf(name, "the kernel has it, but whether with filters can't be seen in /proc/sys/kernel/seccomp")
	}
	return Finding{
		Name: name, Level: Failure, Detail: "the kernel has no seccomp filters: containers with a seccomp profile don't start",
		Fix: "run a kernel with CONFIG_SECCOMP=y and CONFIG_SECCOMP_FILTER=y",
	}
}
