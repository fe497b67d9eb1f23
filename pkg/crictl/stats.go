package crictl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podStatsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "id", Usage: "show the one with this id"},
		&cli.StringSliceFlag{Name: "label", Usage: "show those with this label, key=value"},
		&cli.IntFlag{Name: "seconds", Aliases: []string{"s"}, Value: 1, Usage: "how long to measure the use of processors"},
		&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "measure again and again", DisableDefaultText: true},
		outputFlag("json, yaml or table"),
	}
}

func containerStatsFlags() []cli.Flag {
	return append(podStatsFlags(),
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "show containers that don't run too", DisableDefaultText: true},
		&cli.StringFlag{Name: "pod", Aliases: []string{"p"}, Usage: "show the containers of the pod with this id"},
	)
}

// usage is what a container or a pod uses at a time.
type usage struct {
	id, name     string
	cpu, memory  uint64 // nanoseconds of a processor since it began, bytes
	at           int64  // of cpu, in nanoseconds
	disk, inodes uint64
}

func (t *tool) containerStats(c *cli.Context) error {
	filter := &runtime.ContainerStatsFilter{}
	var err error
	if filter.Id, err = t.containerFilter(c.Context, cmp.Or(c.String("id"), c.Args().First())); err != nil {
		return err
	}
	if filter.PodSandboxId, err = t.podFilter(c.Context, c.String("pod")); err != nil {
		return err
	}
	if filter.LabelSelector, err = labelsOf(c.StringSlice("label")); err != nil {
		return err
	}
	measure := func(ctx context.Context) (proto.Message, []usage, error) {
		answer, err := t.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{Filter: filter})
		if err != nil {
			return nil, nil, err
		}
		var uses []usage
		for _, s := range answer.GetStats() {
			u := usage{
				id: s.GetAttributes().GetId(), name: s.GetAttributes().GetMetadata().GetName(),
				cpu: s.GetCpu().GetUsageCoreNanoSeconds().GetValue(), at: s.GetCpu().GetTimestamp(),
				memory: s.GetMemory().GetWorkingSetBytes().GetValue(),
				disk:   s.GetWritableLayer().GetUsedBytes().GetValue(), inodes: s.GetWritableLayer().GetInodesUsed().GetValue(),
			}
			if c.Bool("all") || u.cpu > 0 || u.memory > 0 { // what doesn't run uses nothing
				uses = append(uses, u)
			}
		}
		return answer, uses, nil
	}
	return t.stats(c, measure, []string{"CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES"}, func(u usage, cpu string) []string {
		return []string{short(u.id), u.name, cpu, units.HumanSize(float64(u.memory)), units.HumanSize(float64(u.disk)), strconv.FormatUint(u.inodes, 10)}
	})
}

func (t *tool) podStats(c *cli.Context) error {
	filter := &runtime.PodSandboxStatsFilter{}
	var err error
	if filter.Id, err = t.podFilter(c.Context, cmp.Or(c.String("id"), c.Args().First())); err != nil {
		return err
	}
	if filter.LabelSelector, err = labelsOf(c.StringSlice("label")); err != nil {
		return err
	}
	measure := func(ctx context.Context) (proto.Message, []usage, error) {
		answer, err := t.ListPodSandboxStats(ctx, &runtime.ListPodSandboxStatsRequest{Filter: filter})
		if err != nil {
			return nil, nil, err
		}
		var uses []usage
		for _, s := range answer.GetStats() {
			u := usage{
				id: s.GetAttributes().GetId(), name: s.GetAttributes().GetMetadata().GetName(),
				cpu: s.GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue(), at: s.GetLinux().GetCpu().GetTimestamp(),
				memory: s.GetLinux().GetMemory().GetWorkingSetBytes().GetValue(),
			}
			if u.cpu > 0 || u.memory > 0 {
				uses = append(uses, u)
			}
		}
		return answer, uses, nil
	}
	return t.stats(c, measure, []string{"POD", "POD ID", "CPU %", "MEM"}, func(u usage, cpu string) []string {
		return []string{u.name, short(u.id), cpu, units.HumanSize(float64(u.memory))}
	})
}

// stats measures and prints, again and again if asked to. A table shows how
// much of a processor was used between two measurements.
func (t *tool) stats(c *cli.Context, measure func(context.Context) (proto.Message, []usage, error), columns []string, row func(u usage, cpu string) []string) error {
	pause := time.Duration(c.Int("seconds")) * time.Second
	if pause <= 0 {
		return errors.New("--seconds must be more than zero")
	}
	var before []usage
	for first := true; ; first = false {
		answer, now, err := measure(c.Context)
		if err != nil {
			return err
		}
		more := c.Bool("watch")
		err = t.list(c, answer, func() error {
			if first {
				more = true
				return nil
			}
			if c.Bool("watch") {
				fmt.Fprint(t.out, "\033[H\033[2J") // to the top of an empty screen
			}
			rows := newTable(t.out, columns...)
			slices.SortFunc(now, func(a, b usage) int { return cmp.Compare(a.id, b.id) })
			for _, u := range now {
				rows.row(row(u, percent(before, u))...)
			}
			return rows.flush()
		})
		if err != nil || !more || !wait(c.Context, pause) {
			return err
		}
		before = now
	}
}

// percent is how much of a processor something has used since it was measured
// before, or - if that is not known.
func percent(before []usage, now usage) string {
	i := slices.IndexFunc(before, func(u usage) bool { return u.id == now.id })
	if i < 0 || now.at <= before[i].at || now.cpu < before[i].cpu {
		return "-"
	}
	return strconv.FormatFloat(100*float64(now.cpu-before[i].cpu)/float64(now.at-before[i].at), 'f', 2, 64)
}

// wait returns false if the context ends first.
func wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
