package crictl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const none = "<none>"

func listImagesFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "digests", Usage: "show digests", DisableDefaultText: true},
		&cli.BoolFlag{Name: "pinned", Usage: "show which images the kubelet never removes", DisableDefaultText: true},
		quietFlag("show ids only"),
		noTruncFlag(),
		verboseFlag(),
		outputFlag("json, yaml or table"),
	}
}

func (t *tool) listImages(c *cli.Context) error {
	images, err := t.allImages(c.Context)
	if err != nil {
		return err
	}
	if ref := c.Args().First(); ref != "" {
		images = slices.DeleteFunc(images, func(image *runtime.Image) bool { return !isOf(image, ref) })
	}
	slices.SortFunc(images, func(a, b *runtime.Image) int {
		return cmp.Or(cmp.Compare(firstName(a), firstName(b)), cmp.Compare(a.GetId(), b.GetId()))
	})
	return t.list(c, &runtime.ListImagesResponse{Images: images}, func() error {
		switch {
		case c.Bool("quiet"):
			for _, image := range images {
				fmt.Fprintln(t.out, image.GetId())
			}
			return nil
		case c.Bool("verbose"):
			for _, image := range images {
				t.describeListedImage(image)
			}
			return nil
		}
		return t.imageTable(c, images)
	})
}

// isOf tells whether ref names the image, with or without a tag, or is its id.
func isOf(image *runtime.Image, ref string) bool {
	if ref := digits(ref); ref != "" && strings.HasPrefix(digits(image.GetId()), ref) {
		return true
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(slices.Concat(image.GetRepoTags(), image.GetRepoDigests()), func(name string) bool {
		if reference.IsNameOnly(named) {
			repository, _ := splitName(name)
			return repository == named.Name()
		}
		return name == named.String()
	})
}

// firstName is the first tag, else the first digest, else the id.
func firstName(image *runtime.Image) string {
	for _, names := range [][]string{image.GetRepoTags(), image.GetRepoDigests()} {
		if len(names) > 0 {
			return names[0]
		}
	}
	return image.GetId()
}

// splitName parts a name into repository and tag, or digest.
func splitName(name string) (repository, version string) {
	if repository, version, found := strings.Cut(name, "@"); found {
		return repository, version
	}
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		return name[:i], name[i+1:]
	}
	return name, none
}

func (t *tool) imageTable(c *cli.Context, images []*runtime.Image) error {
	// row leaves out the columns that nobody asks for.
	row := func(image, tag, digest, id, size, pinned string) []string {
		cells := []string{image, tag}
		if c.Bool("digests") {
			cells = append(cells, digest)
		}
		cells = append(cells, id, size)
		if c.Bool("pinned") {
			cells = append(cells, pinned)
		}
		return cells
	}
	rows := newTable(t.out, row("IMAGE", "TAG", "DIGEST", "IMAGE ID", "SIZE", "PINNED")...)
	for _, image := range images {
		repository, digest := none, none
		if digests := image.GetRepoDigests(); len(digests) > 0 {
			repository, digest = splitName(digests[0])
		}
		id := image.GetId()
		if !c.Bool("no-trunc") {
			id, digest = short(id), short(digest)
		}
		size := units.HumanSizeWithPrecision(float64(image.GetSize()), 3)
		pinned := strconv.FormatBool(image.GetPinned())
		if len(image.GetRepoTags()) == 0 {
			rows.row(row(repository, none, digest, id, size, pinned)...)
		}
		for _, name := range image.GetRepoTags() {
			name, tag := splitName(name)
			rows.row(row(name, tag, digest, id, size, pinned)...)
		}
	}
	return rows.flush()
}

func (t *tool) describeListedImage(image *runtime.Image) {
	t.facts([2]string{"ID", image.GetId()})
	for _, name := range image.GetRepoTags() {
		t.facts([2]string{"RepoTags", name})
	}
	for _, name := range image.GetRepoDigests() {
		t.facts([2]string{"RepoDigests", name})
	}
	t.facts(
		[2]string{"Size", strconv.FormatUint(image.GetSize(), 10)},
		[2]string{"Username", image.GetUsername()},
	)
	if image.GetUid() != nil {
		t.facts([2]string{"Uid", strconv.FormatInt(image.GetUid().GetValue(), 10)})
	}
	if image.GetPinned() {
		t.facts([2]string{"Pinned", "true"})
	}
	fmt.Fprintln(t.out)
}

func (t *tool) inspectImages(c *cli.Context) error {
	return t.inspect(c, func(ref string) (any, error) {
		found, err := t.image(c.Context, ref)
		if err != nil {
			return nil, err
		}
		answer, err := t.ImageStatus(c.Context, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: found.GetId()}, Verbose: !c.Bool("quiet")})
		if err != nil {
			return nil, err
		}
		if answer.GetImage() == nil {
			return nil, noneError{"image", "name or id", ref}
		}
		if c.String("output") == "table" {
			t.describeImage(answer)
			return nil, nil
		}
		return statusDocument(answer.GetImage(), nil, answer.GetInfo())
	})
}

