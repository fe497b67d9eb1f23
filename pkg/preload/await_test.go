package preload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/registry"
)

// noRegistry is where no image comes from.
type noRegistry struct{ asked []string }

var errNoRegistry = errors.New("no registry")

func (n *noRegistry) Transfer(_ context.Context, from, _ any, _ ...transfer.Opt) error {
	n.asked = append(n.asked, from.(*registry.OCIRegistry).Image())
	return errNoRegistry
}

func TestAwait(t *testing.T) {
	t.Parallel()
	layout := t.TempDir()
	index := `{"schemaVersion":2,"manifests":[{"annotations":{"io.containerd.image.name":"kedge.io/pause:1"}}]}`
	if err := os.WriteFile(filepath.Join(layout, "index.json"), []byte(index), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, image string
		settled     bool     // before the pull, or else after it began
		there       []string // what the import brings
		want        error
	}{
		{name: "imported meanwhile", image: "kedge.io/pause:1", there: []string{"kedge.io/pause:1"}},
		{name: "by its other name", image: "mirror.example/kedge.io/pause:1", there: []string{"mirror.example/kedge.io/pause:1"}},
		{name: "its import failed", image: "kedge.io/pause:1", want: errNoRegistry},
		{name: "removed since", image: "kedge.io/pause:1", settled: true, there: []string{"kedge.io/pause:1"}, want: errNoRegistry},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			images := &Images{config: Config{Layout: layout, Prefix: "mirror.example"}, settled: make(chan struct{})}
			if test.settled {
				images.packaged = test.there
				close(images.settled)
			}
			inner := &noRegistry{}
			result := make(chan error, 1)
			pull(t, images.Await(inner), test.image, result)
			if !test.settled {
				select {
				case err := <-result:
					t.Fatalf("the pull ended before the import, with %v", err)
				case <-time.After(20 * time.Millisecond):
				}
				images.packaged = test.there
				close(images.settled)
			}
			if err := <-result; !errors.Is(err, test.want) {
				t.Errorf("the pull ended with %v, not %v", err, test.want)
			}
			if asked := len(inner.asked) > 0; asked != (test.want != nil) {
				t.Errorf("the registry was asked for %q", inner.asked)
			}
		})
	}
	t.Run("another image", func(t *testing.T) {
		t.Parallel()
		images := &Images{config: Config{Layout: layout}, settled: make(chan struct{})}
		result := make(chan error, 1)
		pull(t, images.Await(&noRegistry{}), "docker.io/library/busybox:1", result)
		if err := <-result; !errors.Is(err, errNoRegistry) {
			t.Errorf("the pull ended with %v", err)
		}
	})
}

// pull pulls an image in the background.
func pull(t *testing.T, from transfer.Transferrer, name string, result chan<- error) {
	t.Helper()
	origin, err := registry.NewOCIRegistry(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	go func() { result <- from.Transfer(t.Context(), origin, image.NewStore(name)) }()
}
