// Package drain has the pods of this machine's node leave it, and lets pods come
// back, by no other rights than the node has itself.
package drain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubectl/pkg/drain"
)

const (
	// DefaultTimeout is how long pods may take to leave, unless said otherwise.
	DefaultTimeout = 5 * time.Minute

	evictRetry    = 5 * time.Second
	cordonRetry   = time.Second
	uncordonLimit = 2 * time.Minute
	lookLimit     = 20 * time.Second
)

// Options are those of kubectl drain.
type Options struct {
	Timeout            time.Duration `json:"timeout"`     // 0: none
	GracePeriodSeconds int           `json:"gracePeriod"` // negative: each pod's own
	IgnoreDaemonSets   bool          `json:"ignoreDaemonSets"`
	DeleteEmptyDirData bool          `json:"deleteEmptyDirData"`
	Force              bool          `json:"force"` // pods that nobody makes again, too
	DisableEviction    bool          `json:"disableEviction"`
	PodSelector        string        `json:"podSelector"`
	// SkipWaitForDeleteTimeoutSeconds leaves pods that have been ending for longer.
	SkipWaitForDeleteTimeoutSeconds int `json:"skipWaitForDeleteTimeout"`
}

// Default are the options with which every pod leaves but those of DaemonSets.
func Default() Options {
	return Options{Timeout: DefaultTimeout, GracePeriodSeconds: -1, IgnoreDaemonSets: true, DeleteEmptyDirData: true, Force: true}
}

// Node is this machine's.
type Node struct {
	Name   string
	Client kubernetes.Interface
	Say    func(what, text string) // tells how it goes
}

// Connect makes a client that reads with one kubeconfig, of Kedge's parts on the
// node, and writes with another, of its kubelet, which may change its own node and
// evict its own pods only.
func Connect(reads, writes string) (kubernetes.Interface, error) {
	reader, _, err := transport(reads)
	if err != nil {
		return nil, err
	}
	writer, host, err := transport(writes)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfigAndClient(&rest.Config{Host: host, QPS: -1}, &http.Client{Transport: split{reader, writer}})
}

func transport(kubeconfig string) (t http.RoundTripper, host string, err error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, "", err
	}
	t, err = rest.TransportFor(config)
	return t, config.Host, err
}

// split sends requests as one identity or the other.
type split struct{ reads, writes http.RoundTripper }

func (s split) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		return s.reads.RoundTrip(r)
	}
	return s.writes.RoundTrip(r)
}

// Cordon keeps new pods off the node. It returns what undoes that, which does
// nothing for a node that took no pods before.
func (n *Node) Cordon(ctx context.Context) (undo func(context.Context), err error) {
	changed, err := n.schedulable(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("cordon the node %s: %w", n.Name, err)
	}
	if !changed {
		n.Say("cordon", n.Name+" takes no pods already, and will not after")
		return func(context.Context) {}, nil
	}
	n.Say("cordon", n.Name)
	return n.uncordon, nil
}

// Drain cordons the node, and has its pods leave. It returns what lets pods come
// back; where some don't leave in time that is done already, and the error names
// them.
func (n *Node) Drain(ctx context.Context, o Options) (undo func(context.Context), err error) {
	undo, err = n.Cordon(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.evict(ctx, o); err != nil {
		undo(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("drain the node %s: %w", n.Name, err)
	}
	n.Say("drained", n.Name)
	return undo, nil
}

// schedulable lets the scheduler give pods to the node, or not.
func (n *Node) schedulable(ctx context.Context, on bool) (changed bool, err error) {
	node, err := n.Client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil || node.Spec.Unschedulable == !on {
		return false, err
	}
	return true, drain.RunCordonOrUncordon(&drain.Helper{Ctx: ctx, Client: n.Client}, node, !on)
}

// uncordon lets pods come to the node again, as soon as a server can be asked.
func (n *Node) uncordon(ctx context.Context) {
	var last error
	err := wait.PollUntilContextTimeout(ctx, cordonRetry, uncordonLimit, true, func(ctx context.Context) (bool, error) {
		_, last = n.schedulable(ctx, true)
		return last == nil, nil
	})
	if err != nil {
		n.Say("warning", fmt.Sprintf("no pods come to the node until you type on a server: kedge kubectl uncordon %s: %v", n.Name, cmp.Or(last, err)))
		return
	}
	n.Say("uncordon", n.Name)
}

func (n *Node) evict(ctx context.Context, o Options) error {
	p := &progress{say: n.Say, told: map[string]bool{}}
	helper := &drain.Helper{
		Ctx:                             ctx,
		Client:                          n.Client,
		Timeout:                         o.Timeout,
		GracePeriodSeconds:              o.GracePeriodSeconds,
		IgnoreAllDaemonSets:             o.IgnoreDaemonSets,
		DeleteEmptyDirData:              o.DeleteEmptyDirData,
		Force:                           o.Force,
		DisableEviction:                 o.DisableEviction,
		PodSelector:                     o.PodSelector,
		SkipWaitForDeleteTimeoutSeconds: o.SkipWaitForDeleteTimeoutSeconds,
		EvictErrorRetryDelay:            evictRetry,
		Out:                             io.Discard, // each attempt
		ErrOut:                          p,
		OnPodDeletionOrEvictionStarted: func(pod *corev1.Pod, _ bool) {
			p.once("evict", name(pod))
		},
		OnPodDeletionOrEvictionFinished: func(pod *corev1.Pod, _ bool, err error) {
			if err == nil {
				p.once("gone", name(pod))
			}
		},
	}
	list, errs := helper.GetPodsForDeletion(n.Name)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	pods := list.Pods()
	err := helper.DeleteOrEvictPods(pods)
	if err == nil || ctx.Err() != nil {
		return cmp.Or(ctx.Err(), err)
	}
	if left := n.left(context.WithoutCancel(ctx), pods); len(left) > 0 {
		return fmt.Errorf("these pods did not leave within %s: %s", o.Timeout, strings.Join(left, "; "))
	}
	return err
}

func name(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

// left names those of the pods that are there still, and what keeps them.
func (n *Node) left(ctx context.Context, pods []corev1.Pod) (left []string) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	for i := range pods {
		pod, err := n.Client.CoreV1().Pods(pods[i].Namespace).Get(ctx, pods[i].Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) || err == nil && pod.UID != pods[i].UID:
		case err != nil:
			left = append(left, fmt.Sprintf("%s (%v)", name(&pods[i]), err))
		case pod.DeletionTimestamp != nil:
			left = append(left, name(pod)+" (it is ending)")
		default:
			left = append(left, name(pod)+n.why(ctx, pod))
		}
	}
	slices.Sort(left)
	return left
}

// why asks what keeps a pod, in brackets.
func (n *Node) why(ctx context.Context, pod *corev1.Pod) string {
	err := n.Client.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
		DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}},
	})
	if err == nil {
		return ""
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Details != nil {
		for _, cause := range status.Status().Details.Causes {
			if cause.Type == policyv1.DisruptionBudgetCause {
				return " (" + cause.Message + ")"
			}
		}
	}
	return " (" + err.Error() + ")"
}

// progress passes on what is new in what kubectl's library says, which repeats
// itself at each attempt.
type progress struct {
	say func(what, text string)

	mu   sync.Mutex
	told map[string]bool
}

func (p *progress) once(what, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.told[what+text] {
		p.told[what+text] = true
		p.say(what, text)
	}
}

// Write gets whole lines.
func (p *progress) Write(text []byte) (int, error) {
	p.once("waiting", strings.TrimSpace(string(text)))
	return len(text), nil
}
