package helm

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// crds define HelmChart and HelmChartConfig. The controller makes them itself:
// where it is switched off, those that are there must stay, with their objects.
//
//go:embed crds.yaml
var crds []byte

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

const (
	defineInterval = 200 * time.Millisecond
	// told is how many attempts may fail unsaid: right after its start the
	// apiserver may not have read the roles yet.
	told = 25
)

// defineKinds makes the kinds, and returns false when ctx ends before they can be
// used.
func (c *Controller) defineKinds(ctx context.Context) bool {
	for attempt := 1; ; attempt++ {
		err := c.tryDefineKinds(ctx)
		if err == nil {
			return true
		}
		if attempt == told {
			c.config.Log.Warn("the kinds can't be made; it is tried again", "component", c.Name(), "err", err)
		}
		pause := defineInterval
		if attempt > told {
			pause = firstRetry
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}

func (c *Controller) tryDefineKinds(ctx context.Context) error {
	wanted, err := decodeCRDs(crds)
	if err != nil {
		return err
	}
	for _, crd := range wanted {
		made, err := c.dynamic.Resource(definitions).Apply(ctx, crd.GetName(), crd, metav1.ApplyOptions{FieldManager: "kedge", Force: true})
		if err != nil {
			return fmt.Errorf("%s: %w", crd.GetName(), err)
		}
		if !established(made) {
			return fmt.Errorf("%s: not established yet", crd.GetName())
		}
	}
	return nil
}

func decodeCRDs(data []byte) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var all []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, object)
	}
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, condition := range conditions {
		if c, ok := condition.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
			return true
		}
	}
	return false
}
