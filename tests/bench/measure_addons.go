package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/manifests"
	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

const (
	addonObjects = "/apis/kedge.io/v1/namespaces/kube-system/addons"
	addonsSystem = "/apis/apps/v1/namespaces/kube-system/"
)

// addons measures a start with all add-ons.
func (r *run) addons(ctx context.Context) error {
	if err := r.step(ctx, "prepare", r.side.Prepare); err != nil {
		return err
	}
	r.calm()
	return r.step(ctx, "addons", r.measureAddons)
}

// measureAddons starts with an empty data directory and measures until each
// packaged manifest is deployed, and all that it runs is there.
func (r *run) measureAddons(ctx context.Context) error {
	began := time.Now()
	if err := r.side.Start(); err != nil {
		return err
	}
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	names, err := fs.Glob(manifests.FS, "*.yaml")
	if err != nil || len(names) == 0 {
		return errors.Join(errors.New("no manifest is packaged"), err)
	}
	for _, name := range names {
		name = strings.TrimSuffix(name, ".yaml")
		if err := client.WaitObject(ctx, addonObjects, name, hasCondition("Ready")); err != nil {
			return fmt.Errorf("add-on %s: %w", name, err)
		}
	}
	for kind, ready := range map[string]func([]byte) bool{
		"deployments": isReadyDeployment,
		"daemonsets":  isOnEachNode,
	} {
		if err := waitAll(ctx, client, addonsSystem+kind, ready); err != nil {
			return err
		}
	}
	r.record("addons", time.Since(began).Seconds())
	return nil
}

// waitAll waits until all objects of a collection are as they should be.
func waitAll(ctx context.Context, client *cluster.Client, collection string, ready func([]byte) bool) error {
	text, err := client.Get(ctx, collection)
	if err != nil {
		return err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
		}
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("%s: %w", collection, err)
	}
	for _, item := range list.Items {
		if err := client.WaitObject(ctx, collection, item.Metadata.Name, ready); err != nil {
			return err
		}
	}
	return nil
}

// isReadyDeployment reports whether a Deployment's pods are all ready. Available it
// also is when as many as all may be missing.
func isReadyDeployment(object []byte) bool {
	var deployment struct {
		Spec   struct{ Replicas int }
		Status struct{ ReadyReplicas int }
	}
	return json.Unmarshal(object, &deployment) == nil && hasCondition("Available")(object) &&
		deployment.Status.ReadyReplicas == deployment.Spec.Replicas
}

// isOnEachNode reports whether a DaemonSet's pods are all ready.
func isOnEachNode(object []byte) bool {
	var set struct {
		Status struct{ DesiredNumberScheduled, NumberReady int }
	}
	return json.Unmarshal(object, &set) == nil &&
		set.Status.DesiredNumberScheduled > 0 && set.Status.NumberReady == set.Status.DesiredNumberScheduled
}
