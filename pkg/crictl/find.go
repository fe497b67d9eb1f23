package crictl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// noneError says that nothing has an id.
type noneError struct{ kind, has, ref string }

func (e noneError) Error() string { return fmt.Sprintf("no %s has the %s %s", e.kind, e.has, e.ref) }

func isNone(err error) bool {
	var none noneError
	return errors.As(err, &none)
}

// find finds the one item whose id is ref or begins with it.
func find[T any](kind, ref string, items []T, identify func(T) (id, name string)) (T, error) {
	var none T
	if ref == "" {
		return none, fmt.Errorf("the id of the %s is empty", kind)
	}
	var found []T
	for _, item := range items {
		id, _ := identify(item)
		if id == ref {
			return item, nil
		}
		if strings.HasPrefix(id, ref) {
			found = append(found, item)
		}
	}
	switch len(found) {
	case 0:
		return none, noneError{kind, "id", ref}
	case 1:
		return found[0], nil
	}
	var matches []string
	for _, item := range found {
		id, name := identify(item)
		matches = append(matches, fmt.Sprintf("%s (%s)", short(id), name))
	}
	return none, fmt.Errorf("the id %s is ambiguous, it begins those of %d %ss: %s", ref, len(found), kind, strings.Join(matches, ", "))
}

func identifyContainer(c *runtime.Container) (id, name string) {
	return c.GetId(), c.GetMetadata().GetName()
}

func identifyPod(p *runtime.PodSandbox) (id, name string) {
	return p.GetId(), p.GetMetadata().GetNamespace() + "/" + p.GetMetadata().GetName()
}

func identifyImage(i *runtime.Image) (id, name string) {
	return digits(i.GetId()), firstName(i)
}

// digits are the hexadecimal digits of a digest, the id of an image.
func digits(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// plain is the id in what Kubernetes shows, such as containerd://0123abcd.
func plain(id string) string {
	if _, bare, found := strings.Cut(id, "://"); found {
		return bare
	}
	return id
}

func (t *tool) allContainers(ctx context.Context) ([]*runtime.Container, error) {
	answer, err := t.ListContainers(ctx, &runtime.ListContainersRequest{})
	return answer.GetContainers(), err
}

func (t *tool) allPods(ctx context.Context) ([]*runtime.PodSandbox, error) {
	answer, err := t.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	return answer.GetItems(), err
}

func (t *tool) allImages(ctx context.Context) ([]*runtime.Image, error) {
	answer, err := t.ListImages(ctx, &runtime.ListImagesRequest{})
	return answer.GetImages(), err
}

// container finds a container by its id.
func (t *tool) container(ctx context.Context, ref string) (*runtime.Container, error) {
	all, err := t.allContainers(ctx)
	if err != nil {
		return nil, err
	}
	return find("container", plain(ref), all, identifyContainer)
}

// pod finds a pod by its id.
func (t *tool) pod(ctx context.Context, ref string) (*runtime.PodSandbox, error) {
	all, err := t.allPods(ctx)
	if err != nil {
		return nil, err
	}
	return find("pod", plain(ref), all, identifyPod)
}

// image finds an image by its name, which the runtime knows to complete, or by
// its id.
func (t *tool) image(ctx context.Context, ref string) (*runtime.Image, error) {
	answer, err := t.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}})
	named := err == nil && answer.GetImage() != nil
	// The runtime may have taken ref for an id, and the first of several.
	if named && !strings.HasPrefix(digits(answer.GetImage().GetId()), digits(ref)) {
		return answer.GetImage(), nil
	}
	all, err := t.allImages(ctx)
	if err != nil {
		return nil, err
	}
	image, err := find("image", digits(ref), all, identifyImage)
	if isNone(err) {
		return nil, noneError{"image", "name or id", ref}
	}
	return image, err
}

// containerFilter and podFilter complete the id in a filter. Of one that doesn't
// exist the list is empty.
func (t *tool) containerFilter(ctx context.Context, ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	found, err := t.container(ctx, ref)
	if isNone(err) {
		return ref, nil
	}
	return found.GetId(), err
}

func (t *tool) podFilter(ctx context.Context, ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	found, err := t.pod(ctx, ref)
	if isNone(err) {
		return ref, nil
	}
	return found.GetId(), err
}
