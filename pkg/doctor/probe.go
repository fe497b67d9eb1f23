package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/utils/ptr"

	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/status"
)

const (
	probePort = "10080"
	// probeLife ends a probe whose doctor has died.
	probeLife     = 3 * time.Minute
	probeStart    = 25 * time.Second
	probeAnswer   = 15 * time.Second
	probeInterval = 200 * time.Millisecond
	// maxProbes is how many nodes get a probe: each connects to all others.
	maxProbes = 20
	// probeClock is what starting a command in a pod adds to clockTolerance.
	probeClock = clockTolerance + time.Second
)

var probeLabels = map[string]string{"app.kubernetes.io/name": "kedge-doctor"}

// probed is what a probe prints; see cmd/addons.
type probed struct {
	Time    time.Time `json:"time"`
	Answers []struct {
		Target string  `json:"target"`
		Detail string  `json:"detail"`
		Error  string  `json:"error"`
		Millis float64 `json:"millis"`
	} `json:"answers"`
}

// checkPodNetwork runs a pod on each node, and lets each resolve names and connect
// to all others.
func (d *Doctor) checkPodNetwork(ctx context.Context) []hostcheck.Finding {
	if !d.running || d.self.Role != "server" {
		return nil
	}
	if d.client == nil {
		return []hostcheck.Finding{unknownf("pods", "the cluster can't be asked")}
	}
	image, err := d.probeImage(ctx)
	if err != nil || image == "" {
		return []hostcheck.Finding{unknownf("pods", "no packaged add-on is deployed whose image the nodes have: nothing to try it with (%v)", err)}
	}
	nodes, err := d.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return []hostcheck.Finding{unknownf("pods", "%v", err)}
	}
	var pods []*corev1.Pod
	run := strings.ToLower(rand.Text()[:6])
	for i := range nodes.Items {
		if n := &nodes.Items[i]; ready(n) && len(pods) < maxProbes {
			pods = append(pods, probePod(fmt.Sprintf("kedge-doctor-%s-%d", run, i), n.Name, image))
		}
	}
	defer d.removeProbes(ctx)
	found, pods := d.startProbes(ctx, pods)
	return append(found, d.askProbes(ctx, pods)...)
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// probeImage is the packaged add-ons' image, under the name that it has here.
func (d *Doctor) probeImage(ctx context.Context) (string, error) {
	deployments, err := d.client.AppsV1().Deployments(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	daemonsets, err := d.client.AppsV1().DaemonSets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	var containers []corev1.Container
	for _, o := range deployments.Items {
		containers = append(containers, o.Spec.Template.Spec.Containers...)
	}
	for _, o := range daemonsets.Items {
		containers = append(containers, o.Spec.Template.Spec.Containers...)
	}
	for _, c := range containers {
		if strings.Contains(c.Image, "kedge.io/addons:") {
			return c.Image, nil
		}
	}
	return "", nil
}

func probePod(name, node, image string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem, Labels: probeLabels},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			RestartPolicy:                 corev1.RestartPolicyNever,
			ActiveDeadlineSeconds:         ptr.To(int64(probeLife / time.Second)),
			TerminationGracePeriodSeconds: ptr.To(int64(0)),
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot:   ptr.To(true),
				RunAsUser:      ptr.To(int64(65534)),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name:            "probe",
				Image:           image,
				ImagePullPolicy: corev1.PullIfNotPresent,
				Command:         []string{"/addons", "probe", "serve", ":" + probePort},
				ReadinessProbe: &corev1.Probe{
					ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.Parse(probePort)}},
					PeriodSeconds: 1,
				},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: ptr.To(false),
					ReadOnlyRootFilesystem:   ptr.To(true),
					Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

// startProbes returns the probes that run, with their addresses, and what is wrong
// with the others.
func (d *Doctor) startProbes(ctx context.Context, pods []*corev1.Pod) (found []hostcheck.Finding, running []*corev1.Pod) {
	results := make([]hostcheck.Finding, len(pods))
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() { results[i] = d.startProbe(ctx, pods[i]) })
	}
	wg.Wait()
	for i, f := range results {
		found = append(found, f)
		if f.Level == hostcheck.OK {
			running = append(running, pods[i])
		}
	}
	return found, running
}

// startProbe makes a pod and waits until it is ready; the pod is then up to date.
func (d *Doctor) startProbe(ctx context.Context, pod *corev1.Pod) hostcheck.Finding {
	name := "pod on " + pod.Spec.NodeName
	began := time.Now()
	pods := d.client.CoreV1().Pods(pod.Namespace)
	made, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return warning(name, "a pod can't be made: "+err.Error(), "the message says what forbids it")
	}
	*pod = *made
	err = wait.PollUntilContextTimeout(ctx, probeInterval, probeStart, true, func(ctx context.Context) (bool, error) {
		if seen, err := pods.Get(ctx, pod.Name, metav1.GetOptions{}); err == nil {
			*pod = *seen
		}
		over := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
		return over || podReady(pod), nil
	})
	if err == nil && podReady(pod) {
		return okf(name, "started in %.1f s", time.Since(began).Seconds())
	}
	why := "it is " + string(pod.Status.Phase)
	if _, text, _ := status.ExplainPod(pod, time.Now().Add(time.Hour)); text != "" {
		why = "it " + text
	}
	if event := lastWarnings(ctx, d.client)[pod.Namespace+"/"+pod.Name]; event != "" {
		why = event
	}
	return warning(name, fmt.Sprintf("a pod does not start on %s within %s: %s", pod.Spec.NodeName, probeStart, why), "look at Kedge's log on that node")
}

