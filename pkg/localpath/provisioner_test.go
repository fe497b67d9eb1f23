package localpath

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// newProvisioner has a node n1, whose directories are d.
func newProvisioner(d Directories) (*provisioner, *record.FakeRecorder) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelHostname: "host-1"}}}
	events := record.NewFakeRecorder(10)
	return &provisioner{
		client:      fake.NewClientset(node),
		directories: func(string) Directories { return d },
		events:      events,
		log:         slog.New(slog.DiscardHandler),
	}, events
}

// options ask for a volume on n1.
func options(change func(*controller.ProvisionOptions)) controller.ProvisionOptions {
	policy := corev1.PersistentVolumeReclaimRetain
	o := controller.ProvisionOptions{
		PVName:           volume.Name,
		SelectedNodeName: "n1",
		StorageClass:     &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "class"}, ReclaimPolicy: &policy},
		PVC: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: volume.Claim, Namespace: volume.Namespace},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}},
			},
		},
	}
	if change != nil {
		change(&o)
	}
	return o
}

const madePath = "/r/pvc-1_ns_data"

func TestProvision(t *testing.T) {
	d := &fakeDirectories{path: madePath}
	p, _ := newProvisioner(d)
	pv, state, err := p.Provision(t.Context(), options(func(o *controller.ProvisionOptions) {
		o.StorageClass.Parameters = map[string]string{"nodePath": "/r"}
	}))
	if err != nil || state != controller.ProvisioningFinished {
		t.Fatal(state, err)
	}
	if len(d.made) != 1 || d.made[0] != "pvc-1_ns_data in /r" {
		t.Errorf("the node was asked for %q", d.made)
	}
	if pv.Spec.HostPath == nil || pv.Spec.HostPath.Path != madePath {
		t.Errorf("source %v, want the directory as hostPath", pv.Spec.PersistentVolumeSource)
	}
	if q := pv.Spec.Capacity[corev1.ResourceStorage]; q.String() != "5Gi" {
		t.Errorf("capacity %s, want 5Gi", q.String())
	}
	if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain || pv.Spec.AccessModes[0] != corev1.ReadWriteMany {
		t.Errorf("policy and modes are not those asked for: %v", pv.Spec)
	}
	if nameOfHost(pv) != "n1" || pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] != "host-1" {
		t.Errorf("the volume is not tied to its node: %v", pv)
	}
}

func TestVolumeType(t *testing.T) {
	for _, test := range []struct{ class, claim, want string }{
		{"", "", typeHostPath}, {"local", "", typeLocal}, {"", "local", typeLocal}, {"local", "hostPath", typeHostPath},
	} {
		o := options(func(o *controller.ProvisionOptions) {
			o.StorageClass.Annotations = map[string]string{"defaultVolumeType": test.class}
			o.PVC.Annotations = map[string]string{"volumeType": test.claim}
		})
		if got, err := check(o.PVC, o.StorageClass, "n1"); got != test.want || err != nil {
			t.Errorf("class %q, claim %q: %q, %v; want %q", test.class, test.claim, got, err, test.want)
		}
		if local := source(test.want, madePath).Local != nil; local != (test.want == typeLocal) {
			t.Errorf("%s gives a local volume: %t", test.want, local)
		}
	}
}

func TestProvisionRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*controller.ProvisionOptions)
		err    error // of the node
		state  controller.ProvisioningState
		want   string
	}{
		{"immediate", func(o *controller.ProvisionOptions) { o.SelectedNodeName = "" }, nil, controller.ProvisioningFinished, "WaitForFirstConsumer"},
		{"parameter", func(o *controller.ProvisionOptions) {
			o.StorageClass.Parameters = map[string]string{"pathPattern": "{{.PVC.Name}}"}
		}, nil, controller.ProvisioningFinished, `parameter "pathPattern"`},
		{"type", func(o *controller.ProvisionOptions) { o.PVC.Annotations = map[string]string{"volumeType": "nfs"} }, nil, controller.ProvisioningFinished, `unknown volume type "nfs"`},
		{"mount options", func(o *controller.ProvisionOptions) { o.StorageClass.MountOptions = []string{"ro"} }, nil, controller.ProvisioningFinished, "mountOptions"},
		{"selector", func(o *controller.ProvisionOptions) { o.PVC.Spec.Selector = &metav1.LabelSelector{} }, nil, controller.ProvisioningFinished, "selector"},
		{"data source", func(o *controller.ProvisionOptions) {
			o.PVC.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "other"}
		}, nil, controller.ProvisioningFinished, "begins empty"},
		{"no such node", func(o *controller.ProvisionOptions) { o.SelectedNodeName = "n2" }, nil, controller.ProvisioningReschedule, "n2"},
		{"not connected", nil, ErrNotConnected, controller.ProvisioningReschedule, "node n1 has no connection"},
		{"full", nil, nodeError{"no space left", ErrNotHere}, controller.ProvisioningReschedule, "no space left"},
		{"fails", nil, errors.New("input/output error"), controller.ProvisioningFinished, "input/output error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, _ := newProvisioner(&fakeDirectories{path: madePath, err: test.err})
			_, state, err := p.Provision(t.Context(), options(test.change))
			if err == nil || !strings.Contains(err.Error(), test.want) || state != test.state {
				t.Errorf("%s, error %v; want %s, %q", state, err, test.state, test.want)
			}
		})
	}
}

