package hostcheck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Request is what a machine is checked for. What is left out is not checked.
type Request struct {
	DataDir      string         // where Kedge keeps its data; may not exist yet
	Ports        []Port         // what Kedge will listen on
	PodCIDRs     []netip.Prefix // the pods' ranges
	ServiceCIDRs []netip.Prefix // the services' ranges
	Backend      string         // of the pod network; "" for vxlan
	ResolvConf   string         // the user's choice for pods; "" to find one
	Server       string         // HOST:PORT that an agent joins at
	BuildTime    time.Time      // when Kedge was built: no clock may be behind it; zero if not known
}

// Port is a TCP port that Kedge will listen on.
type Port struct {
	Host   string // the address; "" for all
	Number int
	Use    string // what for, such as "API server"
	Option string // what chooses another, such as "--https-listen-port"; may be ""
}

// Check finds out whether a machine has what Kedge needs, in the order a person
// reads it. Most of it takes root to know; what can't be found out says so.
func (h Host) Check(ctx context.Context, req Request) []Finding {
	var all []Finding
	for _, group := range []struct {
		name string
		run  func(context.Context, Request) []Finding
	}{
		{"Machine", h.checkMachine},
		{"Kernel", h.checkKernel},
		{"Control groups", h.checkControlGroups},
		{"Network", h.checkNetwork},
		{"Ports", h.checkPorts},
		{"Storage", h.checkStorage},
		{"Other software", h.checkOthers},
	} {
		found := []Finding{unknownf("all", "not checked: %v", ctx.Err())}
		if ctx.Err() == nil {
			found = group.run(ctx, req)
		}
		for i := range found {
			found[i].Group = group.name
		}
		all = append(all, found...)
	}
	return all
}

func (h Host) checkMachine(_ context.Context, req Request) []Finding {
	return []Finding{
		h.userFinding(),
		h.capabilityFinding(),
		h.memoryFinding(),
		h.swapFinding(),
		h.inotifyFinding(),
		clockFinding(time.Now(), req.BuildTime),
	}
}

func (h Host) userFinding() Finding {
	uid, err := h.effectiveUID()
	switch {
	case err != nil:
		return unknownf("user", "%v", err)
	case uid == 0:
		return okf("user", "root")
	}
	return Finding{
		Name: "user", Level: Failure, Detail: fmt.Sprintf("user %d is not root", uid),
		Fix: "run it with sudo, or as root",
	}
}

func (h Host) capabilityFinding() Finding {
	const name = "capabilities"
	mask, err := h.capabilities()
	if err != nil {
		return unknownf(name, "%v", err)
	}
	missing := func(capabilities ...int) string {
		var names []string
		for _, c := range capabilities {
			if mask&(1<<c) == 0 {
				names = append(names, capabilityNames[c])
			}
		}
		return strings.Join(names, ", ")
	}
	const fix = "run it as root on the machine itself, or give the container it runs in --privileged"
	if names := missing(unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN); names != "" {
		return Finding{Name: name, Level: Failure, Detail: "this process lacks " + names, Fix: fix}
	}
	if names := missing(unix.CAP_SYS_RESOURCE); names != "" {
		return Finding{
			Name: name, Level: Warning, Fix: fix,
			Detail: "this process lacks " + names + ": pods can't be protected from the kernel's out-of-memory killer, nor limits raised",
		}
	}
	return okf(name, "all that are needed")
}

// lowMemory is where a server with its system pods leaves nothing for other pods.
const lowMemory = 512 << 20

func (h Host) memoryFinding() Finding {
	const name = "memory"
	total, err := h.memoryTotal()
	switch {
	case err != nil:
		return unknownf(name, "%v", err)
	case total < lowMemory:
		return Finding{
			Name: name, Level: Warning, Detail: fmt.Sprintf("%s of memory in all, which leaves nothing for pods beside a server", size(total)),
			Fix: fmt.Sprintf("run only an agent here, or give the machine more memory than %s", size(lowMemory)),
		}
	}
	return okf(name, "%s", size(total))
}

