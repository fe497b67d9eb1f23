package crictl

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func listPodsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "id", Usage: "show the pod with this id"},
		&cli.StringFlag{Name: "name", Usage: "show pods whose name matches this regular expression"},
		&cli.StringFlag{Name: "namespace", Usage: "show pods whose namespace matches this regular expression"},
		&cli.StringFlag{Name: "state", Aliases: []string{"s"}, Usage: "show pods in this state: ready or notready"},
		&cli.StringSliceFlag{Name: "label", Usage: "show pods with this label, key=value"},
		&cli.IntFlag{Name: "last", Aliases: []string{"n"}, Usage: "show the pods created last, this many"},
		&cli.BoolFlag{Name: "latest", Aliases: []string{"l"}, Usage: "show the pod created last", DisableDefaultText: true},
		quietFlag("show ids only"),
		noTruncFlag(),
		verboseFlag(),
		outputFlag("json, yaml or table"),
	}
}

func (t *tool) listPods(c *cli.Context) error {
	pods, err := t.filterPods(c)
	if err != nil {
		return err
	}
	return t.list(c, &runtime.ListPodSandboxResponse{Items: pods}, func() error {
		switch {
		case c.Bool("quiet"):
			for _, pod := range pods {
				fmt.Fprintln(t.out, pod.GetId())
			}
			return nil
		case c.Bool("verbose"):
			for _, pod := range pods {
				t.describeListedPod(pod)
			}
			return nil
		}
		rows := newTable(t.out, "POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME")
		for _, pod := range pods {
			id := pod.GetId()
			if !c.Bool("no-trunc") {
				id = short(id)
			}
			rows.row(id, ago(pod.GetCreatedAt()), podStateName(pod.GetState()), pod.GetMetadata().GetName(),
				pod.GetMetadata().GetNamespace(), strconv.Itoa(int(pod.GetMetadata().GetAttempt())), handler(pod))
		}
		return rows.flush()
	})
}

// filterPods lists what the options ask for, the last created first.
func (t *tool) filterPods(c *cli.Context) ([]*runtime.PodSandbox, error) {
	filter := &runtime.PodSandboxFilter{}
	var err error
	if filter.State, err = podState(c.String("state")); err != nil {
		return nil, err
	}
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
	if filter.Id, err = t.podFilter(c.Context, c.String("id")); err != nil {
		return nil, err
	}
	answer, err := t.ListPodSandbox(c.Context, &runtime.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return nil, err
	}
	pods := slices.DeleteFunc(answer.GetItems(), func(pod *runtime.PodSandbox) bool {
		return !name.MatchString(pod.GetMetadata().GetName()) || !namespace.MatchString(pod.GetMetadata().GetNamespace())
	})
	return newest(pods, lastOf(c)), nil
}

func podState(name string) (*runtime.PodSandboxStateValue, error) {
	for state := range runtime.PodSandboxState_name {
		if state := runtime.PodSandboxState(state); strings.EqualFold(podStateName(state), name) {
			return &runtime.PodSandboxStateValue{State: state}, nil
		}
	}
	if name == "" {
		return nil, nil
	}
	return nil, fmt.Errorf("a pod has no state %q: there are ready and notready", name)
}

func podStateName(state runtime.PodSandboxState) string {
	if state == runtime.PodSandboxState_SANDBOX_READY {
		return "Ready"
	}
	return "NotReady"
}

func handler(pod *runtime.PodSandbox) string { return cmp.Or(pod.GetRuntimeHandler(), "(default)") }

func (t *tool) describeListedPod(pod *runtime.PodSandbox) {
	t.facts(
		[2]string{"ID", pod.GetId()},
		[2]string{"Name", pod.GetMetadata().GetName()},
		[2]string{"UID", pod.GetMetadata().GetUid()},
		[2]string{"Namespace", pod.GetMetadata().GetNamespace()},
		[2]string{"Attempt", strconv.Itoa(int(pod.GetMetadata().GetAttempt()))},
		[2]string{"Status", podStateName(pod.GetState())},
		[2]string{"Created", time.Unix(0, pod.GetCreatedAt()).String()},
	)
	t.factMap("Labels", pod.GetLabels())
	t.factMap("Annotations", pod.GetAnnotations())
	t.facts([2]string{"Runtime", handler(pod)})
	fmt.Fprintln(t.out)
}

