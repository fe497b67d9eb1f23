package helm

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxMessage is how long a message may be: an event holds 1024 bytes.
const maxMessage = 1000

// newestFirst sorts revisions, and leaves out those before the last few.
func newestFirst(revisions []Revision) []Revision {
	slices.SortFunc(revisions, func(a, b Revision) int { return b.Revision - a.Revision })
	return revisions[:min(len(revisions), maxHistory)]
}

func (s *ChartStatus) setHistory(history []Revision) {
	if len(history) > 0 {
		s.History, s.Release = history, &history[0]
	}
}

// reportFailure tells of a failure by an event and the status.
func (t *task) reportFailure(ctx context.Context, f *failure) {
	message := oneLine(f.Error())
	t.recorder.Event(t.reference(), corev1.EventTypeWarning, f.reason, message)
	state := Failed
	if !t.chart.DeletionTimestamp.IsZero() {
		state = Uninstalling
	}
	t.report(ctx, state, f.reason, message, nil)
}

// report writes the status, unless it says so already. What goes wrong is told
// in the log only: the status is nobody's input.
func (t *task) report(ctx context.Context, state State, reason, message string, history []Revision) {
	status := &t.chart.Status
	status.ObservedGeneration = t.chart.Generation
	status.State, status.Message = state, oneLine(message)
	status.setHistory(history)
	for kind, is := range map[string]metav1.ConditionStatus{
		conditionReady:  conditionOf(state == Deployed),
		conditionFailed: conditionOf(state == Failed),
	} {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: kind, Status: is, Reason: reason, Message: status.Message, ObservedGeneration: t.chart.Generation,
		})
	}
	slices.SortFunc(status.Conditions, func(a, b metav1.Condition) int { return strings.Compare(a.Type, b.Type) })
	after, err := json.Marshal(status)
	if string(after) == t.written {
		return
	}
	t.written = string(after)
	var patch []byte
	if err == nil {
		patch, err = json.Marshal([]map[string]any{{"op": "add", "path": "/status", "value": json.RawMessage(after)}})
	}
	if err == nil {
		_, err = t.dynamic.Resource(chartsResource).Namespace(t.key.Namespace).Patch(ctx, t.key.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
		t.config.Log.Warn("a status can't be written", "component", t.Name(), "helmchart", t.key.String(), "err", err)
	}
}

func conditionOf(is bool) metav1.ConditionStatus {
	if is {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

// reference is the HelmChart as the object of an event.
func (t *task) reference() *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: groupVersion.String(),
		Kind:       "HelmChart",
		Namespace:  t.chart.Namespace,
		Name:       t.chart.Name,
		UID:        t.chart.UID,
	}
}

// oneLine returns the text in one line of bearable length.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + " …"
	}
	return text
}
