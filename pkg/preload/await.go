package preload

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/registry"
)

// Await has pulls of a packaged image wait for its import: a pod that comes
// before it would fail, and be tried again much later.
func (i *Images) Await(inner transfer.Transferrer) transfer.Transferrer {
	return awaiting{inner, i}
}

type awaiting struct {
	transfer.Transferrer
	images *Images
}

func (a awaiting) Transfer(ctx context.Context, from, to any, opts ...transfer.Opt) error {
	origin, fromRegistry := from.(*registry.OCIRegistry)
	if _, pull := to.(transfer.ImageStorer); fromRegistry && pull && a.images.importing(origin.Image()) {
		select {
		case <-a.images.settled:
		case <-ctx.Done():
			return ctx.Err()
		}
		// It is there without a transfer, unless its import failed.
		if slices.Contains(a.images.packaged, origin.Image()) {
			return nil
		}
	}
	return a.Transferrer.Transfer(ctx, from, to, opts...)
}

// importing says whether an image is a packaged one that may not be there yet.
func (i *Images) importing(name string) bool {
	select {
	case <-i.settled:
		return false
	default:
	}
	manifests, err := readLayout(i.config.Layout)
	if err != nil {
		return false
	}
	for _, manifest := range manifests {
		if slices.Contains(names(manifest, i.config.Prefix), name) {
			return true
		}
	}
	return false
}
