package crictl

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"
)

func listContainersFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "show containers in any state, not just running ones", DisableDefaultText: true},
		&cli.StringFlag{Name: "id", Usage: "show the container with this id"},
		&cli.StringFlag{Name: "name", Usage: "show containers whose name matches this regular expression"},
		&cli.StringFlag{Name: "namespace", Usage: "show containers whose namespace matches this regular expression"},
		&cli.StringFlag{Name: "pod", Aliases: []string{"p"}, Usage: "show the containers of the pod with this id"},
		&cli.StringFlag{Name: "image", Usage: "show the containers of this image"},
		&cli.StringFlag{Name: "state", Aliases: []string{"s"}, Usage: "show containers in this state: created, running, exited or unknown"},
		&cli.StringSliceFlag{Name: "label", Usage: "show containers with this label, key=value"},
		&cli.IntFlag{Name: "last", Aliases: []string{"n"}, Usage: "show the containers created last, this many, in any state"},
		&cli.BoolFlag{Name: "latest", Aliases: []string{"l"}, Usage: "show the container created last, in any state", DisableDefaultText: true},
		quietFlag("show ids only"),
		&cli.BoolFlag{Name: "resolve-image-path", Aliases: []string{"r"}, Usage: "show names of images instead of ids", DisableDefaultText: true},
		noTruncFlag(),
		verboseFlag(),
		outputFlag("json, yaml or table"),
	}
}

func (t *tool) listContainers(c *cli.Context) error {
	containers, err := t.filterContainers(c)
	if err != nil {
		return err
	}
	return t.list(c, &runtime.ListContainersResponse{Containers: containers}, func() error {
		switch {
		case c.Bool("quiet"):
			for _, container := range containers {
				fmt.Fprintln(t.out, container.GetId())
			}
			return nil
		case c.Bool("verbose"):
			for _, container := range containers {
				t.describeListed(container)
			}
			return nil
		}
		return t.containerTable(c, containers)
	})
}

// filterContainers lists what the options ask for, the last created first.
func (t *tool) filterContainers(c *cli.Context) ([]*runtime.Container, error) {
	last := lastOf(c)
	filter := &runtime.ContainerFilter{}
	state, err := containerState(c.String("state"))
	if err != nil {
		return nil, err
	}
	if state == nil && !c.Bool("all") && last == 0 {
		state = &runtime.ContainerStateValue{State: runtime.ContainerState_CONTAINER_RUNNING}
	}
	filter.State = state
	if filter.LabelSelector, err = labelsOf(c.StringSlice("label")); err != nil {
		return nil, err
	}
	name, err := pattern(c, "name")
	if err != nil {
		return nil, err
	}
	namespace, err := pattern(c, "namespace")
	if err != nil {
		return nil, err
	}
	if filter.Id, err = t.containerFilter(c.Context, c.String("id")); err != nil {
		return nil, err
	}
	if filter.PodSandboxId, err = t.podFilter(c.Context, c.String("pod")); err != nil {
		return nil, err
	}
	var image *runtime.Image
	if ref := c.String("image"); ref != "" {
		if image, err = t.image(c.Context, ref); isNone(err) {
			return nil, nil // no image, no container of it
		} else if err != nil {
			return nil, err
		}
	}
	answer, err := t.ListContainers(c.Context, &runtime.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, err
	}
	containers := slices.DeleteFunc(answer.GetContainers(), func(container *runtime.Container) bool {
		return !name.MatchString(container.GetMetadata().GetName()) ||
			!namespace.MatchString(podLabel(container, types.KubernetesPodNamespaceLabel)) ||
			image != nil && !runs(container, image)
	})
	return newest(containers, last), nil
}

// lastOf is how many of the items created last are to be listed, or zero for all.
func lastOf(c *cli.Context) int {
	if last := c.Int("last"); last > 0 {
		return last
	}
	if c.Bool("latest") {
		return 1
	}
	return 0
}

// newest sorts by age and cuts off what is too many.
func newest[T interface{ GetCreatedAt() int64 }](items []T, last int) []T {
	slices.SortStableFunc(items, func(a, b T) int { return cmp.Compare(b.GetCreatedAt(), a.GetCreatedAt()) })
	if last > 0 && last < len(items) {
		return items[:last]
	}
	return items
}

func pattern(c *cli.Context, option string) (*regexp.Regexp, error) {
	compiled, err := regexp.Compile(c.String(option))
	if err != nil {
		return nil, fmt.Errorf("--%s is not a regular expression: %w", option, err)
	}
	return compiled, nil
}

