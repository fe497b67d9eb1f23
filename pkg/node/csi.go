package node

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/csi"
)

// hostWitness is a volume plugin that supports nothing: it learns which host the
// kubelet initializes its plugins for. As the last in the list it also learns
// when the others are.
type hostWitness struct {
	volume.VolumePlugin // nil: nobody calls a plugin that supports nothing
	once                sync.Once
	seen                chan struct{}
	host                volume.VolumeHost
}

func (w *hostWitness) Init(host volume.VolumeHost) error {
	w.once.Do(func() { w.host = host; close(w.seen) })
	return nil
}

func (*hostWitness) GetPluginName() string             { return "kedge.io/host-witness" }
func (*hostWitness) CanSupport(*volume.Spec) bool      { return false }
func (*hostWitness) RequiresRemount(*volume.Spec) bool { return false }
func (*hostWitness) SupportsMountOption() bool         { return false }
func (*hostWitness) GetVolumeName(*volume.Spec) (string, error) {
	return "", fmt.Errorf("no volume is of this plugin")
}

// ReclaimVolumes makes the CSI plugin work for the kubelet again after the
// controllers have started in this process: it keeps the node it works for in a
// variable of its package, which they overwrite. It waits for the kubelet.
func (k *Kubelet) ReclaimVolumes(ctx context.Context) error {
	select {
	case <-k.witness.seen:
	case <-ctx.Done():
		return fmt.Errorf("the kubelet's volume plugins: %w", ctx.Err())
	}
	for _, plugin := range k.plugins {
		if plugin.GetPluginName() == csi.CSIPluginName {
			return plugin.Init(k.witness.host)
		}
	}
	return nil
}