func (t *tool) describeImage(answer *runtime.ImageStatusResponse) {
	image := answer.GetImage()
	t.facts([2]string{"ID", image.GetId()})
	for _, name := range image.GetRepoTags() {
		t.facts([2]string{"Tag", name})
	}
	for _, name := range image.GetRepoDigests() {
		t.facts([2]string{"Digest", name})
	}
	t.facts([2]string{"Size", units.HumanSizeWithPrecision(float64(image.GetSize()), 3)})
	t.factMap("Info", answer.GetInfo())
}

func pullFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "creds", EnvVars: []string{"CRICTL_CREDS"}, Usage: "`USERNAME[:PASSWORD]` for the registry"},
		&cli.StringFlag{Name: "auth", EnvVars: []string{"CRICTL_AUTH"}, Usage: "USERNAME[:PASSWORD] for the registry, in base64"},
		&cli.StringSliceFlag{Name: "annotation", Aliases: []string{"a"}, Usage: "annotation for the pull, key=value"},
		&cli.DurationFlag{Name: "pull-timeout", Aliases: []string{"pt"}, EnvVars: []string{"CRICTL_PULL_TIMEOUT"}, Usage: "how long the pull may take; without it as long as it takes", DefaultText: "0s"},
	}
}

func (t *tool) pull(c *cli.Context) error {
	ref := c.Args().First()
	spec := &runtime.ImageSpec{Image: ref}
	var err error
	if spec.Annotations, err = labelsOf(c.StringSlice("annotation")); err != nil {
		return err
	}
	auth, err := authOf(c.String("creds"), c.String("auth"))
	if err != nil {
		return err
	}
	limit := c.Duration("pull-timeout")
	ctx, cancel := within(c.Context, limit)
	defer cancel()
	answer, err := t.PullImage(ctx, &runtime.PullImageRequest{Image: spec, Auth: auth})
	if errors.Is(context.Cause(ctx), errLimit) {
		return fmt.Errorf("pull %s: it is not done in %s", ref, limit)
	}
	if err != nil {
		return fmt.Errorf("pull %s: %w", ref, err)
	}
	fmt.Fprintln(t.out, "Image is up to date for "+answer.GetImageRef())
	return nil
}

func authOf(creds, auth string) (*runtime.AuthConfig, error) {
	switch {
	case creds != "" && auth != "":
		return nil, errors.New("--creds and --auth exclude each other")
	case auth != "":
		return &runtime.AuthConfig{Auth: auth}, nil
	case creds == "":
		return nil, nil
	}
	user, password, _ := strings.Cut(creds, ":")
	if user == "" {
		return nil, errors.New("--creds has no user before the colon")
	}
	return &runtime.AuthConfig{Username: user, Password: password}, nil
}

func removeImagesFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "remove all images but pinned ones", DisableDefaultText: true},
		&cli.BoolFlag{Name: "prune", Aliases: []string{"q"}, Usage: "remove all images that no container has, but pinned ones", DisableDefaultText: true},
	}
}

func (t *tool) removeImages(c *cli.Context) error {
	all, prune := c.Bool("all"), c.Bool("prune")
	if !all && !prune {
		if c.NArg() == 0 {
			return errors.New("which? name images, or all with --all, or unused ones with --prune")
		}
		return each(c.Args().Slice(), func(ref string) error {
			image, err := t.image(c.Context, ref)
			if err != nil {
				return err
			}
			return t.removeImage(c.Context, image)
		})
	}
	if c.NArg() > 0 {
		return errors.New("--all and --prune exclude names of images")
	}
	images, err := t.allImages(c.Context)
	if err != nil {
		return err
	}
	var containers []*runtime.Container
	if prune {
		if containers, err = t.allContainers(c.Context); err != nil {
			return err
		}
	}
	var failed []error
	for _, image := range images {
		// Without a pinned image, such as pause, the node starts no more pods.
		if image.GetPinned() || slices.ContainsFunc(containers, func(c *runtime.Container) bool { return runs(c, image) }) {
			continue
		}
		failed = append(failed, t.removeImage(c.Context, image))
	}
	return errors.Join(failed...)
}

func (t *tool) removeImage(ctx context.Context, image *runtime.Image) error {
	if _, err := t.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: image.GetId()}}); err != nil {
		return fmt.Errorf("remove image %s: %w", firstName(image), err)
	}
	names := image.GetRepoTags()
	if len(names) == 0 {
		names = image.GetRepoDigests()
	}
	if len(names) == 0 {
		names = []string{image.GetId()}
	}
	for _, name := range names {
		fmt.Fprintln(t.out, "Deleted: "+name)
	}
	return nil
}
