package controlplane

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/storage/volume"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumebinding"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
)

// promptVolumeBinding is upstream's plugin VolumeBinding in all it does, but goes
// on as soon as a pod's claims are bound. Upstream looks for that once a second,
// the first time after a second, and a local volume takes milliseconds.
type promptVolumeBinding struct{ *volumebinding.VolumeBinding }

// promptVolumeBindingName differs from upstream's name, which only upstream may
// register.
const promptVolumeBindingName = "kedge.io/VolumeBinding"

// Name implements fwk.Plugin.
func (promptVolumeBinding) Name() string { return promptVolumeBindingName }

// withPromptVolumeBinding has the scheduler use promptVolumeBinding wherever its
// default configuration names upstream's plugin. A configuration file of the
// user's is left as it is.
func withPromptVolumeBinding(o *options.Options) app.Option {
	return func(registry frameworkruntime.Registry) error {
		// Upstream calls this when it has the default configuration and has not used
		// it yet.
		for _, profile := range o.ComponentConfig.Profiles {
			for i, plugin := range profile.Plugins.MultiPoint.Enabled {
				if plugin.Name == volumebinding.Name {
					profile.Plugins.MultiPoint.Enabled[i].Name = promptVolumeBindingName
				}
			}
			for i, config := range profile.PluginConfig {
				if config.Name == volumebinding.Name {
					profile.PluginConfig[i].Name = promptVolumeBindingName
				}
			}
		}
		return registry.Register(promptVolumeBindingName, newPromptVolumeBinding)
	}
}

func newPromptVolumeBinding(ctx context.Context, args runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
	features := feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate)
	made, err := volumebinding.New(ctx, args, handle, features)
	if err != nil {
		return nil, err
	}
	plugin := made.(*volumebinding.VolumeBinding) //nolint:forcetypeassert // what upstream's New makes
	core := handle.SharedInformerFactory().Core().V1()
	plugin.Binder = promptBinder{
		SchedulerVolumeBinder: plugin.Binder,
		claims:                core.PersistentVolumeClaims().Lister(),
		volumes:               core.PersistentVolumes().Lister(),
		nodes:                 core.Nodes().Lister(),
	}
	return promptVolumeBinding{plugin}, nil
}

// promptBinder binds as upstream does, and sees sooner that it is done.
type promptBinder struct {
	volumebinding.SchedulerVolumeBinder
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	nodes   corelisters.NodeLister
}

const (
	// A look is at memory only. Volumes that take longer than this limit are left to
	// upstream's pace.
	boundInterval = 20 * time.Millisecond
	boundLimit    = 10 * time.Second
)

// BindPodVolumes implements volumebinding.SchedulerVolumeBinder.
func (b promptBinder) BindPodVolumes(ctx context.Context, pod *corev1.Pod, volumes *volumebinding.PodVolumes) error {
	if len(volumes.StaticBindings) > 0 {
		return b.SchedulerVolumeBinder.BindPodVolumes(ctx, pod, volumes)
	}
	// Upstream's own look, at most a second after ours, ends its work. Cut short, it
	// would count as a failure.
	upstream, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	claims := make([]*corev1.PersistentVolumeClaim, len(volumes.DynamicProvisions))
	for i, provision := range volumes.DynamicProvisions {
		claims[i] = provision.PVC
	}
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- b.SchedulerVolumeBinder.BindPodVolumes(upstream, pod, volumes)
	}()
	tick := time.NewTicker(boundInterval)
	defer tick.Stop()
	for limit := time.Now().Add(boundLimit); time.Now().Before(limit); {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if b.bound(pod, claims) {
				stop()
				return nil
			}
		}
	}
	return <-done
}

// bound reports whether all claims are bound for the pod, by what upstream goes
// by. When in doubt they are not: upstream knows better.
func (b promptBinder) bound(pod *corev1.Pod, claims []*corev1.PersistentVolumeClaim) bool {
	node, err := b.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return false
	}
	for _, wanted := range claims {
		claim, err := b.claims.PersistentVolumeClaims(wanted.Namespace).Get(wanted.Name)
		if err != nil || claim.UID != wanted.UID || claim.Spec.VolumeName == "" ||
			claim.Annotations[volume.AnnBindCompleted] == "" || claim.Annotations[volume.AnnSelectedNode] != node.Name {
			return false
		}
		bound, err := b.volumes.Get(claim.Spec.VolumeName)
		if err != nil || volume.CheckNodeAffinity(bound, node.Labels) != nil {
			return false
		}
	}
	return true
}
