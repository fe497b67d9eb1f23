package preload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const pinLabel = "io.cri-containerd.pinned"

// pinned are the labels that make an image known to the CRI and keep the
// kubelet's garbage collection off it.
var pinned = map[string]string{
	"io.cri-containerd.image": "managed",
	pinLabel:                  "pinned",
}

// abortLimit is how long clearing up after a broken archive may take.
const abortLimit = 10 * time.Second

// containerdStore is containerd as the place where images go.
type containerdStore struct {
	client      *client.Client
	runtime     cri.ImageServiceClient
	snapshotter string
}

// importArchive imports, unpacks and pins the images of a tar file.
func (s containerdStore) importArchive(ctx context.Context, archive io.Reader) (names []string, err error) {
	// The platform is checked below: a missing one is told from a broken file.
	imported, err := s.client.Import(ctx, archive,
		client.WithImageLabels(pinned),
		client.WithImageRefTranslator(fullName),
		client.WithImportPlatform(platforms.Default()),
		client.WithSkipMissing())
	if err != nil {
		s.abort(ctx)
		return nil, err
	}
	var errs []error
	for _, image := range imported {
		if err := s.finish(ctx, image); err != nil {
			errs = append(errs, fmt.Errorf("image %s: %w", image.Name, err))
			continue
		}
		names = append(names, image.Name)
	}
	if len(imported) == 0 {
		errs = append(errs, errors.New("it holds no image with a full name, such as docker.io/library/busybox:1"))
	}
	return names, errors.Join(errs...)
}

// fullName is the image's name in an OCI layout's annotation, empty if that is
// no more than a tag.
func fullName(text string) string {
	if !strings.ContainsAny(text, "/:") {
		return ""
	}
	named, err := reference.ParseDockerRef(text)
	if err != nil {
		return ""
	}
	return named.String()
}

// finish unpacks an image that was imported, or removes it if it is none for
// this machine.
func (s containerdStore) finish(ctx context.Context, image images.Image) error {
	available, _, _, missing, err := images.Check(ctx, s.client.ContentStore(), image.Target, platforms.Default())
	if err == nil && available && len(missing) == 0 {
		return client.NewImage(s.client, image).Unpack(ctx, s.snapshotter)
	}
	if removal := s.client.ImageService().Delete(ctx, image.Name); removal != nil && !errdefs.IsNotFound(removal) {
		return removal
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if available && len(missing) > 0 {
		return fmt.Errorf("the archive lacks a part of it, %s", missing[0].Digest)
	}
	return fmt.Errorf("it is not for %s", platforms.Format(platforms.DefaultSpec()))
}

// abort forgets the parts of a broken archive: containerd would go on with them
// where they end, also from another archive.
func (s containerdStore) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortLimit)
	defer cancel()
	store := s.client.ContentStore()
	statuses, err := store.ListStatuses(ctx, "ref~=^tar-")
	if err != nil {
		return
	}
	for _, status := range statuses {
		_ = store.Abort(ctx, status.Ref)
	}
}

// pull pulls an image as for a pod, unless it is there, and pins it.
func (s containerdStore) pull(ctx context.Context, name string) error {
	store := s.client.ImageService()
	image, err := store.Get(ctx, name)
	if errdefs.IsNotFound(err) {
		if _, err = s.runtime.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}}); err == nil {
			image, err = store.Get(ctx, name)
		}
	}
	if err != nil {
		return err
	}
	return pin(ctx, store, image)
}

// pinAll pins images, unless one of them is not there.
func (s containerdStore) pinAll(ctx context.Context, names []string) (all bool, err error) {
	store := s.client.ImageService()
	found := make([]images.Image, len(names))
	for i, name := range names {
		if found[i], err = store.Get(ctx, name); errdefs.IsNotFound(err) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	for _, image := range found {
		if err := pin(ctx, store, image); err != nil {
			return false, err
		}
	}
	return true, nil
}

// unpin leaves an image to garbage collection.
func (s containerdStore) unpin(ctx context.Context, name string) error {
	store := s.client.ImageService()
	image, err := store.Get(ctx, name)
	if err != nil {
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	// The CRI has names of its own for it, the first being its id.
	all, err := store.List(ctx)
	if err != nil {
		return err
	}
	for _, other := range all {
		same := other.Name == name || other.Target.Digest == image.Target.Digest && strings.HasPrefix(other.Name, "sha256:")
		if !same || other.Labels[pinLabel] == "" {
			continue
		}
		other.Labels = maps.Clone(other.Labels)
		delete(other.Labels, pinLabel)
		if _, err := store.Update(ctx, other, "labels"); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func pin(ctx context.Context, store images.Store, image images.Image) error {
	keys := slices.Collect(maps.Keys(pinned))
	if !slices.ContainsFunc(keys, func(key string) bool { return image.Labels[key] != pinned[key] }) {
		return nil
	}
	labels := maps.Clone(image.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, pinned)
	image.Labels = labels
	_, err := store.Update(ctx, image, "labels")
	return err
}
