package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/payload"
	"github.com/kedge-k8s/kedge/pkg/version"
)

const (
	announceInterval = 100 * time.Millisecond
	announceNotice   = 10 * time.Second
	announceLimit    = 5 * time.Minute
	settleTime       = 30 * time.Second
)

// announce waits until the node and the packaged pods are Ready, and then
// tells the person who started the server.
func (s *Server) announce(ctx context.Context, began time.Time) {
	ctx, cancel := context.WithTimeout(ctx, announceLimit)
	defer cancel()
	config, err := clientcmd.BuildConfigFromFlags("", s.layout.Kubeconfig("addons"))
	if err != nil {
		s.log.Error("watching the start-up fails", "err", err)
		return
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		s.log.Error("watching the start-up fails", "err", err)
		return
	}
	tick := time.NewTicker(announceInterval)
	defer tick.Stop()
	var nodeReady time.Duration
	lastNotice := time.Now()
	for {
		state := s.look(ctx, client)
		if state.node != nil && nodeReady == 0 && isNodeReady(state.node) {
			nodeReady = time.Since(began)
			s.log.Info("node is Ready", "node", s.config.Node.Name, "at", nodeReady.Round(time.Millisecond))
		}
		if state.missing == "" {
			s.gate.Open()
			s.print(state, time.Since(began))
			s.settle(ctx)
			return
		}
		if time.Since(lastNotice) > announceNotice {
			lastNotice = time.Now()
			s.log.Info("waiting", "for", state.missing)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.gate.Release()
				s.log.Warn("not everything is ready; look with: kedge kubectl get pods -A", "missing", state.missing, "limit", announceLimit)
			}
			return
		}
	}
}

// settle waits until controllers and pods have had their first half minute, and
// then gives back the memory that only that took, and the disk space of other
// versions' payloads that nothing runs from.
func (s *Server) settle(ctx context.Context) {
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
		return
	}
	if err := trimMemory(); err != nil {
		s.log.Debug("memory of the start-up is not given back", "err", err)
	}
	removed, err := payload.RemoveOld(s.config.Paths.DataDir, s.payload)
	if err != nil {
		s.log.Warn("old versions stay on disk", "err", err)
	}
	for _, dir := range removed {
		s.log.Info("removed an old version's programs", "dir", dir)
	}
}

// clusterState is one look at the start-up.
type clusterState struct {
	node    *v1.Node
	pods    []v1.Pod
	missing string // what is not ready yet; empty: nothing
}

func (s *Server) look(ctx context.Context, client kubernetes.Interface) clusterState {
	var state clusterState
	node, err := client.CoreV1().Nodes().Get(ctx, s.config.Node.Name, metav1.GetOptions{})
	if err != nil {
		state.missing = fmt.Sprintf("node %s: %v", s.config.Node.Name, err)
		return state
	}
	state.node = node
	pods, err := client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		state.missing = fmt.Sprintf("pods of kube-system: %v", err)
		return state
	}
	state.pods = pods.Items
	var missing []string
	if !isNodeReady(node) {
		missing = append(missing, "node "+node.Name+" ("+whyNotReady(node)+")")
	}
	deployments, err := client.AppsV1().Deployments(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		state.missing = fmt.Sprintf("deployments of kube-system: %v", err)
		return state
	}
	found := map[string]bool{}
	for _, d := range deployments.Items {
		found[d.Name] = true
		if d.Spec.Replicas != nil && d.Status.ReadyReplicas < *d.Spec.Replicas {
			missing = append(missing, "deployment "+d.Name)
		}
	}
	for _, name := range s.expectedDeployments() {
		if !found[name] {
			missing = append(missing, "deployment "+name)
		}
	}
	state.missing = strings.Join(missing, ", ")
	return state
}

func (s *Server) expectedDeployments() []string {
	for _, name := range s.config.AddOns.Disabled {
		if name == "coredns" {
			return nil
		}
	}
	return []string{"coredns"}
}

func isNodeReady(node *v1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func whyNotReady(node *v1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Message
		}
	}
	return "its kubelet has not reported"
}

func (s *Server) print(state clusterState, took time.Duration) {
	fmt.Fprintf(s.out, "\nKedge %s is ready after %.1f s.\n\n", version.String(), took.Seconds())
	w := tabwriter.NewWriter(s.out, 2, 8, 2, ' ', 0)
	fmt.Fprintf(w, "  node\t%s\tReady\t%s\n", state.node.Name, s.addresses[0])
	for _, pod := range state.pods {
		fmt.Fprintf(w, "  pod\t%s/%s\t%s\t%s\n", pod.Namespace, pod.Name, pod.Status.Phase, pod.Status.PodIP)
	}
	_ = w.Flush()
	fmt.Fprintf(s.out, `
What to type next, in another terminal:

  sudo kedge kubectl get nodes
  sudo kedge kubectl create deployment web --image=nginx --port=80
  sudo kedge kubectl expose deployment web

The cluster's kubeconfig is %s. Ctrl-C stops Kedge; pods keep running.

`, s.config.Kubeconfig.Path)
}
