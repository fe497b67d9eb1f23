package status

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

// pod makes one that was scheduled a while ago, with a container in that state.
func pod(scheduled time.Duration, state v1.ContainerState, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", CreationTimestamp: ago(scheduled)},
		Spec:       v1.PodSpec{NodeName: "node1", Containers: []v1.Container{{Name: "main"}}},
		Status: v1.PodStatus{
			Phase:             v1.PodPending,
			Conditions:        []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: ago(scheduled)}},
			ContainerStatuses: []v1.ContainerStatus{{Name: "main", Image: "nginx:nope", State: state}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func waiting(reason, message string) v1.ContainerState {
	return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func unschedulable(since time.Duration, message string) *v1.Pod {
	return pod(since, v1.ContainerState{}, func(p *v1.Pod) {
		p.Spec.NodeName = ""
		p.Status.ContainerStatuses = nil
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: message, LastTransitionTime: ago(since)}}
	})
}

func crashed(reason string, code int32, change ...func(*v1.Pod)) *v1.Pod {
	return pod(time.Hour, waiting("CrashLoopBackOff", "back-off 5m0s restarting"), append(change, func(p *v1.Pod) {
		s := &p.Status.ContainerStatuses[0]
		s.RestartCount = 7
		s.LastTerminationState.Terminated = &v1.ContainerStateTerminated{Reason: reason, ExitCode: code}
	})...)
}

func runningFor(ready v1.ConditionStatus, since time.Duration) *v1.Pod {
	return pod(time.Hour, v1.ContainerState{Running: &v1.ContainerStateRunning{}}, func(p *v1.Pod) {
		p.Status.Phase = v1.PodRunning
		p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: v1.PodReady, Status: ready, LastTransitionTime: ago(since)})
	})
}

func TestExplainPod(t *testing.T) {
	for name, test := range map[string]struct {
		pod   *v1.Pod
		state PodState
		why   []string // in the explanation and the advice
	}{
		"ready":     {pod: runningFor(v1.ConditionTrue, time.Minute), state: PodReady},
		"succeeded": {pod: pod(time.Hour, v1.ContainerState{}, func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded }), state: PodEnded},
		"failed":    {pod: pod(time.Hour, v1.ContainerState{}, func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }), state: PodEnded},
		"being made": {
			pod: pod(5*time.Second, waiting("ContainerCreating", "")), state: PodStarting,
		},
		"made for too long": {
			pod: pod(2*time.Minute, waiting("ContainerCreating", "")), state: PodWrong,
			why: []string{"has waited 2m", "describe pod -n shop web-1"},
		},
		"no such image": {
			pod: pod(5*time.Second, waiting("ErrImagePull", "rpc error: docker.io/library/nginx:nope: not found")), state: PodWrong,
			why: []string{"image nginx:nope", "does not have it", "registries.yaml"},
		},
		"registry without a name": {
			pod: pod(time.Minute, waiting("ImagePullBackOff", "Back-off pulling: dial tcp: lookup reg.example: no such host")), state: PodWrong,
			why: []string{"can't be resolved"},
		},
		"crash": {
			pod: crashed("Error", 3), state: PodWrong,
			why: []string{"again and again (7 restarts)", "exit code 3", "logs --previous -n shop web-1 -c main"},
		},
		"crash of a missing command": {
			pod: crashed("StartError", 128), state: PodWrong, why: []string{"can't be run", "check command"},
		},
		"out of memory": {
			pod: crashed("OOMKilled", 137, func(p *v1.Pod) {
				p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
			}), state: PodWrong,
			why: []string{"memory limit of 64Mi", "raise"},
		},
		"missing ConfigMap": {
			pod: pod(5*time.Second, waiting("CreateContainerConfigError", `configmap "settings" not found`)), state: PodWrong,
			why: []string{`configmap "settings" not found`, "in namespace shop"},
		},
		"just unschedulable": {pod: unschedulable(time.Second, "0/1 nodes are available: 1 Insufficient cpu."), state: PodStarting},
		"no room": {
			pod: unschedulable(time.Minute, "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found."), state: PodWrong,
			why: []string{"finds no node: 0/1 nodes are available: 1 Insufficient cpu", "add a node"},
		},
		"no volume": {
			pod: unschedulable(time.Minute, `0/1 nodes are available: persistentvolumeclaim "data" not found.`), state: PodWrong,
			why: []string{"get pvc"},
		},
		"taint": {
			pod: unschedulable(time.Minute, "0/1 nodes are available: 1 node(s) had untolerated taint(s)."), state: PodWrong,
			why: []string{"toleration"},
		},
		"just not ready": {pod: runningFor(v1.ConditionFalse, 5*time.Second), state: PodStarting},
		"not ready": {
			pod: runningFor(v1.ConditionFalse, 5*time.Minute), state: PodWrong, why: []string{"not been ready for 5m", "readiness probe"},
		},
		"ending": {
			pod:   pod(time.Hour, v1.ContainerState{}, func(p *v1.Pod) { t := ago(-10 * time.Second); p.DeletionTimestamp = &t }),
			state: PodStarting,
		},
		"ending for ever": {
			pod:   pod(time.Hour, v1.ContainerState{}, func(p *v1.Pod) { t := ago(10 * time.Minute); p.DeletionTimestamp = &t }),
			state: PodWrong, why: []string{"should have ended 10m ago", "delete node node1"},
		},
		"no kubelet": {
			pod:   pod(5*time.Minute, v1.ContainerState{}, func(p *v1.Pod) { p.Status.ContainerStatuses = nil }),
			state: PodWrong, why: []string{"kubelet of node node1"},
		},
	} {
		state, why, do := ExplainPod(test.pod, now)
		if state != test.state {
			t.Errorf("%s: state %d (%s), want %d", name, state, why, test.state)
		}
		if (state == PodWrong) != (why != "") || (state == PodWrong) != (do != "") {
			t.Errorf("%s: state %d with %q and %q", name, state, why, do)
		}
		for _, text := range test.why {
			if !strings.Contains(why+" "+do, text) {
				t.Errorf("%s: %q is not in %q → %q", name, text, why, do)
			}
		}
	}
}
