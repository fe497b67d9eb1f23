package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// How long something may take before it counts as wrong.
const (
	scheduleGrace  = 15 * time.Second
	startGrace     = time.Minute
	readyGrace     = time.Minute
	terminateGrace = 2 * time.Minute
)

// PodState is how a pod is.
type PodState int

// The states of a pod.
const (
	PodReady    PodState = iota
	PodStarting          // or ending: nothing seems to be wrong
	PodEnded
	PodWrong
)

// ExplainPod says how a pod is and, where that is wrong, why in words and what to
// do about it.
func ExplainPod(pod *v1.Pod, now time.Time) (state PodState, why, do string) {
	describe := fmt.Sprintf("kedge kubectl describe pod -n %s %s", pod.Namespace, pod.Name)
	switch {
	case pod.Status.Phase == v1.PodSucceeded, pod.Status.Phase == v1.PodFailed:
		return PodEnded, "", ""
	case pod.DeletionTimestamp != nil:
		// The timestamp includes the pod's grace period.
		if late := now.Sub(pod.DeletionTimestamp.Time); late > terminateGrace {
			why = "should have ended " + age(late) + " ago"
			return PodWrong, why, fmt.Sprintf("if its node %s is gone for good: kedge kubectl delete node %[1]s; otherwise look with: %s", pod.Spec.NodeName, describe)
		}
		return PodStarting, "", ""
	}
	if c := condition(pod, v1.PodScheduled); c != nil && c.Status == v1.ConditionFalse {
		if now.Sub(c.LastTransitionTime.Time) < scheduleGrace && c.Reason != v1.PodReasonSchedulingGated {
			return PodStarting, "", ""
		}
		why, do = explainUnschedulable(c, describe)
		return PodWrong, why, do
	}
	statuses := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
	for _, s := range statuses {
		if why, do := explainContainer(pod, s); why != "" {
			return PodWrong, why, do
		}
	}
	if ready := condition(pod, v1.PodReady); ready != nil && ready.Status == v1.ConditionTrue {
		return PodReady, "", ""
	}
	begun := pod.CreationTimestamp.Time
	if c := condition(pod, v1.PodScheduled); c != nil {
		begun = c.LastTransitionTime.Time
	}
	for _, s := range statuses {
		if s.State.Waiting != nil && now.Sub(begun) > startGrace && s.State.Waiting.Reason != "PodInitializing" {
			return PodWrong, fmt.Sprintf("has waited %s for container %s to start (%s)", age(now.Sub(begun)), s.Name, cmp.Or(s.State.Waiting.Reason, "no reason given")),
				"its events say why, a volume or network that is missing for one: " + describe
		}
	}
	if ready := condition(pod, v1.PodReady); ready != nil && pod.Status.Phase == v1.PodRunning {
		if since := now.Sub(ready.LastTransitionTime.Time); since > readyGrace {
			return PodWrong, fmt.Sprintf("runs, but has not been ready for %s%s", age(since), notReady(pod)),
				fmt.Sprintf("its readiness probe says why: %s; and its log: kedge kubectl logs -n %s %s", describe, pod.Namespace, pod.Name)
		}
	}
	if pod.Spec.NodeName != "" && len(statuses) == 0 && now.Sub(begun) > startGrace {
		return PodWrong, fmt.Sprintf("has waited %s for the kubelet of node %s", age(now.Sub(begun)), pod.Spec.NodeName),
			"look whether Kedge runs on that node: kedge status there"
	}
	return PodStarting, "", ""
}

func condition(pod *v1.Pod, kind v1.PodConditionType) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// explainUnschedulable says why no node takes a pod, by the scheduler's message.
func explainUnschedulable(c *v1.PodCondition, describe string) (why, do string) {
	if c.Reason == v1.PodReasonSchedulingGated {
		return "is held back by its scheduling gates", "what has set them must remove them; " + describe + " lists them"
	}
	message := strings.TrimSuffix(c.Message, ".")
	// The scheduler adds what it thinks of preemption and of resource claims.
	for _, rest := range []string{" preemption:", " no new claims to deallocate"} {
		message, _, _ = strings.Cut(message, rest)
	}
	message = strings.TrimRight(message, ".,")
	do = describe
	switch {
	case strings.Contains(message, "persistentvolumeclaim"), strings.Contains(message, "PersistentVolumeClaim"):
		do = "look at its claims: kedge kubectl get pvc -A"
	case strings.Contains(message, "Insufficient"):
		do = "lower its requests, remove other pods, or add a node; what nodes have left: kedge kubectl describe nodes"
	case strings.Contains(message, "Too many pods"):
		do = "add a node, or let a node take more pods with --kubelet-arg=max-pods=…"
	case strings.Contains(message, "untolerated taint"):
		do = "add a toleration to the pod, or take the taint off: kedge kubectl taint node NODE KEY- (nodes that are not Ready have one, too)"
	case strings.Contains(message, "unschedulable"):
		do = "let nodes take pods again: kedge kubectl uncordon NODE"
	case strings.Contains(message, "affinity"), strings.Contains(message, "selector"):
		do = "compare its nodeSelector and affinity with the nodes' labels: kedge kubectl get nodes --show-labels"
	case strings.Contains(message, "free ports"):
		do = "two pods want the same hostPort of a node: change one, or add a node"
	}
	return "finds no node: " + message, do
}