func (t *tool) inspectPods(c *cli.Context) error {
	all, err := t.allPods(c.Context)
	if err != nil {
		return err
	}
	return t.inspect(c, func(ref string) (any, error) {
		found, err := find("pod", plain(ref), all, identifyPod)
		if err != nil {
			return nil, err
		}
		answer, err := t.PodSandboxStatus(c.Context, &runtime.PodSandboxStatusRequest{PodSandboxId: found.GetId(), Verbose: !c.Bool("quiet")})
		if err != nil {
			return nil, err
		}
		if c.String("output") == "table" {
			t.describePod(answer)
			return nil, nil
		}
		times := map[string]time.Time{"createdAt": time.Unix(0, answer.GetStatus().GetCreatedAt())}
		return statusDocument(answer.GetStatus(), times, answer.GetInfo())
	})
}

func (t *tool) describePod(answer *runtime.PodSandboxStatusResponse) {
	status := answer.GetStatus()
	t.facts(
		[2]string{"ID", status.GetId()},
		[2]string{"Name", status.GetMetadata().GetName()},
		[2]string{"UID", status.GetMetadata().GetUid()},
		[2]string{"Namespace", status.GetMetadata().GetNamespace()},
		[2]string{"Attempt", strconv.Itoa(int(status.GetMetadata().GetAttempt()))},
		[2]string{"Status", status.GetState().String()},
		[2]string{"Created", time.Unix(0, status.GetCreatedAt()).String()},
		[2]string{"IP Addresses", status.GetNetwork().GetIp()},
	)
	for _, address := range status.GetNetwork().GetAdditionalIps() {
		t.facts([2]string{"Additional IP", address.GetIp()})
	}
	t.factMap("Labels", status.GetLabels())
	t.factMap("Annotations", status.GetAnnotations())
	t.factMap("Info", answer.GetInfo())
}

func (t *tool) stopPods(c *cli.Context) error {
	all, err := t.allPods(c.Context)
	if err != nil {
		return err
	}
	return each(c.Args().Slice(), func(ref string) error {
		found, err := find("pod", plain(ref), all, identifyPod)
		if err != nil {
			return err
		}
		return t.stopPod(c.Context, found, ref)
	})
}

func (t *tool) stopPod(ctx context.Context, pod *runtime.PodSandbox, ref string) error {
	if _, err := t.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: pod.GetId()}); err != nil {
		return fmt.Errorf("stop pod %s: %w", short(pod.GetId()), err)
	}
	fmt.Fprintln(t.out, "Stopped sandbox "+ref)
	return nil
}

func removePodsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "remove all pods", DisableDefaultText: true},
		&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "stop those that run", DisableDefaultText: true},
	}
}

func (t *tool) removePods(c *cli.Context) error {
	all, err := t.allPods(c.Context)
	if err != nil {
		return err
	}
	refs, err := named(c, all, identifyPod)
	if err != nil {
		return err
	}
	return each(refs, func(ref string) error {
		found, err := find("pod", plain(ref), all, identifyPod)
		if err != nil {
			return err
		}
		answer, err := t.PodSandboxStatus(c.Context, &runtime.PodSandboxStatusRequest{PodSandboxId: found.GetId()})
		if err != nil {
			return err
		}
		if answer.GetStatus().GetState() == runtime.PodSandboxState_SANDBOX_READY {
			if !c.Bool("force") {
				return fmt.Errorf("pod %s runs: stop it first, or remove it with --force", short(found.GetId()))
			}
			if err := t.stopPod(c.Context, found, ref); err != nil {
				return err
			}
		}
		if _, err := t.RemovePodSandbox(c.Context, &runtime.RemovePodSandboxRequest{PodSandboxId: found.GetId()}); err != nil {
			return fmt.Errorf("remove pod %s: %w", short(found.GetId()), err)
		}
		fmt.Fprintln(t.out, "Removed sandbox "+ref)
		return nil
	})
}
