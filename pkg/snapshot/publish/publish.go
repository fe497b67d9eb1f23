// Package publish shows the snapshots of a server as objects of the cluster.
package publish

import (
	"context"
	_ "embed"
	"fmt"
	"reflect"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/kedge-k8s/kedge/pkg/snapshot"
)

//go:embed crd.yaml
var crd []byte

var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	snapshots   = schema.GroupVersionResource{Group: "kedge.io", Version: "v1", Resource: "snapshots"}
)

const (
	fieldManager = "kedge"
	storageLabel = "kedge.io/snapshot-storage"
	nodeLabel    = "kedge.io/snapshot-node"
)

// Define makes the kind Snapshot.
func Define(ctx context.Context, client dynamic.Interface) error {
	definition := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(crd, &definition.Object); err != nil {
		return err
	}
	_, err := client.Resource(definitions).Apply(ctx, definition.GetName(), definition, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// Storage is where the snapshots of a Sync lie, the first part of the names of
// their objects.
type Storage string

// The storages there are.
const (
	Local Storage = "local"
	S3    Storage = "s3"
)

// Sync makes the objects of a storage those of the files. Of a server's own
// disk it is the objects of its node.
func Sync(ctx context.Context, client dynamic.Interface, storage Storage, node string, files []snapshot.File) error {
	selector := storageLabel + "=" + string(storage)
	if storage == Local {
		selector += "," + nodeLabel + "=" + node
	}
	list, err := client.Resource(snapshots).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return fmt.Errorf("list Snapshots: %w", err)
	}
	there := make(map[string]*unstructured.Unstructured, len(list.Items))
	for i := range list.Items {
		there[list.Items[i].GetName()] = &list.Items[i]
	}
	for _, file := range files {
		wanted := object(storage, file)
		name := wanted.GetName()
		old := there[name]
		delete(there, name)
		if old != nil && same(old, wanted) {
			continue
		}
		if _, err := client.Resource(snapshots).Apply(ctx, name, wanted, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return fmt.Errorf("write Snapshot %s: %w", name, err)
		}
	}
	for name := range there {
		if err := client.Resource(snapshots).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete Snapshot %s: %w", name, err)
		}
	}
	return nil
}

func same(a, b *unstructured.Unstructured) bool {
	return reflect.DeepEqual(a.Object["spec"], b.Object["spec"]) && reflect.DeepEqual(a.Object["status"], b.Object["status"])
}

// object shows a file. Its name is one that objects can have whatever files of
// others are called.
func object(storage Storage, f snapshot.File) *unstructured.Unstructured {
	status := map[string]any{
		"size":       f.Size,
		"readyToUse": f.Damage == "",
	}
	if !f.Created.IsZero() {
		status["creationTime"] = f.Created.UTC().Format(time.RFC3339)
	}
	if f.Damage != "" {
		status["message"] = f.Damage
	} else if f.Pending != "" {
		status["message"] = f.Pending
	}
	labels := map[string]any{storageLabel: string(storage)}
	if f.Node != "" {
		labels[nodeLabel] = f.Node
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": snapshots.GroupVersion().String(),
		"kind":       "Snapshot",
		"metadata":   map[string]any{"name": string(storage) + "-" + objectName(f.Name), "labels": labels},
		"spec":       map[string]any{"snapshotName": f.Name, "nodeName": f.Node, "location": f.Location},
		"status":     status,
	}}
}

func objectName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	return strings.Trim(name[:min(len(name), 240)], "-.")
}