// released is a volume that is to be deleted.
func released(node, host, path string) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volume.Name, Annotations: map[string]string{}},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: source(typeHostPath, path),
			ClaimRef:               &corev1.ObjectReference{Namespace: volume.Namespace, Name: volume.Claim},
		},
	}
	if node != "" {
		pv.Annotations[NodeAnnotation] = node
	}
	if host != "" {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
		}}}}
	}
	return pv
}

func TestDelete(t *testing.T) {
	for _, test := range []struct {
		name             string
		node, host, path string
		err              error // of the node
		removed          string
		event, want      string
	}{
		{name: "removed", node: "n1", path: madePath, removed: "pvc-1_ns_data in /r"},
		{name: "made by local-path-provisioner", host: "n1", path: madePath, removed: "pvc-1_ns_data in /r"},
		{name: "fails", node: "n1", path: madePath, err: errors.New("device or resource busy"), removed: "pvc-1_ns_data in /r", want: "busy"},
		{name: "not connected", node: "n1", path: madePath, err: ErrNotConnected, removed: "pvc-1_ns_data in /r", want: "node n1 has no connection"},
		{name: "node deleted", node: "n2", path: madePath, err: ErrNotConnected, removed: "pvc-1_ns_data in /r", event: "directory /r/pvc-1_ns_data is left"},
		{name: "node of another's volume deleted", host: "n2", path: madePath, event: "directory /r/pvc-1_ns_data is left"},
		{name: "another directory", node: "n1", path: "/etc", want: `directory "/etc" was not made for this volume`},
		{name: "another volume's", node: "n1", path: "/r/pvc-2_ns_data", want: "was not made for this volume"},
		{name: "nowhere", path: madePath, want: "tied to no node"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := &fakeDirectories{err: test.err}
			p, events := newProvisioner(d)
			err := p.Delete(t.Context(), released(test.node, test.host, test.path))
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v, want %q", err, test.want)
			}
			if got := strings.Join(d.removed, ", "); got != test.removed {
				t.Errorf("removed %q, want %q", got, test.removed)
			}
			select {
			case event := <-events.Events:
				if test.event == "" || !strings.Contains(event, test.event) {
					t.Errorf("event %q, want %q", event, test.event)
				}
			default:
				if test.event != "" {
					t.Errorf("no event, want %q", test.event)
				}
			}
		})
	}
}

func TestEnsureConfig(t *testing.T) {
	client := fake.NewClientset()
	ensure := func(path string) {
		t.Helper()
		if err := New(Options{Client: client, Path: path, Log: slog.New(slog.DiscardHandler)}).ensureConfig(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	root := func() string {
		t.Helper()
		c, err := ReadConfig(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(c.Roots("any"), ", ")
	}
	edit := func(change func(*corev1.ConfigMap)) {
		t.Helper()
		configMaps := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
		current, err := configMaps.Get(context.Background(), ConfigMapName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(current)
		if _, err := configMaps.Update(context.Background(), current, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ensure("/a")
	if got := root(); got != "/a" {
		t.Errorf("made with %q, want /a", got)
	}
	ensure("/b")
	if got := root(); got != "/b" {
		t.Errorf("the configuration is %q, want the changed option's /b", got)
	}
	edit(func(c *corev1.ConfigMap) { c.Data[configKey] = `{"nodePathMap":[{"node":"any","paths":["/mine"]}]}` })
	ensure("/c")
	if got := root(); got != "/mine" {
		t.Errorf("the user's configuration became %q", got)
	}
	edit(func(c *corev1.ConfigMap) { c.Data, c.Annotations = nil, nil })
	ensure("/d")
	if _, err := ReadConfig(t.Context(), client); err == nil {
		t.Error("the user's ConfigMap was overwritten")
	}
}