// explainContainer says why a container does not run, if that is wrong.
func explainContainer(pod *v1.Pod, s v1.ContainerStatus) (why, do string) {
	if s.State.Waiting == nil {
		return "", ""
	}
	of := fmt.Sprintf("-n %s %s -c %s", pod.Namespace, pod.Name, s.Name)
	describe := fmt.Sprintf("kedge kubectl describe pod -n %s %s", pod.Namespace, pod.Name)
	detail := s.State.Waiting.Message
	if i := strings.LastIndex(detail, "error during container init: "); i >= 0 { // runc's words behind those of all others
		detail = detail[i+len("error during container init: "):]
	}
	detail = strings.TrimSuffix(short(detail), ".")
	switch reason := s.State.Waiting.Reason; reason {
	case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable":
		why = "can't have image " + s.Image + ": " + imageTrouble(s.State.Waiting.Message)
		do = "check the name, and that the node reaches the registry; for a private one see registries.yaml or imagePullSecrets; without a network put an archive of the image into agent/images of the data directory"
	case "InvalidImageName":
		why, do = fmt.Sprintf("names an image that can't be: %q", s.Image), "correct the name of the image"
	case "ErrImageNeverPull":
		why = "wants image " + s.Image + ", which its node does not have, with imagePullPolicy Never"
		do = "put an archive of the image into agent/images of the node's data directory, or let it be pulled with imagePullPolicy IfNotPresent"
	case "CrashLoopBackOff":
		why, do = explainCrash(pod, s, of)
	case "CreateContainerConfigError":
		why, do = "container "+s.Name+" can't be made: "+detail, "make the ConfigMap or Secret that it names, in namespace "+pod.Namespace
	case "CreateContainerError", "RunContainerError", "StartError", "CreatePodSandboxError":
		why, do = "container "+s.Name+" does not start: "+detail, describe
	}
	return why, do
}

// imageTrouble is the end of a message about an image: what the registry said.
func imageTrouble(message string) string {
	for _, known := range []struct{ text, means string }{
		{"not found", "the registry does not have it"},
		{"no such host", "the registry's name can't be resolved"},
		{"connection refused", "the registry refuses connections"},
		{"i/o timeout", "the registry does not answer"},
		{"deadline exceeded", "the registry does not answer"},
		{"network is unreachable", "the registry can't be reached from the node"},
		{"unauthorized", "the registry wants a login"},
		{"authorization failed", "the registry wants a login"},
		{"401", "the registry wants a login"},
		{"403", "the registry forbids it"},
		{"x509", "the registry's certificate is not trusted"},
		{"toomanyrequests", "the registry allows no more pulls for now"},
		{"no space left", "the node's disk is full"},
	} {
		if strings.Contains(message, known.text) {
			return known.means
		}
	}
	return cmp.Or(short(message), "no reason given")
}

// explainCrash says how a container that is started again and again has ended.
func explainCrash(pod *v1.Pod, s v1.ContainerStatus, of string) (why, do string) {
	why = fmt.Sprintf("container %s ends again and again (%s)", s.Name, times(s.RestartCount))
	do = "its last words: kedge kubectl logs --previous " + of
	last := s.LastTerminationState.Terminated
	if last == nil {
		return why, do
	}
	switch {
	case last.Reason == "OOMKilled":
		why = fmt.Sprintf("container %s is killed again and again for using more than its memory limit%s", s.Name, memoryLimit(pod, s.Name))
		do = "raise resources.limits.memory, or let it use less"
	case last.ExitCode == 127 || last.ExitCode == 126 || last.Reason == "StartError":
		why += ": its command can't be run: " + cmp.Or(short(last.Message), fmt.Sprintf("exit code %d", last.ExitCode))
		do = "check command and args; " + do
	case last.ExitCode == 137:
		why += ": it was killed (exit code 137), by its liveness probe perhaps"
		do = fmt.Sprintf("look at its events: kedge kubectl describe pod -n %s %s; %s", pod.Namespace, pod.Name, do)
	case last.ExitCode == 0:
		why += ": it ends by itself, with exit code 0"
		do = "a container of a Deployment must go on running; " + do
	default:
		why += fmt.Sprintf(", the last time with exit code %d", last.ExitCode)
	}
	return why, do
}

func memoryLimit(pod *v1.Pod, container string) string {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.Name == container {
			if limit, ok := c.Resources.Limits[v1.ResourceMemory]; ok {
				return " of " + limitText(limit)
			}
		}
	}
	return ""
}

func limitText(q resource.Quantity) string { return q.String() }

func times(n int32) string {
	if n == 1 {
		return "1 restart"
	}
	return fmt.Sprintf("%d restarts", n)
}

// notReady names the containers that are not ready.
func notReady(pod *v1.Pod) string {
	var names []string
	for _, s := range pod.Status.ContainerStatuses {
		if !s.Ready {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 || len(pod.Status.ContainerStatuses) == 1 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// maxDetail is how much of a message of others is shown.
const maxDetail = 200

// short is the beginning of a message, on one line.
func short(message string) string {
	message = strings.Join(strings.Fields(message), " ")
	if runes := []rune(message); len(runes) > maxDetail {
		return string(runes[:maxDetail-1]) + "…"
	}
	return message
}
