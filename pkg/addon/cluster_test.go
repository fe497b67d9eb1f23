package addon

import (
	"errors"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestMayPrune(t *testing.T) {
	t.Parallel()
	now := metav1.NewTime(time.Now())
	own := map[string]string{ownerAnnotation: "a"}
	for _, test := range []struct {
		name string
		meta metav1.ObjectMeta
		want bool
	}{
		{"its own", metav1.ObjectMeta{Annotations: own}, true},
		{"another's", metav1.ObjectMeta{Annotations: map[string]string{ownerAnnotation: "b"}}, false},
		{"nobody's", metav1.ObjectMeta{}, false},
		{"kept by an annotation", metav1.ObjectMeta{Annotations: map[string]string{ownerAnnotation: "a", pruneAnnotation: "false"}}, false},
		{"kept by a label", metav1.ObjectMeta{Annotations: own, Labels: map[string]string{pruneAnnotation: "false"}}, false},
		{"not kept", metav1.ObjectMeta{Annotations: own, Labels: map[string]string{pruneAnnotation: "true"}}, true},
		{"being deleted", metav1.ObjectMeta{Annotations: own, DeletionTimestamp: &now}, false},
	} {
		if got := mayPrune(&corev1.ConfigMap{ObjectMeta: test.meta}, "a"); got != test.want {
			t.Errorf("%s: got %v", test.name, got)
		}
	}
}

func TestKindsOfErrors(t *testing.T) {
	t.Parallel()
	configMaps := schema.GroupResource{Resource: "configmaps"}
	for _, test := range []struct {
		name               string
		err                error
		namespace, refused bool
	}{
		{"no namespace", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "x"), true, false},
		{"no object", apierrors.NewNotFound(configMaps, "x"), false, false},
		{"invalid", apierrors.NewInvalid(schema.GroupKind{Kind: "ConfigMap"}, "x", nil), false, true},
		{"malformed", apierrors.NewBadRequest("x"), false, true},
		{"an unknown field", apierrors.NewGenericServerResponse(http.StatusInternalServerError, "patch", configMaps, "x",
			"failed to create typed patch object (/x; v1, Kind=ConfigMap): .dat: field not declared in schema", 0, true), false, true},
		{"overload", apierrors.NewTooManyRequests("x", 1), false, false},
		{"a webhook that is not there", apierrors.NewInternalError(errors.New("failed calling webhook")), false, false},
		{"none", nil, false, false},
	} {
		if got := isNamespaceMissing(test.err); got != test.namespace {
			t.Errorf("%s: isNamespaceMissing is %v", test.name, got)
		}
		if got := isRefused(test.err); got != test.refused {
			t.Errorf("%s: isRefused is %v", test.name, got)
		}
	}
}