// memoryTotal returns the machine's memory in bytes, less what the kernel keeps.
func (h Host) memoryTotal() (uint64, error) {
	s, err := h.read("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(s) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			kib, err := strconv.ParseUint(f[1], 10, 54)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemTotal")
}

func (h Host) swapFinding() Finding {
	on, err := h.SwapOn()
	switch {
	case err != nil:
		return unknownf("swap", "%v", err)
	case on:
		return okf("swap", "on; pods don't use it")
	}
	return okf("swap", "off")
}

// inotifyFinding compares the limits with the kernel's own: its default of
// instances, and of watches the least it sets on small machines. Below that
// somebody lowered them, and kubectl logs -f and the kubelet run out of them.
func (h Host) inotifyFinding() Finding {
	const name = "inotify"
	var low, raise []string
	for _, limit := range []struct {
		sysctl        string
		least, enough int64
	}{
		{sysctl: "fs.inotify.max_user_instances", least: 128, enough: 512},
		{sysctl: "fs.inotify.max_user_watches", least: 8192, enough: 524288},
	} {
		n, err := h.readInt("/proc/sys/" + strings.ReplaceAll(limit.sysctl, ".", "/"))
		if err != nil {
			return unknownf(name, "%v", err)
		}
		if n < limit.least {
			low = append(low, fmt.Sprintf("%s=%d", limit.sysctl, n))
			raise = append(raise, sysctlFix(limit.sysctl, limit.enough))
		}
	}
	if len(low) > 0 {
		return Finding{
			Name: name, Level: Warning, Detail: strings.Join(low, ", ") + " is little: following logs and configuration will fail",
			Fix: strings.Join(raise, "\n"),
		}
	}
	return okf(name, "enough instances and watches")
}

// sysctlFix says how to set a sysctl now and at every boot.
func sysctlFix(name string, value int64) string {
	return fmt.Sprintf("sysctl -w %[1]s=%[2]d; echo %[1]s=%[2]d >>/etc/sysctl.d/99-kedge.conf", name, value)
}

func clockFinding(now, built time.Time) Finding {
	const name = "clock"
	const layout = "2006-01-02 15:04 MST"
	switch {
	case built.IsZero():
		return unknownf(name, "%s; this build has no date to compare it with", now.UTC().Format(layout))
	case now.Before(built):
		return Finding{
			Name: name, Level: Warning,
			Detail: fmt.Sprintf("it is %s, which is before this Kedge was built (%s): certificates of others won't be valid yet", now.UTC().Format(layout), built.UTC().Format(layout)),
			Fix:    "timedatectl set-ntp true (or by hand: date -s '…')",
		}
	}
	return okf(name, "%s", now.UTC().Format(layout))
}

func (h Host) checkKernel(context.Context, Request) []Finding {
	found := []Finding{h.kernelFinding()}
	k, err := h.kernel()
	if err != nil {
		found = append(found, unknownf("features", "%v", err))
	} else {
		found = append(found, k.featureFindings(h.live())...)
	}
	found = append(found, h.namespaceFindings()...)
	return append(found, h.seccompFinding())
}

// featureFindings judges all features; those it can it tries first, if told to.
func (k kernel) featureFindings(try bool) []Finding {
	var tried map[string]error
	if try {
		tried = tryFeatures()
	}
	var found []Finding
	for _, f := range features {
		result, ok := tried[f.module]
		if !ok {
			result = ErrUntried
		}
		found = append(found, k.finding(f, result))
	}
	return found
}

func (h Host) checkControlGroups(context.Context, Request) []Finding {
	info, err := h.Cgroups()
	switch {
	case errors.Is(err, errNoCgroups):
		return []Finding{{
			Name: "version", Level: Failure, Detail: "no control groups are mounted",
			Fix: mountCgroups,
		}}
	case err != nil:
		return []Finding{unknownf("version", "%v", err)}
	}
	return h.cgroupFindings(info)
}

