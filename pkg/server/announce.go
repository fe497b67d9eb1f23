package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/flannel"
	"github.com/kedge-k8s/kedge/pkg/node"
	"github.com/kedge-k8s/kedge/pkg/version"
)

const (
	announceInterval = 100 * time.Millisecond
	announceNotice   = 10 * time.Second
	announceLimit    = 5 * time.Minute
)

// announce waits until the node and the packaged pods are Ready, and then
// tells the person who started the server.
func (s *Server) announce(ctx context.Context, began time.Time) {
	run := ctx
	ctx, cancel := context.WithTimeout(run, announceLimit)
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
	ready := sync.OnceFunc(s.Ready)
	if s.config.DisableAgent || s.config.Network.FlannelBackend == flannel.None {
		ready() // the node gets Ready when somebody else brings a pod network
	}
	var nodeReady time.Duration
	lastNotice := time.Now()
	for {
		state := s.look(ctx, client)
		if state.node != nil && nodeReady == 0 && node.IsReady(state.node) {
			nodeReady = time.Since(began)
			s.log.Info("node is Ready", "node", s.node.Name(), "at", nodeReady.Round(time.Millisecond))
			ready()
		}
		if state.missing == "" {
			s.gate.Open()
			s.print(state, time.Since(began))
			s.node.Settle(ctx)
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
				if node.UntilReady(run, s.layout.Kubeconfig("addons"), s.node.Name(), s.log) == nil {
					ready()
				}
			}
			return
		}
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
	if s.config.DisableAgent {
		return state // what is to run waits for agents
	}
	var missing []string
	n, err := client.CoreV1().Nodes().Get(ctx, s.node.Name(), metav1.GetOptions{})
	if err != nil {
		state.missing = fmt.Sprintf("node %s: %v", s.node.Name(), err)
		return state
	}
	state.node = n
	if !node.IsReady(n) {
		missing = append(missing, "node "+n.Name+" ("+node.WhyNotReady(n)+")")
	}
	pods, err := client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		state.missing = fmt.Sprintf("pods of kube-system: %v", err)
		return state
	}
	state.pods = pods.Items
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

func (s *Server) print(state clusterState, took time.Duration) {
	fmt.Fprintf(s.out, "\nKedge %s is ready after %.1f s.\n\n", version.String(), took.Seconds())
	w := tabwriter.NewWriter(s.out, 2, 8, 2, ' ', 0)
	if state.node != nil {
		fmt.Fprintf(w, "  node\t%s\tReady\t%s\n", state.node.Name, s.node.Addresses()[0])
	}
	for _, pod := range state.pods {
		fmt.Fprintf(w, "  pod\t%s/%s\t%s\t%s\n", pod.Namespace, pod.Name, pod.Status.Phase, pod.Status.PodIP)
	}
	_ = w.Flush()
	fmt.Fprintf(s.out, `
What to type next, in another terminal:

  sudo kedge kubectl get nodes
  sudo kedge kubectl create deployment web --image=nginx --port=80
  sudo kedge kubectl expose deployment web

To add a node, on another machine:

  sudo kedge agent --server %s --token-file FILE    # with the content of %s

The cluster's kubeconfig is %s. Ctrl-C stops Kedge; pods keep running.

`, "https://"+s.cluster().Servers[0], s.config.Paths.NodeToken(), s.config.Kubeconfig.Path)
}
