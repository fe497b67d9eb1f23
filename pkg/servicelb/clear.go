package servicelb

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Clear takes back the addresses that a Controller gave, and returns how many
// Services had some.
func Clear(ctx context.Context, client kubernetes.Interface) (int, error) {
	list, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	cleared := 0
	for i := range list.Items {
		s := &list.Items[i]
		if !marked(s) {
			continue
		}
		err := change{service: s, verdict: Verdict{Left: true}}.write(ctx, client)
		if err != nil && !apierrors.IsNotFound(err) {
			return cleared, err
		}
		cleared++
	}
	return cleared, nil
}