func (h Host) checkNetwork(ctx context.Context, req Request) []Finding {
	found := []Finding{h.forwardingFinding("IPv4 forwarding", "net.ipv4.ip_forward")}
	if slices.ContainsFunc(slices.Concat(req.PodCIDRs, req.ServiceCIDRs), func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		found = append(found, h.ipv6Finding(), h.forwardingFinding("IPv6 forwarding", "net.ipv6.conf.all.forwarding"))
	}
	found = append(found, h.conntrackFinding())
	if len(req.PodCIDRs)+len(req.ServiceCIDRs) > 0 {
		found = append(found, h.rangesFinding(req), h.firewallFinding(ctx, req.traffic()))
	}
	found = append(found, h.resolverFinding(req.PodCIDRs, req.ResolvConf))
	if req.Server != "" {
		found = append(found, serverFinding(ctx, req.Server))
	}
	return found
}

// traffic is what has to pass the machine's firewall. Of what Kedge listens on
// others reach the API only: the rest goes through tunnels that nodes open.
func (req Request) traffic() Traffic {
	t := Traffic{Pods: req.PodCIDRs}
	for _, p := range req.Ports {
		if p.Option == "--https-listen-port" {
			t.Ports = append(t.Ports, FirewallPort{uint16(p.Number), "tcp"})
		}
	}
	if len(req.PodCIDRs) > 0 {
		t.Ports = append(t.Ports, PodNetworkPorts(cmp.Or(req.Backend, "vxlan"), req.PodCIDRs)...)
	}
	return t
}

func (h Host) forwardingFinding(name, sysctl string) Finding {
	file := "/proc/sys/" + strings.ReplaceAll(sysctl, ".", "/")
	on, err := h.readInt(file)
	switch {
	case err != nil:
		return unknownf(name, "%v", err)
	case on != 0:
		return okf(name, "on")
	case h.sysctlWritable(file):
		return okf(name, "off; it is switched on with the pod network")
	case !h.asRoot():
		return unknownf(name, "off; whether it can be switched on is for root to see")
	}
	return Finding{
		Name: name, Level: Failure, Detail: sysctl + " is off and read-only here: pods reach nothing beyond this node",
		Fix: sysctlFix(sysctl, 1) + " (outside, if this is a container)",
	}
}

// ipv6Finding asks the same as kube-proxy does.
func (h Host) ipv6Finding() Finding {
	const name = "IPv6"
	if !h.exists("/proc/net/if_inet6") {
		return Finding{
			Name: name, Level: Failure, Detail: "the kernel has no IPv6, but a range of pods or services is IPv6",
			Fix: "take ipv6.disable=1 off the kernel's command line and reboot, or give IPv4 ranges only",
		}
	}
	if off, err := h.readInt("/proc/sys/net/ipv6/conf/all/disable_ipv6"); err == nil && off != 0 {
		return Finding{
			Name: name, Level: Failure, Detail: "IPv6 is switched off, but a range of pods or services is IPv6",
			Fix: sysctlFix("net.ipv6.conf.all.disable_ipv6", 0),
		}
	}
	return okf(name, "on")
}

// conntrackFinding compares the limit with what kube-proxy would set by default:
// 32768 for each processor, at least 131072.
func (h Host) conntrackFinding() Finding {
	const name, sysctl = "tracked connections", "net.netfilter.nf_conntrack_max"
	if !h.exists(conntrackMax) {
		return unknownf(name, "nf_conntrack isn't loaded yet, so whether its limit can be set is not known")
	}
	limit, err := h.readInt(conntrackMax)
	if err != nil {
		return unknownf(name, "%v", err)
	}
	want := max(131072, 32768*int64(runtime.NumCPU()))
	switch {
	case h.ConntrackMaxWritable():
		return okf(name, "the limit (%d) can be set", limit)
	case limit >= want:
		return okf(name, "the limit can't be set here, but it is high enough (%d)", limit)
	case !h.asRoot():
		return unknownf(name, "the limit is %d; whether it can be set is for root to see", limit)
	}
	return Finding{
		Name: name, Level: Warning, Detail: fmt.Sprintf("the limit of tracked connections is %d and can't be set here, as this is not the machine's first network namespace", limit),
		Fix: "on the machine itself: " + sysctlFix(sysctl, want),
	}
}

