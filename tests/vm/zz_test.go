//go:build vm

package vm

import (
	"strings"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	n := newNode(t, Options{})
	for _, v := range []struct{ name, script string }{
		{"parent inside", `exec unshare --cgroup --mount --pid --fork --mount-proc sh -c 'umount /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs tmpfs /run && mount --make-rshared / && exec kedge server --data-dir /var/lib/kedge-nested'`},
		{"run visible", strings.Replace(nested, "mount -t tmpfs tmpfs /run", "true", 1)},
	} {
		t.Log("=====", v.name)
		if _, err := n.ExecIn(t.Context(), strings.NewReader(v.script), "cat >/srv/nested"); err != nil {
			t.Fatal(err)
		}
		n.execute("systemctl reset-failed kedge 2>/dev/null; systemd-run --quiet --unit kedge -p Delegate=yes -p TasksMax=infinity sh /srv/nested")
		err := n.WaitReady(t.Context(), 3*time.Minute)
		t.Log(v.name, err)
		if err == nil {
			if _, err := n.Run(t.Context(), nil, "true"); err != nil { t.Fatal(err) }
			if v.name == "parent inside" {
				pid := n.execute("systemctl show --value -p MainPID kedge")
				t.Log(n.execute("nsenter --all --target $(pgrep --parent "+pid+") sh -c 'cat /sys/fs/cgroup/cgroup.procs; cat /sys/fs/cgroup/cgroup.subtree_control; find /sys/fs/cgroup -maxdepth 2 -type d'"))
			}
			_, err := n.Kubectl(t.Context(), "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s")
			t.Log("coredns", err)
			t.Log(n.execute("find /sys/fs/cgroup -maxdepth 4 -name 'kubepods*'; kedge kubectl -n kube-system get events | tail -5"))
		}
		log := n.log()
		for _, l := range lines(log, "ERROR|WARN|cgroup") { t.Log(l[:min(len(l), 400)]) }
		n.execute("systemctl stop kedge; systemctl kill -s KILL kedge 2>/dev/null; rm -rf /var/lib/kedge/server /var/lib/kedge/agent /var/lib/kubelet/pods; true")
		if err := n.Reboot(t.Context(), time.Minute); err != nil { t.Fatal(err) }
		n.execute("rm -rf /var/lib/kubelet /etc/kedge /var/lib/kedge-nested /var/lib/kedge/server /var/lib/kedge/agent")
	}
}
