package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"
)

const (
	readyLimit  = 5 * time.Minute
	readyNotice = 10 * time.Second
)

// IsReady says whether a node takes pods.
func IsReady(node *v1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// WhyNotReady is what a node's kubelet says of itself.
func WhyNotReady(node *v1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Message
		}
	}
	return "its kubelet has not reported"
}

// WaitReady returns nil once the named node is Ready, and says now and then what
// it waits for.
func WaitReady(ctx context.Context, kubeconfig, name string, log *slog.Logger) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	why := "it has not registered"
	lastNotice := time.Now()
	nodes := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector("metadata.name", name))
	_, err = watchtools.UntilWithSync(limited, nodes, &v1.Node{}, nil, func(event watch.Event) (bool, error) {
		node, ok := event.Object.(*v1.Node)
		if !ok || event.Type == watch.Deleted {
			return false, nil
		}
		why = WhyNotReady(node)
		if time.Since(lastNotice) > readyNotice {
			lastNotice = time.Now()
			log.Info("waiting", "for", "node "+name, "state", why)
		}
		return IsReady(node), nil
	})
	if err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("node %s is not Ready after %s: %s", name, readyLimit, why)
	}
	return err
}

// readyPause is between two attempts to wait for a node.
const readyPause = 5 * time.Second

// UntilReady is WaitReady without a limit but ctx's.
func UntilReady(ctx context.Context, kubeconfig, name string, log *slog.Logger) error {
	for {
		err := WaitReady(ctx, kubeconfig, name, log)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(readyPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