func (h Host) rangesFinding(req Request) Finding {
	const name = "address ranges"
	if !h.live() {
		return unknownf(name, "the interfaces of another machine can't be listed")
	}
	host, err := HostInterfaces(OwnInterface)
	if err != nil {
		return unknownf(name, "%v", err)
	}
	if err := CheckRanges(req.PodCIDRs, req.ServiceCIDRs, host); err != nil {
		detail, fix, _ := strings.Cut(err.Error(), ": ")
		return Finding{Name: name, Level: Failure, Detail: detail, Fix: fix}
	}
	return okf(name, "pods and services overlap none of this machine's networks")
}

func (h Host) resolverFinding(pods []netip.Prefix, chosen string) Finding {
	const name = "DNS for pods"
	var paths []string
	if chosen != "" {
		paths = []string{chosen}
	}
	r, ok := h.ResolvConf(pods, paths...)
	if !ok {
		where := "any resolv.conf of this machine"
		if chosen != "" {
			where = chosen
		}
		return Finding{
			Name: name, Level: Warning,
			Detail: fmt.Sprintf("no nameserver that pods can reach in %s: names are asked of %s instead", where, FallbackNameserver(pods)),
			Fix:    "write a file with a line such as \"nameserver 192.168.1.1\" and give it with --resolv-conf",
		}
	}
	servers := make([]string, len(r.Nameservers))
	for i, s := range r.Nameservers {
		servers[i] = s.String()
	}
	return okf(name, "%s from %s", strings.Join(servers, ", "), r.Path)
}

func (h Host) checkPorts(ctx context.Context, req Request) []Finding {
	var found []Finding
	for _, p := range req.Ports {
		found = append(found, h.portFinding(ctx, p))
	}
	return found
}

// program is the name that Kedge's own processes have.
const program = "kedge"

func (h Host) portFinding(ctx context.Context, p Port) Finding {
	name := fmt.Sprintf("%d %s", p.Number, p.Use)
	err := h.CheckPort(ctx, p.Host, p.Number, p.Option)
	var inUse *PortInUseError
	switch {
	case err == nil:
		return okf(name, "free")
	case !errors.As(err, &inUse):
		return unknownf(name, "%v", err)
	case inUse.Process == program:
		return okf(name, "in use by Kedge itself (pid %d)", inUse.PID)
	}
	f := Finding{Name: name, Level: Failure, Detail: fmt.Sprintf("port %d is in use by process %q (pid %d)", p.Number, inUse.Process, inUse.PID)}
	if inUse.PID == 0 {
		f.Detail = fmt.Sprintf("port %d is in use by a process that can't be seen from here", p.Number)
		f.Fix = fmt.Sprintf("find it as root with ss -ltnp 'sport = :%d', and stop it", p.Number)
	} else {
		f.Fix = h.stopCommand(inUse.PID)
	}
	if p.Option != "" {
		f.Fix += ", or choose another port with " + p.Option
	}
	return f
}

func (h Host) checkStorage(_ context.Context, req Request) []Finding {
	if req.DataDir == "" {
		return nil
	}
	dir := h.path(req.DataDir)
	return []Finding{h.writableFinding(dir), spaceFinding(dir), execFinding(dir), overlayFinding(dir)}
}

func (h Host) writableFinding(dir string) Finding {
	const name = "data directory"
	err := Writable(dir)
	switch {
	case errors.Is(err, fs.ErrPermission) && !h.asRoot():
		return unknownf(name, "%v; root may do more", err)
	case err != nil:
		return Finding{
			Name: name, Level: Failure, Detail: err.Error(),
			Fix: "choose another directory with --data-dir, or make this one writable for root",
		}
	}
	return okf(name, "%s can be written to", dir)
}

