package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/kubernetes/pkg/kubelet/metrics/collectors"
)

// kubeletCollectors are equal to those that a kubelet registers with the process
// once it runs. A second kubelet's would be refused, and end the process.
type kubeletCollectors []metrics.StableCollector

func newKubeletCollectors() kubeletCollectors {
	all := kubeletCollectors{collectors.NewVolumeStatsCollector(nil), collectors.NewLogMetricsCollector(nil)}
	// A registry makes them describe what they collect: that is what they are
	// told apart by.
	metrics.NewKubeRegistry().CustomMustRegister(all...)
	return all
}

// unregister waits until a kubelet has registered its own, and takes them out again.
func (k kubeletCollectors) unregister(ctx context.Context) error {
	for _, registry := range []prometheus.Registerer{legacyregistry.Registerer(), prometheus.DefaultRegisterer} {
		for _, collector := range k {
			for !registry.Unregister(collector) {
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(time.Millisecond):
				}
			}
		}
	}
	return nil
}
