package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

const (
	podsNamespace = "bench-pods"
	manyPods      = 30
	pauseImage    = "kedge.io/pause:1"
)

// measurePods measures Deployments of one pod and of many. The many are left
// running.
func (r *run) measurePods(ctx context.Context) error {
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := createNamespace(ctx, client, podsNamespace); err != nil {
		return err
	}
	for _, measure := range []struct {
		key      string
		replicas int
	}{{"pod", 1}, {"pods", manyPods}} {
		took, err := deploy(ctx, client, measure.replicas)
		if err != nil {
			return err
		}
		r.record(measure.key, took.Seconds())
	}
	found, err := processesOf(r.side.PIDs()[0])
	if err != nil {
		return err
	}
	stack, err := memoryOf(found.stack)
	if err != nil {
		return err
	}
	r.record("pods-pss", stack.pss)
	return nil
}

// deploy applies a Deployment and waits until all its pods are Ready.
func deploy(ctx context.Context, client *cluster.Client, replicas int) (time.Duration, error) {
	name := fmt.Sprintf("pause-%d", replicas)
	began := time.Now()
	if err := client.Apply(ctx, deployment(name, replicas, nil)); err != nil {
		return 0, err
	}
	err := waitDeployment(ctx, client, name, replicas)
	return time.Since(began), err
}

// deployment is one whose pods do nothing, on nodes with the labels.
func deployment(name string, replicas int, nodes cluster.Object) cluster.Object {
	labels := cluster.Object{"app": name}
	return cluster.Object{
		"apiVersion": "apps/v1",
		"kind":       "Deployment",
		"metadata":   cluster.Object{"name": name, "namespace": podsNamespace},
		"spec": cluster.Object{
			"replicas": replicas,
			"selector": cluster.Object{"matchLabels": labels},
			"template": cluster.Object{
				"metadata": cluster.Object{"labels": labels},
				"spec": cluster.Object{
					"nodeSelector": nodes,
					"containers":   []cluster.Object{{"name": "pause", "image": pauseImage}},
				},
			},
		},
	}
}

// waitDeployment waits until all of a Deployment's pods are Ready.
func waitDeployment(ctx context.Context, client *cluster.Client, name string, replicas int) error {
	return client.WaitObject(ctx, "/apis/apps/v1/namespaces/"+podsNamespace+"/deployments", name, func(object []byte) bool {
		var deployment struct {
			Status struct{ ReadyReplicas int }
		}
		return json.Unmarshal(object, &deployment) == nil && deployment.Status.ReadyReplicas == replicas
	})
}
