package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/cmd/ctr/app"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// ctr is containerd's client, pointed at Kedge's containerd and at the
// namespace of Kubernetes.
func ctr(ctx context.Context, args []string) int {
	for name, value := range map[string]string{
		"CONTAINERD_ADDRESS":   config.RuntimeDir + "/containerd/containerd.sock",
		"CONTAINERD_NAMESPACE": "k8s.io",
	} {
		if os.Getenv(name) != "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, "kedge: "+err.Error())
			return 1
		}
	}
	if err := app.New().RunContext(ctx, append([]string{"ctr"}, args...)); err != nil {
		fmt.Fprintln(os.Stderr, "ctr: "+err.Error())
		return 1
	}
	return 0
}