func spaceFinding(dir string) Finding {
	const name = "free space"
	free, err := FreeSpace(dir)
	if err != nil {
		return unknownf(name, "%v", err)
	}
	f := Finding{
		Name: name, Detail: fmt.Sprintf("%s are free for %s", size(free), dir),
		Fix: "free some space (to see what takes it: du -xh / | sort -h | tail), or choose another directory with --data-dir",
	}
	switch {
	case free < MinFreeSpace:
		f.Level = Failure
		f.Detail += fmt.Sprintf(", %s are needed", size(MinFreeSpace))
	case free < LowFreeSpace:
		f.Level = Warning
		f.Detail += fmt.Sprintf(", images need more; %s are better", size(LowFreeSpace))
	default:
		f.Fix = ""
	}
	return f
}

// execFinding sees to it that the programs Kedge unpacks can be run.
func execFinding(dir string) Finding {
	const name = "programs"
	st, existing, err := statfs(dir)
	switch {
	case err != nil:
		return unknownf(name, "%v", err)
	case st.Flags&unix.ST_NOEXEC != 0:
		return Finding{
			Name: name, Level: Failure, Detail: fmt.Sprintf("%s is on a file system mounted noexec: what is unpacked there can't be run", existing),
			Fix: fmt.Sprintf("mount -o remount,exec $(findmnt -n -o TARGET -T %s), or choose another directory with --data-dir", existing),
		}
	}
	return okf(name, "can be run from %s", existing)
}

func overlayFinding(dir string) Finding {
	const name = "overlayfs"
	err := OverlayUsable(dir)
	switch {
	case err == nil:
		return okf(name, "works")
	case errors.Is(err, ErrUntried):
		return unknownf(name, "%v", err)
	}
	return Finding{
		Name: name, Level: Warning, Detail: fmt.Sprintf("%v; the native snapshotter will be used, which copies every layer", err),
		Fix: "put --data-dir on a file system such as ext4 or xfs",
	}
}

// otherKubernetes has the processes of other distributions by the beginning of
// their names, and how to stop them.
var otherKubernetes = []struct{ process, name, stop string }{
	{"k3s", "k3s", "systemctl disable --now k3s k3s-agent; k3s-killall.sh"},
	{"rke2", "RKE2", "systemctl disable --now rke2-server rke2-agent; rke2-killall.sh"},
	{"k0s", "k0s", "k0s stop"},
	{"kubelite", "MicroK8s", "microk8s stop"},
	{"kubelet", "a kubelet", "systemctl disable --now kubelet"},
	{"kube-apiserver", "a kube-apiserver", ""},
	{"kube-proxy", "a kube-proxy", ""},
}

// Other is a Kubernetes that is not Kedge.
type Other struct {
	Name    string
	Process string // one of its processes
	PID     int
	Stop    string // what to type to stop it
}

// OtherKubernetes finds another Kubernetes in this process's network namespace by
// its processes, of which it passes over those that own says are Kedge's; nil:
// there is none.
func (h Host) OtherKubernetes(own func(pid int) bool) (*Other, error) {
	processes, err := h.processes()
	if err != nil {
		return nil, err
	}
	for _, other := range otherKubernetes {
		for _, p := range processes {
			if !strings.HasPrefix(p.name, other.process) || !h.sameNetwork(p.pid) || own(p.pid) {
				continue
			}
			stop := other.stop
			if stop == "" {
				stop = h.stopCommand(p.pid)
			}
			return &Other{other.name, p.name, p.pid, stop}, nil // the rest are parts of it
		}
	}
	return nil, nil
}

// checkOthers looks for what would fight Kedge over the network, cgroups and
// ports: another Kubernetes in the same network namespace.
func (h Host) checkOthers(context.Context, Request) []Finding {
	const name = "other Kubernetes"
	other, err := h.OtherKubernetes(func(int) bool { return false })
	switch {
	case err != nil:
		return []Finding{unknownf(name, "%v", err)}
	case other == nil:
		return []Finding{okf(name, "none running")}
	}
	return []Finding{{
		Name: name, Level: Warning, Fix: other.Stop,
		Detail: fmt.Sprintf("%s is running (process %q, pid %d): two on one machine get in each other's way", other.Name, other.Process, other.PID),
	}}
}