func podReady(pod *corev1.Pod) bool {
	state, _, _ := status.ExplainPod(pod, time.Now())
	return state == status.PodReady
}

// removeProbes removes all probes, those of earlier doctors too.
func (d *Doctor) removeProbes(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestLimit)
	defer cancel()
	selector := metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: probeLabels})
	_ = d.client.CoreV1().Pods(metav1.NamespaceSystem).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: selector})
}

// askProbes lets each probe ask its questions, and judges the answers.
func (d *Doctor) askProbes(ctx context.Context, pods []*corev1.Pod) []hostcheck.Finding {
	lists := make([][]hostcheck.Finding, len(pods))
	var wg sync.WaitGroup
	for i, pod := range pods {
		wg.Go(func() {
			questions, about := d.questions(pod, pods)
			before := time.Now()
			answers, err := d.exec(ctx, pod, append([]string{"/addons", "probe", "ask"}, questions...))
			if err != nil {
				lists[i] = []hostcheck.Finding{warning("from "+pod.Spec.NodeName, "a command can't be run in a pod there: "+err.Error(), "kubectl exec fails in the same way; look at the lines above and at Kedge's log on that node")}
				return
			}
			lists[i] = judgeAnswers(pod.Spec.NodeName, answers, about)
			middle := before.Add(time.Since(before) / 2)
			lists[i] = append(lists[i], clockFinding("clock of "+pod.Spec.NodeName, "this server's", answers.Time.Sub(middle), probeClock))
		})
	}
	wg.Wait()
	return slices.Concat(lists...)
}

// question is what a probe's answer is about, and what to do if it is none.
type question struct {
	about, wrong, fix string
	// may says that no answer can be right, too.
	may bool
}

// questions are what a probe asks.
func (d *Doctor) questions(pod *corev1.Pod, pods []*corev1.Pod) (targets []string, about map[string]question) {
	about = map[string]question{}
	ask := func(target string, q question) {
		targets = append(targets, target)
		about[target] = q
	}
	ask("name:kubernetes.default.svc."+d.self.Network.Domain+".", question{
		about: "cluster names", wrong: "names of Services can't be resolved",
		fix: "is CoreDNS running (kedge kubectl get pods -n kube-system -l k8s-app=kube-dns)? If it does, and pods of one node only fail, packets between nodes are lost: see the connections below",
	})
	ask("zone:.", question{
		may: true, about: "names outside", wrong: "names outside the cluster can't be resolved",
		fix: "that is right where there is no network outside; otherwise see which nameservers pods get: --resolv-conf, and /etc/resolv.conf of the node that CoreDNS runs on",
	})
	ask("dial:"+net.JoinHostPort(serviceAddress(d), "443"), question{
		about: "API", wrong: "the Kubernetes API can't be reached at its Service's address",
		fix: "kube-proxy serves it: look for it in Kedge's log on that node, and for rules of a firewall that drop it",
	})
	for _, other := range pods {
		if other == pod || other.Status.PodIP == "" {
			continue
		}
		ask("dial:"+net.JoinHostPort(other.Status.PodIP, probePort), question{
			about: "pods on " + other.Spec.NodeName, wrong: "pods of node " + other.Spec.NodeName + " can't be reached",
			fix: fmt.Sprintf("let the nodes exchange packets of the pod network (%s) in both directions: kedge check-config says which port, and what opens the firewall", d.self.Network.Backend),
		})
	}
	return targets, about
}

// serviceAddress is that of the Service kubernetes: the first of the range.
func serviceAddress(d *Doctor) string {
	if len(d.self.Network.ServiceCIDRs) == 0 {
		return "127.0.0.1"
	}
	return d.self.Network.ServiceCIDRs[0].Masked().Addr().Next().String()
}

// judgeAnswers makes findings of what a probe on a node says.
func judgeAnswers(node string, answers probed, about map[string]question) []hostcheck.Finding {
	var found []hostcheck.Finding
	for _, a := range answers.Answers {
		q, known := about[a.Target]
		if !known {
			continue
		}
		name := node + ": " + q.about
		switch {
		case a.Error == "" && a.Detail != "":
			found = append(found, okf(name, "%s, in %.1f ms", a.Detail, a.Millis))
		case a.Error == "":
			found = append(found, okf(name, "answer in %.1f ms", a.Millis))
		default:
			f := warning(name, "from pods of node "+node+", "+q.wrong+": "+oneLine(a.Error), q.fix)
			if q.may {
				f.Level = hostcheck.Unknown
			}
			found = append(found, f)
		}
	}
	return found
}

// exec runs a command of a probe and reads what it prints.
func (d *Doctor) exec(ctx context.Context, pod *corev1.Pod, command []string) (probed, error) {
	ctx, cancel := context.WithTimeout(ctx, probeAnswer)
	defer cancel()
	var answers probed
	request := d.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "probe", Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(d.rest, "GET", request.URL().String())
	if err != nil {
		return answers, err
	}
	var out, errOut bytes.Buffer
	if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}); err != nil {
		return answers, fmt.Errorf("%w %s", err, oneLine(errOut.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &answers); err != nil {
		return answers, fmt.Errorf("read its answer: %w", err)
	}
	return answers, nil
}
