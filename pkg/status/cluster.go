package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/addon"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// clusterLimit is how long the cluster may take to answer all requests together.
const clusterLimit = 5 * time.Second

// cluster is what was read of the cluster at one moment.
type cluster struct {
	nodes       []v1.Node
	pods        []v1.Pod
	addons      []addon.Addon
	deployments []appsv1.Deployment // of kube-system
	daemonsets  []appsv1.DaemonSet  // of kube-system
	snapshots   []snapshotObject
	charts      []chartObject
}

// snapshotObject is what a Snapshot of kedge.io says of itself. Sizes and times
// stand in one of several places, as in k3s's ETCDSnapshotFile.
type snapshotObject struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		SnapshotName string `json:"snapshotName"`
		Name         string `json:"name"`
	} `json:"spec"`
	Status struct {
		Size         json.RawMessage `json:"size"`
		CreationTime *metav1.Time    `json:"creationTime"`
		Created      *metav1.Time    `json:"created"`
		Message      string          `json:"message"` // what is wrong with it
	} `json:"status"`
}

// chartObject is what a HelmChart says of itself.
type chartObject struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Status   struct {
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

// Connect makes a client of the cluster that a kubeconfig names. Each request is
// answered within limit, or fails.
func Connect(kubeconfig string, limit time.Duration) (*rest.Config, kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.QPS = -1
	config.Timeout = limit
	typed := rest.CopyConfig(config)
	typed.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(typed)
	if err != nil {
		return nil, nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return config, client, nil
}

// readCluster reads what may be read with a kubeconfig. All is of a server; of an
// agent's node, only it and its pods.
func readCluster(ctx context.Context, kubeconfig, node string, all bool) (*cluster, error) {
	_, client, err := Connect(kubeconfig, clusterLimit)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, clusterLimit)
	defer cancel()
	c := &cluster{}
	group, ctx := errgroup.WithContext(ctx)
	// Version 0 is answered from the apiserver's memory.
	fresh := metav1.ListOptions{ResourceVersion: "0"}
	mine := fresh
	if !all {
		mine.FieldSelector = "spec.nodeName=" + node
	}
	group.Go(func() error {
		list, err := client.CoreV1().Nodes().List(ctx, fresh)
		if err == nil {
			c.nodes = list.Items
		}
		return err
	})
	group.Go(func() error {
		list, err := client.CoreV1().Pods("").List(ctx, mine)
		if err == nil {
			c.pods = list.Items
		}
		return err
	})
	if all {
		group.Go(func() error {
			list, err := client.AppsV1().Deployments(metav1.NamespaceSystem).List(ctx, fresh)
			if err == nil {
				c.deployments = list.Items
			}
			return err
		})
		group.Go(func() error {
			list, err := client.AppsV1().DaemonSets(metav1.NamespaceSystem).List(ctx, fresh)
			if err == nil {
				c.daemonsets = list.Items
			}
			return err
		})
		group.Go(func() (err error) {
			c.addons, err = listCustom[addon.Addon](ctx, client, "/apis/kedge.io/v1/namespaces/kube-system/addons")
			return err
		})
		group.Go(func() (err error) {
			c.snapshots, err = listCustom[snapshotObject](ctx, client, "/apis/kedge.io/v1/snapshots")
			return err
		})
		group.Go(func() (err error) {
			c.charts, err = listCustom[chartObject](ctx, client, "/apis/helm.cattle.io/v1/helmcharts")
			return err
		})
	}
	return c, group.Wait()
}

// listCustom lists objects of a kind that the cluster may not have.
func listCustom[T any](ctx context.Context, client kubernetes.Interface, path string) ([]T, error) {
	body, err := client.Discovery().RESTClient().Get().AbsPath(path).
		Param("resourceVersion", "0").SetHeader("Accept", "application/json").Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []T `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return list.Items, nil
}

// judge fills the report from what was read of the cluster.
func (r *Report) judge(c *cluster, now time.Time) {
	r.judgeNodes(c, now)
	r.judgeAddOns(c)
	r.judgePods(c, now)
	for _, chart := range c.charts {
		for _, cond := range chart.Status.Conditions {
			if cond.Type == "Failed" && cond.Status == metav1.ConditionTrue {
				r.wrong(fmt.Sprintf("chart %s/%s is not installed: %s", chart.Metadata.Namespace, chart.Metadata.Name, short(cond.Message)),
					fmt.Sprintf("kedge kubectl describe helmchart -n %s %s", chart.Metadata.Namespace, chart.Metadata.Name))
			}
		}
	}
	for _, s := range c.snapshots {
		r.takeSnapshot(s)
	}
	if r.Snapshot != nil && r.Snapshot.Message != "" {
		r.wrong("the last snapshot, "+r.Snapshot.Name+", is not as it should be: "+short(r.Snapshot.Message), "take another; Kedge's log says more")
	}
}

// takeSnapshot keeps the snapshot if it is the newest so far.
func (r *Report) takeSnapshot(s snapshotObject) {
	created := s.Metadata.CreationTimestamp.Time
	for _, t := range []*metav1.Time{s.Status.CreationTime, s.Status.Created} {
		if t != nil {
			created = t.Time
		}
	}
	if r.Snapshot != nil && !created.After(r.Snapshot.Created) {
		return
	}
	r.Snapshot = &Snapshot{
		Name:    cmp.Or(s.Spec.SnapshotName, s.Spec.Name, s.Metadata.Name),
		Created: created,
		Bytes:   sizeOf(s.Status.Size),
		Message: s.Status.Message,
	}
}

// sizeOf reads a number of bytes, as such or as a quantity's text.
func sizeOf(raw json.RawMessage) int64 {
	var bytes int64
	if json.Unmarshal(raw, &bytes) == nil {
		return bytes
	}
	return parseQuantity(strings.Trim(string(raw), `"`))
}

func (r *Report) judgeNodes(c *cluster, now time.Time) {
	running := map[string]int{}
	for i := range c.pods {
		if phase := c.pods[i].Status.Phase; phase != v1.PodSucceeded && phase != v1.PodFailed {
			running[c.pods[i].Spec.NodeName]++
		}
	}
	known := r.Node == ""
	for i := range c.nodes {
		n := &c.nodes[i]
		known = known || n.Name == r.Node
		if r.Role == "agent" && n.Name != r.Node {
			continue // whose pods it does not know
		}
		node := describeNode(n)
		node.Pods = running[n.Name]
		r.Nodes = append(r.Nodes, node)
		if !node.Ready {
			r.wrong(fmt.Sprintf("node %s is not Ready%s", n.Name, whyNotReady(n, now)), adviceNotReady(n, r.Node))
		}
		for _, cond := range n.Status.Conditions {
			if what, do := pressure(n.Name, cond); what != "" {
				r.wrong(what, do)
			}
		}
		r.judgeVersion(n)
	}
	slices.SortFunc(r.Nodes, func(a, b Node) int {
		return cmp.Or(strings.Compare(b.Roles, a.Roles), strings.Compare(a.Name, b.Name))
	})
	if !known {
		r.wrong("node "+r.Node+" is not in the cluster: somebody has deleted it, or it has not registered yet", "when it stays away, restart Kedge here")
	}
}

func describeNode(n *v1.Node) Node {
	node := Node{Name: n.Name, Status: "NotReady", Version: n.Status.NodeInfo.KubeletVersion, Created: n.CreationTimestamp.Time}
	if ready := nodeCondition(n, v1.NodeReady); ready != nil && ready.Status == v1.ConditionTrue {
		node.Ready, node.Status = true, "Ready"
	}
	if n.Spec.Unschedulable {
		node.Status += ",SchedulingDisabled"
	}
	var roles []string
	for label := range n.Labels {
		if role, ok := strings.CutPrefix(label, "node-role.kubernetes.io/"); ok {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	node.Roles = strings.Join(roles, ",")
	for _, a := range n.Status.Addresses {
		if a.Type == v1.NodeInternalIP && node.Address == "" {
			node.Address = a.Address
		}
	}
	node.MaxPods = n.Status.Allocatable.Pods().Value()
	return node
}

func nodeCondition(n *v1.Node, kind v1.NodeConditionType) *v1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == kind {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func whyNotReady(n *v1.Node, now time.Time) string {
	c := nodeCondition(n, v1.NodeReady)
	switch {
	case c == nil:
		return ": its kubelet has not reported yet"
	case c.Status == v1.ConditionUnknown:
		return ": nothing was heard of it for " + age(now.Sub(c.LastHeartbeatTime.Time))
	}
	return ": " + short(c.Message)
}

func adviceNotReady(n *v1.Node, own string) string {
	if n.Name == own {
		return "Kedge's log on this machine says more; kedge doctor looks for the cause"
	}
	if c := nodeCondition(n, v1.NodeReady); c != nil && c.Status == v1.ConditionUnknown {
		return fmt.Sprintf("start the machine, and Kedge on it (kedge status there says how it is); if it is gone for good: kedge kubectl delete node %s", n.Name)
	}
	return "run kedge doctor on that machine"
}

// pressure says what a node lacks.
func pressure(node string, c v1.NodeCondition) (what, do string) {
	if c.Status != v1.ConditionTrue {
		return "", ""
	}
	switch c.Type {
	case v1.NodeDiskPressure:
		return "node " + node + " has too little disk space: it removes images and evicts pods", "free some space there; to see what takes it: du -xh /var/lib/kedge | sort -h | tail"
	case v1.NodeMemoryPressure:
		return "node " + node + " has too little memory: it evicts pods", "see which pods take it: kedge kubectl top pods -A --sort-by=memory; give them limits, or the machine more memory"
	case v1.NodePIDPressure:
		return "node " + node + " has too many processes: it evicts pods", "see which pods have them: kedge crictl stats there"
	}
	return "", ""
}

// judgeVersion compares a kubelet's version with this program's: it may be older,
// by three minor versions at most, and not newer than the apiserver.
// https://kubernetes.io/releases/version-skew-policy/
func (r *Report) judgeVersion(n *v1.Node) {
	if r.Role == "server" && version.NewerMinor(n.Status.NodeInfo.KubeletVersion, r.Version) {
		r.wrong(fmt.Sprintf("node %s runs %s, which is newer than this server, %s", n.Name, n.Status.NodeInfo.KubeletVersion, r.Version),
			"upgrade the servers first: put the newer kedge in place here and restart it")
	}
}

// judgeAddOns lists what comes with Kedge, and what of the user's is not applied.
func (r *Report) judgeAddOns(c *cluster) {
	missing := map[string]string{} // by kind/name: what of it is not there
	for _, d := range c.deployments {
		if want := replicas(d.Spec.Replicas); d.Status.AvailableReplicas < want {
			missing["Deployment/"+d.Name] = fmt.Sprintf("%d of %d pods available", d.Status.AvailableReplicas, want)
		}
	}
	for _, d := range c.daemonsets {
		if d.Status.NumberAvailable < d.Status.DesiredNumberScheduled {
			missing["DaemonSet/"+d.Name] = fmt.Sprintf("%d of %d pods available", d.Status.NumberAvailable, d.Status.DesiredNumberScheduled)
		}
	}
	for i := range c.addons {
		a := &c.addons[i]
		var ready metav1.Condition
		for _, cond := range a.Status.Conditions {
			if cond.Type == "Ready" {
				ready = cond
			}
		}
		add := AddOn{Name: a.Name, State: addOnReady}
		switch {
		case ready.Status == metav1.ConditionUnknown && ready.Reason == "Skipped":
			add.State, add.Message = addOnSkipped, short(ready.Message)
		case ready.Status == metav1.ConditionFalse && ready.Reason == "Applying", ready.Type == "":
			add.State, add.Message = addOnStarting, "being applied"
		case ready.Status == metav1.ConditionFalse:
			add.State, add.Message = addOnFailed, short(ready.Message)
			r.wrong(fmt.Sprintf("manifest %s is not applied as it should be: %s", a.Spec.Source, add.Message),
				"correct the file in server/manifests of the data directory; it is tried again by itself")
		default:
			for _, ref := range a.Status.Objects {
				if text := missing[ref.Kind+"/"+ref.Name]; text != "" && ref.Namespace == metav1.NamespaceSystem {
					add.State, add.Message = addOnStarting, text
				}
			}
		}
		if a.Spec.Packaged || add.State == addOnFailed {
			r.AddOns = append(r.AddOns, add)
		}
	}
	slices.SortFunc(r.AddOns, func(a, b AddOn) int { return strings.Compare(a.Name, b.Name) })
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// judgePods counts pods, and says of each that is not well what is wrong. Pods
// of one owner with the same trouble are one problem.
func (r *Report) judgePods(c *cluster, now time.Time) {
	r.Pods = &Pods{}
	type trouble struct {
		Problem
		count int
	}
	var order []string
	troubles := map[string]*trouble{}
	notReady := map[string]bool{}
	for _, n := range r.Nodes {
		notReady[n.Name] = !n.Ready
	}
	for i := range c.pods {
		pod := &c.pods[i]
		state, why, do := ExplainPod(pod, now)
		switch state {
		case PodReady:
			r.Pods.Ready++
		case PodStarting:
			r.Pods.Starting++
		case PodEnded:
			r.Pods.Ended++
		case PodWrong:
			r.Pods.Wrong++
			if notReady[pod.Spec.NodeName] && pod.Spec.NodeName != "" {
				continue // the node is the problem
			}
			key := pod.Namespace + "/" + owner(pod) + " " + why
			if troubles[key] == nil {
				troubles[key] = &trouble{Problem: Problem{What: fmt.Sprintf("pod %s/%s %s", pod.Namespace, pod.Name, why), Do: do, Pod: pod.Namespace + "/" + pod.Name}}
				order = append(order, key)
			}
			troubles[key].count++
		}
	}
	for _, key := range order {
		t := troubles[key]
		if t.count > 1 {
			t.What += fmt.Sprintf(" (and %d more like it)", t.count-1)
		}
		r.Problems = append(r.Problems, t.Problem)
	}
}

// owner is what pods that are alike have in common.
func owner(pod *v1.Pod) string {
	for _, o := range pod.OwnerReferences {
		return string(o.UID)
	}
	return pod.Name
}

// explainCluster says why nothing could be read of the cluster.
func (r *Report) explainCluster(err error) {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		r.wrong("the Kubernetes API has not answered within "+clusterLimit.String(), "look at Kedge's log; is the machine out of memory, or its disk slow? kedge doctor measures it")
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		r.wrong("this machine may not read the cluster: "+short(err.Error()), "kedge certificate check lists what it is known by; restarting Kedge makes that anew")
	case r.Role == "agent":
		r.wrong("no server of the cluster answers: "+short(err.Error()), "look whether the servers run and can be reached from here; pods go on meanwhile")
	default:
		r.wrong("the Kubernetes API does not answer: "+short(err.Error()), "look at Kedge's log; when it says nothing, restart Kedge: pods go on meanwhile")
	}
}
