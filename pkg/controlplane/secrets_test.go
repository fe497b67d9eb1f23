package controlplane

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestRewriteChanged has a Secret that somebody changes between list and update: it
// is written all the same, with the change.
func TestRewriteChanged(t *testing.T) {
	secret := func(value string) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"},
			Data:       map[string][]byte{"key": []byte(value)},
		}
	}
	client := fake.NewClientset(secret("changed"))
	var written []string
	client.PrependReactor("update", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		got := action.(clienttesting.UpdateAction).GetObject().(*corev1.Secret)
		written = append(written, string(got.Data["key"]))
		if len(written) == 1 {
			return true, nil, apierrors.NewConflict(corev1.Resource("secrets"), got.Name, nil)
		}
		return true, got, nil
	})
	if err := rewrite(t.Context(), client, secret("listed")); err != nil {
		t.Fatal(err)
	}
	if len(written) != 2 || written[1] != "changed" {
		t.Errorf("written: %q", written)
	}
	if err := client.CoreV1().Secrets("default").Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	written = nil
	if err := rewrite(t.Context(), client, secret("deleted")); err != nil {
		t.Errorf("a Secret that is deleted meanwhile: %v", err)
	}
}
