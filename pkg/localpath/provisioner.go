package localpath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const (
	// ProvisionerName is what storage classes name.
	ProvisionerName = "kedge.io/local-path"
	// RancherName is local-path-provisioner's name. Classes that name it work too.
	RancherName = "rancher.io/local-path"
	// NodeAnnotation of a volume is the node that its directory is on.
	NodeAnnotation = "kedge.io/node"

	// typeAnnotation of a claim and defaultTypeAnnotation of a class say what
	// kind of volume is made.
	typeAnnotation        = "volumeType"
	defaultTypeAnnotation = "defaultVolumeType"
	typeHostPath          = "hostPath"
	typeLocal             = "local"

	// rootParameter of a class names one of a node's paths.
	rootParameter = "nodePath"
)

// provisioner makes volumes of directories, for the controller of the library.
type provisioner struct {
	client kubernetes.Interface
	// directories returns those of a node; it is where another server would be
	// asked that holds the node's tunnel.
	directories func(node string) Directories
	events      record.EventRecorder
	log         *slog.Logger
}

var _ controller.Provisioner = &provisioner{}

// Provision implements controller.Provisioner. Its errors become events of the
// claim.
func (p *provisioner) Provision(ctx context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	claim, class := o.PVC, o.StorageClass
	kind, err := check(claim, class, o.SelectedNodeName)
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	node, err := p.client.CoreV1().Nodes().Get(ctx, o.SelectedNodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, controller.ProvisioningReschedule, err
	}
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	host := node.Labels[corev1.LabelHostname]
	if host == "" {
		return nil, controller.ProvisioningFinished, fmt.Errorf("node %s has no label %s, by which its volumes are tied to it: add it", node.Name, corev1.LabelHostname)
	}
	began := time.Now()
	v := Volume{Name: o.PVName, Namespace: claim.Namespace, Claim: claim.Name}
	path, err := p.directories(node.Name).Make(ctx, v, class.Parameters[rootParameter])
	switch {
	case errors.Is(err, ErrNotConnected):
		return nil, controller.ProvisioningReschedule, notConnected(node.Name)
	case errors.Is(err, ErrNotHere):
		return nil, controller.ProvisioningReschedule, err
	case err != nil:
		return nil, controller.ProvisioningFinished, err
	}
	p.log.Info("made a directory for a claim", "claim", claim.Namespace+"/"+claim.Name, "node", node.Name, "path", path, "took", time.Since(began).Round(time.Millisecond))
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName, Annotations: map[string]string{NodeAnnotation: node.Name}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: *class.ReclaimPolicy,
			VolumeMode:                    claim.Spec.VolumeMode,
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
			PersistentVolumeSource: source(kind, path),
		},
	}
	return volume, controller.ProvisioningFinished, nil
}

func notConnected(node string) error {
	return fmt.Errorf("node %s has no connection to the server now: its volumes wait until it has", node)
}

// check refuses what a directory can't be, and returns the kind of volume that
// is asked for.
func check(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node string) (kind string, err error) {
	for name := range class.Parameters {
		if name != rootParameter {
			return "", fmt.Errorf("storage class %s has parameter %q, which is not supported: only %q is", class.Name, name, rootParameter)
		}
	}
	kind = typeHostPath
	for _, given := range []string{class.Annotations[defaultTypeAnnotation], claim.Annotations[typeAnnotation]} {
		if given != "" {
			kind = given
		}
	}
	switch {
	case kind != typeHostPath && kind != typeLocal:
		return "", fmt.Errorf("unknown volume type %q: annotation %s of a claim, or %s of its storage class, is %s or %s",
			kind, typeAnnotation, defaultTypeAnnotation, typeHostPath, typeLocal)
	case node == "":
		return "", fmt.Errorf("a local volume is made on the node of its pod, which is not known yet: storage class %s needs volumeBindingMode: WaitForFirstConsumer", class.Name)
	case len(class.MountOptions) > 0:
		return "", fmt.Errorf("storage class %s has mountOptions, but a local volume is a directory, which is not mounted: remove them", class.Name)
	case claim.Spec.Selector != nil:
		return "", errors.New("the claim has a selector, but a new volume has no labels: remove it")
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "", errors.New("the claim has a dataSource, but a local volume begins empty: remove it")
	}
	return kind, nil
}

func source(kind, path string) corev1.PersistentVolumeSource {
	if kind == typeLocal {
		return corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}}
	}
	// A directory that is gone, with its disk perhaps, must not be taken for an
	// empty one.
	directory := corev1.HostPathDirectory
	return corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &directory}}
}

// Delete implements controller.Provisioner. It is called for released volumes
// only.
func (p *provisioner) Delete(ctx context.Context, volume *corev1.PersistentVolume) error {
	path, err := pathOf(volume)
	if err != nil {
		return err
	}
	name, err := p.nodeOf(ctx, volume)
	if err != nil {
		return err
	}
	if name != "" {
		err = p.directories(name).Remove(ctx, filepath.Dir(path), filepath.Base(path))
		if !errors.Is(err, ErrNotConnected) {
			return err
		}
		_, err = p.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return notConnected(name)
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	p.events.Eventf(volume, corev1.EventTypeWarning, "DirectoryLeft", "node %s is not in the cluster any more: the volume's directory %s is left on it", nameOfHost(volume), path)
	return nil
}

// pathOf returns the directory of a volume that was made here. Any other is not
// for us to remove.
func pathOf(volume *corev1.PersistentVolume) (string, error) {
	var path string
	switch {
	case volume.Spec.HostPath != nil:
		path = volume.Spec.HostPath.Path
	case volume.Spec.Local != nil:
		path = volume.Spec.Local.Path
	}
	ref := volume.Spec.ClaimRef
	if ref == nil || filepath.Base(path) != (Volume{Name: volume.Name, Namespace: ref.Namespace, Claim: ref.Name}).Dir() {
		return "", fmt.Errorf("directory %q was not made for this volume, so it stays: remove it by hand if it is not needed, and delete the volume after kubectl patch pv %s -p '{\"spec\":{\"persistentVolumeReclaimPolicy\":\"Retain\"}}'",
			path, volume.Name)
	}
	return path, nil
}

// nodeOf returns the name of a volume's node. It is empty if no node has the
// volume's label.
func (p *provisioner) nodeOf(ctx context.Context, volume *corev1.PersistentVolume) (string, error) {
	if name := volume.Annotations[NodeAnnotation]; name != "" {
		return name, nil
	}
	// Made by another provisioner: the label has the node's name nearly always.
	name := nameOfHost(volume)
	if name == "" {
		return "", errors.New("the volume is tied to no node: remove its directory by hand")
	}
	_, err := p.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	return name, err
}

// nameOfHost returns the node's name, or what stands for it.
func nameOfHost(volume *corev1.PersistentVolume) string {
	if name := volume.Annotations[NodeAnnotation]; name != "" {
		return name
	}
	if volume.Spec.NodeAffinity == nil || volume.Spec.NodeAffinity.Required == nil {
		return ""
	}
	for _, term := range volume.Spec.NodeAffinity.Required.NodeSelectorTerms {
		i := slices.IndexFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool {
			return r.Key == corev1.LabelHostname && len(r.Values) == 1
		})
		if i >= 0 {
			return term.MatchExpressions[i].Values[0]
		}
	}
	return ""
}