func containerState(name string) (*runtime.ContainerStateValue, error) {
	if name == "" {
		return nil, nil
	}
	value, known := runtime.ContainerState_value["CONTAINER_"+strings.ToUpper(name)]
	if !known {
		return nil, fmt.Errorf("a container has no state %q: there are created, running, exited and unknown", name)
	}
	return &runtime.ContainerStateValue{State: runtime.ContainerState(value)}, nil
}

// stateName is a state as tables show it, such as Running.
func stateName(state runtime.ContainerState) string {
	name := strings.ToLower(strings.TrimPrefix(state.String(), "CONTAINER_"))
	return strings.ToUpper(name[:1]) + name[1:]
}

// podLabel is what the kubelet writes down of the pod of a container.
func podLabel(container *runtime.Container, label string) string {
	return cmp.Or(container.GetLabels()[label], "unknown")
}

// runs tells whether a container is one of an image: it may know the image by
// its id or by one of its names.
func runs(container *runtime.Container, image *runtime.Image) bool {
	return slices.ContainsFunc([]string{container.GetImageId(), container.GetImageRef(), container.GetImage().GetImage()}, func(ref string) bool {
		return ref == image.GetId() || slices.Contains(image.GetRepoTags(), ref) || slices.Contains(image.GetRepoDigests(), ref)
	})
}

func (t *tool) containerTable(c *cli.Context, containers []*runtime.Container) error {
	var images []*runtime.Image
	if c.Bool("resolve-image-path") {
		var err error
		if images, err = t.allImages(c.Context); err != nil {
			return err
		}
	}
	rows := newTable(t.out, "CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE")
	for _, container := range containers {
		id, pod, image := container.GetId(), container.GetPodSandboxId(), container.GetImage().GetImage()
		if i := slices.IndexFunc(images, func(i *runtime.Image) bool { return runs(container, i) }); i >= 0 {
			image = firstName(images[i])
		}
		if !c.Bool("no-trunc") {
			id, pod = short(id), short(pod)
			if _, err := digest.Parse(image); err == nil {
				image = short(image)
			}
		}
		rows.row(id, image, ago(container.GetCreatedAt()), stateName(container.GetState()),
			container.GetMetadata().GetName(), strconv.Itoa(int(container.GetMetadata().GetAttempt())), pod,
			podLabel(container, types.KubernetesPodNameLabel), podLabel(container, types.KubernetesPodNamespaceLabel))
	}
	return rows.flush()
}

func (t *tool) describeListed(container *runtime.Container) {
	t.facts(
		[2]string{"ID", container.GetId()},
		[2]string{"PodID", container.GetPodSandboxId()},
		[2]string{"Namespace", podLabel(container, types.KubernetesPodNamespaceLabel)},
		[2]string{"Name", container.GetMetadata().GetName()},
		[2]string{"Attempt", strconv.Itoa(int(container.GetMetadata().GetAttempt()))},
		[2]string{"State", stateName(container.GetState())},
		[2]string{"Image", container.GetImage().GetImage()},
		[2]string{"Created", ago(container.GetCreatedAt())},
	)
	t.factMap("Labels", container.GetLabels())
	t.factMap("Annotations", container.GetAnnotations())
	fmt.Fprintln(t.out)
}

func inspectFlags() []cli.Flag {
	return []cli.Flag{
		outputFlag("json, yaml, go-template or table"),
		&cli.StringFlag{Name: "template", Usage: "the template for --output go-template, in Go's language"},
		quietFlag("leave out what only this runtime knows"),
	}
}

func (t *tool) inspectContainers(c *cli.Context) error {
	all, err := t.allContainers(c.Context)
	if err != nil {
		return err
	}
	return t.inspect(c, func(ref string) (any, error) {
		found, err := find("container", plain(ref), all, identifyContainer)
		if err != nil {
			return nil, err
		}
		answer, err := t.ContainerStatus(c.Context, &runtime.ContainerStatusRequest{ContainerId: found.GetId(), Verbose: !c.Bool("quiet")})
		if err != nil {
			return nil, err
		}
		if c.String("output") == "table" {
			t.describeContainer(answer)
			return nil, nil
		}
		status := answer.GetStatus()
		times := map[string]time.Time{"createdAt": time.Unix(0, status.GetCreatedAt()), "startedAt": {}, "finishedAt": {}}
		if at := status.GetStartedAt(); at > 0 {
			times["startedAt"] = time.Unix(0, at)
		}
		if at := status.GetFinishedAt(); at > 0 {
			times["finishedAt"] = time.Unix(0, at)
		}
		return statusDocument(status, times, answer.GetInfo())
	})
}

