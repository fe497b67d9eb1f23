package upgradeplan

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

//go:embed crd.yaml
var crd []byte

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

const (
	fieldManager   = "kedge"
	managedByLabel = "app.kubernetes.io/managed-by"

	defineInterval, lastDefineInterval = 200 * time.Millisecond, 5 * time.Second
	// told is how many attempts may fail unsaid: right after its start the
	// apiserver may not have read the roles yet.
	told = 25
)

// define makes the kind Plan, and returns false when ctx ends before it can be used.
func (c *Controller) define(ctx context.Context) bool {
	for attempt, pause := 1, defineInterval; ; attempt++ {
		err := defineKind(ctx, c.dynamic)
		if err == nil {
			return true
		}
		if attempt == told {
			c.config.Log.Warn("the kind Plan can't be made; it is tried again", "component", c.Name(), "err", err)
			pause = lastDefineInterval
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}

// defineKind leaves a definition alone that somebody else has made, such as
// system-upgrade-controller, whose Plans have more fields.
func defineKind(ctx context.Context, client dynamic.Interface) error {
	wanted := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(crd, &wanted.Object); err != nil {
		return err
	}
	there, err := client.Resource(definitions).Get(ctx, wanted.GetName(), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err != nil || there.GetLabels()[managedByLabel] == wanted.GetLabels()[managedByLabel] {
		there, err = client.Resource(definitions).Apply(ctx, wanted.GetName(), wanted, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		if err != nil {
			return err
		}
	}
	conditions, _, _ := unstructured.NestedSlice(there.Object, "status", "conditions")
	for _, condition := range conditions {
		if c, ok := condition.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
			return nil
		}
	}
	return fmt.Errorf("%s: not established yet", wanted.GetName())
}
