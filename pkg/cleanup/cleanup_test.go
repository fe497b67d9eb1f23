package cleanup

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestOwnTables(t *testing.T) {
	got := ownTables("table ip kube-proxy\ntable ip6 kube-proxy\ntable inet filter\ntable inet kedge-netpol\ntable ip kube-proxy-other\n")
	if want := []string{"ip kube-proxy", "ip6 kube-proxy", "inet kedge-netpol"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestIsPodCgroup(t *testing.T) {
	for path, want := range map[string]bool{
		"/kubepods/besteffort/pod1/c":                     true,
		"/kubepods.slice/kubepods-pod1.slice/cri-a.scope": true,
		"/kubepods":                       true,
		"/docker/abc/kubepods/pod1":       false,
		"/system.slice/kubepods.service":  false,
		"/kubepods-not-quite":             false,
		"/user.slice/user-1000.slice/x.y": false,
	} {
		if got := isPodCgroup(path); got != want {
			t.Errorf("%s: %t", path, got)
		}
	}
}

func TestParentOf(t *testing.T) {
	const stat = "42 (a) b (c) S 7 42 42 0 -1 4194560"
	if parentOf(stat) != 7 || state(stat) != "S" {
		t.Errorf("parent %d, state %s", parentOf(stat), state(stat))
	}
}

// TestForeignPod has processes of a pod of Kedge's, of one whose shim was killed,
// and of others' pods and containers.
func TestForeignPod(t *testing.T) {
	m := &Machine{DataDir: "/var/lib/kedge"}
	const shim = "/bin/containerd-shim-runc-v2"
	pod := []string{"/kubepods/pod1/c"}
	all := []process{
		{pid: 10, parent: 1, exe: m.paths().Payload() + "/1" + shim, here: true},
		{pid: 11, parent: 10, cgroups: pod},
		{pid: 20, parent: 1, exe: "/usr" + shim, args: []string{shim, "-address", "/run/kedge/containerd/containerd.sock"}, here: true},
		{pid: 21, parent: 20, cgroups: pod},
		{pid: 30, parent: 1, cgroups: pod},
		{pid: 40, parent: 1, exe: "/usr" + shim, args: []string{shim, "-address", "/run/k3s/containerd/containerd.sock"}, here: true},
		{pid: 41, parent: 40, cgroups: pod},
		{pid: 42, parent: 41, cgroups: pod},
		{pid: 43, parent: 40, cgroups: []string{"/system.slice/docker-1.scope"}},
		{pid: 50, parent: 1, exe: "/usr/bin/conmon", here: true},
		{pid: 51, parent: 50, cgroups: pod},
	}
	var foreign []int
	for _, p := range all {
		if m.inForeignPod(all)(p) {
			foreign = append(foreign, p.pid)
		}
	}
	if want := []int{41, 42, 51}; !slices.Equal(foreign, want) {
		t.Errorf("in pods of others are %d, want %d", foreign, want)
	}
}

func TestInterfaceNames(t *testing.T) {
	for name, want := range map[string]bool{
		"cni0": true, "flannel.1": true, "flannel-v6.1": true, "flannel-wg": true, "bwp96fc5079f440": true,
		"eth0": false, "cni01": false, "br-flannel.1": false, "veth1234": false, "docker0": false,
	} {
		if got := interfaceNames.MatchString(name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestRemoveTree(t *testing.T) {
	dir := t.TempDir()
	make := func(names ...string) {
		for _, name := range names {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	exists := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }

	make("data/a/file", "data/disk/precious", "data/b")
	mounts := map[string]bool{filepath.Join(dir, "data/disk"): true}
	err := removeTree(filepath.Join(dir, "data"), mounts)
	if err == nil || !strings.Contains(err.Error(), "data/disk: unmount it") {
		t.Errorf("got error %v", err)
	}
	if !exists("data/disk/precious") || exists("data/a") || exists("data/b") {
		t.Error("the wrong things were removed")
	}
	if err := removeTree(filepath.Join(dir, "data"), nil); err != nil || exists("data") {
		t.Errorf("error %v, exists %t", err, exists("data"))
	}

	// A disk for a part of the data directory, and one for all of it.
	make("kedge/storage/precious", "kedge/server/db")
	m := &Machine{DataDir: filepath.Join(dir, "kedge")}
	err = m.remove(m.paths().Storage(), map[string]bool{m.paths().Storage(): true})
	if err == nil || !strings.Contains(err.Error(), "kedge/storage: unmount it") || !exists("kedge/storage/precious") {
		t.Errorf("got error %v, exists %t", err, exists("kedge/storage/precious"))
	}
	if err := m.remove(m.paths().Server(), map[string]bool{m.DataDir: true}); err != nil || exists("kedge/server") {
		t.Errorf("error %v, exists %t", err, exists("kedge/server"))
	}

	// A whole disk for Kedge: it stays mounted, empty.
	make("mounted/a/file", "mounted/lost+found/x")
	if err := removeTree(filepath.Join(dir, "mounted"), map[string]bool{filepath.Join(dir, "mounted"): true}); err != nil {
		t.Error(err)
	}
	if !exists("mounted/lost+found/x") || exists("mounted/a") {
		t.Error("the wrong things were removed from the disk")
	}
}

func TestRemoveKind(t *testing.T) {
	var out bytes.Buffer
	m := &Machine{Out: &out}
	things := []string{"one", "two"}
	err := m.removeKind(t.Context(), trace{
		kind:   "things",
		find:   func(context.Context) ([]string, error) { return things, nil },
		remove: func(context.Context, []string) error { things = things[1:]; return nil },
	})
	if err != nil || out.String() != "removing things: one, two\n" {
		t.Errorf("error %v, output %q", err, out.String())
	}
	why := errors.New("busy")
	err = m.removeKind(t.Context(), trace{
		kind:   "things",
		find:   func(context.Context) ([]string, error) { return []string{"three"}, nil },
		remove: func(context.Context, []string) error { return errors.Join(errForGood, why) },
	})
	if !errors.Is(err, why) || !strings.Contains(err.Error(), "things are left: three") {
		t.Errorf("got error %v", err)
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", link, "relative"} {
		if err := (&Machine{DataDir: path}).resolve(); err == nil {
			t.Errorf("%s is taken for a data directory", path)
		}
	}
}

func TestOwnMounts(t *testing.T) {
	root := &mountinfo.Info{ID: 1, Parent: 0, Major: 254, Root: "/", Mountpoint: "/"}
	varDisk := &mountinfo.Info{ID: 2, Parent: 1, Major: 254, Minor: 1, Root: "/", Mountpoint: "/var"}
	volume := &mountinfo.Info{ID: 9, Parent: 3, Root: "/", Mountpoint: "/var/lib/kubelet/pods/1/volumes/x"}
	kubelet := func(mount mountinfo.Info) *mountinfo.Info {
		mount.ID, mount.Mountpoint = 3, "/var/lib/kubelet"
		return &mount
	}
	tests := map[string]struct {
		mounts []*mountinfo.Info
		want   []string
	}{
		"the kubelet's, onto itself": {
			[]*mountinfo.Info{root, kubelet(mountinfo.Info{Parent: 1, Major: 254, Root: "/var/lib/kubelet"}), volume},
			[]string{volume.Mountpoint, "/var/lib/kubelet"},
		},
		"onto itself, on another disk": {
			[]*mountinfo.Info{root, varDisk, kubelet(mountinfo.Info{Parent: 2, Major: 254, Minor: 1, Root: "/lib/kubelet"})},
			[]string{"/var/lib/kubelet"},
		},
		"a user's disk": {
			[]*mountinfo.Info{root, kubelet(mountinfo.Info{Parent: 1, Major: 254, Minor: 2, Root: "/"}), volume},
			[]string{volume.Mountpoint},
		},
		"a user's other directory": {
			[]*mountinfo.Info{root, kubelet(mountinfo.Info{Parent: 1, Major: 254, Root: "/srv/kubelet"})},
			nil,
		},
	}
	for name, test := range tests {
		if got := (&Machine{}).ownMounts(test.mounts); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