// inspect looks at each thing that the arguments name and prints all that it
// learns. look returns nil when it has printed itself.
func (t *tool) inspect(c *cli.Context, look func(ref string) (any, error)) error {
	var documents []any
	failed := each(c.Args().Slice(), func(ref string) error {
		document, err := look(ref)
		if document != nil {
			documents = append(documents, document)
		}
		return err
	})
	if err := t.document(c, documents); err != nil {
		return err
	}
	return failed
}

func (t *tool) describeContainer(answer *runtime.ContainerStatusResponse) {
	status := answer.GetStatus()
	facts := [][2]string{
		{"ID", status.GetId()},
		{"Name", status.GetMetadata().GetName()},
		{"Attempt", strconv.Itoa(int(status.GetMetadata().GetAttempt()))},
		{"State", status.GetState().String()},
		{"Created", ago(status.GetCreatedAt())},
	}
	if at := status.GetStartedAt(); at > 0 {
		facts = append(facts, [2]string{"Started", ago(at)})
	}
	if at := status.GetFinishedAt(); at > 0 {
		facts = append(facts, [2]string{"Finished", ago(at)}, [2]string{"Exit Code", strconv.Itoa(int(status.GetExitCode()))})
	}
	t.facts(facts...)
	t.factMap("Labels", status.GetLabels())
	t.factMap("Annotations", status.GetAnnotations())
	t.factMap("Info", answer.GetInfo())
}

func stopFlags() []cli.Flag {
	return []cli.Flag{
		&cli.Int64Flag{Name: "timeout", Aliases: []string{"t"}, Usage: "seconds that the container has to end by itself"},
	}
}

func (t *tool) stopContainers(c *cli.Context) error {
	all, err := t.allContainers(c.Context)
	if err != nil {
		return err
	}
	return each(c.Args().Slice(), func(ref string) error {
		found, err := find("container", plain(ref), all, identifyContainer)
		if err != nil {
			return err
		}
		if err := t.stopContainer(c.Context, found, c.Int64("timeout")); err != nil {
			return err
		}
		fmt.Fprintln(t.out, ref)
		return nil
	})
}

func (t *tool) stopContainer(ctx context.Context, container *runtime.Container, grace int64) error {
	_, err := t.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: container.GetId(), Timeout: grace})
	if err != nil {
		return fmt.Errorf("stop container %s: %w", short(container.GetId()), err)
	}
	return nil
}

func removeContainersFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "remove all containers", DisableDefaultText: true},
		&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "stop those that run", DisableDefaultText: true},
		&cli.BoolFlag{Name: "keep-logs", Aliases: []string{"k"}, Usage: "leave the logs", DisableDefaultText: true},
	}
}

func (t *tool) removeContainers(c *cli.Context) error {
	all, err := t.allContainers(c.Context)
	if err != nil {
		return err
	}
	refs, err := named(c, all, identifyContainer)
	if err != nil {
		return err
	}
	return each(refs, func(ref string) error {
		found, err := find("container", plain(ref), all, identifyContainer)
		if err != nil {
			return err
		}
		if err := t.removeContainer(c, found); err != nil {
			return err
		}
		fmt.Fprintln(t.out, ref)
		return nil
	})
}

// named are the arguments, or the ids of all items with --all.
func named[T any](c *cli.Context, all []T, identify func(T) (id, name string)) ([]string, error) {
	switch everything := c.Bool("all"); {
	case everything && c.NArg() > 0:
		return nil, fmt.Errorf("--all and ids exclude each other")
	case !everything && c.NArg() == 0:
		return nil, fmt.Errorf("which? name ids, or all with --all")
	case !everything:
		return c.Args().Slice(), nil
	}
	var refs []string
	for _, item := range all {
		id, _ := identify(item)
		refs = append(refs, id)
	}
	return refs, nil
}

func (t *tool) removeContainer(c *cli.Context, container *runtime.Container) error {
	ctx, id := c.Context, container.GetId()
	// The state in the list may be old by now.
	answer, err := t.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return err
	}
	if answer.GetStatus().GetState() == runtime.ContainerState_CONTAINER_RUNNING {
		if !c.Bool("force") {
			return fmt.Errorf("container %s runs: stop it first, or remove it with --force", short(id))
		}
		if err := t.stopContainer(ctx, container, 0); err != nil {
			return err
		}
	}
	if _, err := t.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("remove container %s: %w", short(id), err)
	}
	path := answer.GetStatus().GetLogPath()
	if path == "" || c.Bool("keep-logs") {
		return nil
	}
	rotated, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	return removeLog(path, rotated)
}
