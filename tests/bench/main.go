// Command bench measures Kedge beside the stock stack: the same Kubernetes as
// separate programs, from the same modules. Each runs on a host of a testbed,
// in turn, and the medians of all runs are compared.
//
// What both sides share: containerd's runtime, shim and network plugins, the nft
// program, the images, kube-proxy's mode, CoreDNS's manifest, the kubelet's cgroup
// settings, the disk, and programs that are in the page cache. Importing the
// images and deploying CoreDNS is part of both starts; Kedge's other add-ons only
// take part in its first start from the bare file, and in the measure addons. What helps the stock stack:
// its certificates, its configuration and that of the pod network are there before
// it starts, and the kubelet begins the moment containerd serves. In all else it
// has kubeadm's flags and upstream's defaults.
//
// The group agent looks at a second node, on a host of its own: Kedge's agent, which
// brings the pod network along, beside containerd, the kubelet and kube-proxy, which
// have none. The second node idles without a pod. Then three more join at the same
// moment; all run on this one machine, and share its processors.
//
// The group servers looks at three servers of Kedge, of which two join at the same
// time: for how long a client with a list of them can't write while each is restarted,
// gets another file, and when one is killed.
//
// The group benchmarks runs Go benchmarks of single parts, which have limits of their
// own: the launcher, and the rules of network policies.
//
// The group scale, which only runs when it is asked for, looks at a Kedge server
// with many hollow nodes (see hollow) and ten pods on each. They run on the same
// machine and take most of its processors while they start: how much they take is
// in the table.
//
// The group sqlite, which only runs when it is asked for, updates objects many times
// over, and looks at how large the database gets, and at how much is written.
//
// A measure is of the clock of this machine: what else runs on it is in there.
package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

type options struct {
	runs  int
	idle  time.Duration
	only  []string
	nodes []int
	// updates is how many there are of objects in SQLite
	updates int
	quiet   time.Duration // after them
	stock   bool
	json    string
	binary  string
	keep    bool
	// profiles is the directory for the server's at scale; empty: don't profile
	profiles string
}

func parse(args []string) (options, error) {
	o := options{only: defaultGroups(), nodes: scaleNodes}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.runs, "runs", 5, "runs of each side")
	flags.DurationVar(&o.idle, "idle", 2*time.Minute, "how long to idle")
	flags.Func("only", "`measures` to make, of "+strings.Join(groups(), ",")+" (default: all but "+strings.Join(longGroups, ", ")+")", func(value string) error {
		o.only = strings.Split(value, ",")
		for _, name := range o.only {
			if !slices.Contains(groups(), name) {
				return fmt.Errorf("there is no measure %q", name)
			}
		}
		return nil
	})
	flags.Func("nodes", "`numbers` of nodes for scale (default "+strings.ReplaceAll(strings.Trim(fmt.Sprint(scaleNodes), "[]"), " ", ",")+")", func(value string) (err error) {
		o.nodes, err = parseNodes(value)
		return err
	})
	flags.IntVar(&o.updates, "updates", 200_000, "updates of objects for sqlite")
	flags.DurationVar(&o.quiet, "quiet", quietTime, "how long to let SQLite be compacted after the updates")
	flags.BoolVar(&o.stock, "stock", true, "measure the stock stack, too")
	flags.StringVar(&o.json, "json", "build/bench.json", "`file` for all values")
	flags.StringVar(&o.binary, "bin", "dist/kedge", "`file` of Kedge")
	flags.BoolVar(&o.keep, "keep", false, "keep logs of what failed, beside the file for all values")
	flags.StringVar(&o.profiles, "profiles", "", "at scale, keep Go profiles of the server in this `directory`; that makes it slower")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.updates < 10 {
		return o, errors.New("-updates must be 10 or more")
	}
	if o.runs < 1 {
		return o, errors.New("-runs must be 1 or more")
	}
	return o, nil
}

func parseNodes(value string) ([]int, error) {
	var all []int
	for part := range strings.SplitSeq(value, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 || n > maxNodes {
			return nil, fmt.Errorf("%q isn't a number from 1 to %d", part, maxNodes)
		}
		all = append(all, n)
	}
	return all, nil
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		err = measure(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("making hosts needs root")
	}
	root, err := testbed.ModuleRoot()
	if err != nil {
		return err
	}
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	version, err := kubernetesVersion(filepath.Join(root, "build", "bin", "kedge"))
	if err != nil {
		return err
	}
	rep := &report{Began: time.Now(), Machine: thisMachine(), Kubernetes: version, Runs: o.runs, Idle: o.idle.Seconds()}
	b := newBench(o, root, binary, os.Stderr)
	if err := b.build(ctx); err != nil {
		return err
	}
	b.all(ctx)
	rep.Results, rep.Failures, rep.Took = b.results(), b.failures, time.Since(rep.Began).Seconds()
	if err := errors.Join(rep.table(os.Stdout), rep.write(o.json)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if len(b.failures) > 0 {
		return fmt.Errorf("%s couldn't be measured:\n%s", plural(len(b.failures), "run"), strings.Join(b.failures, "\n"))
	}
	return nil
}

// kubernetesVersion tells which Kubernetes is in a program.
func kubernetesVersion(program string) (string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("read %s (is it built?): %w", program, err)
	}
	for _, dep := range info.Deps {
		if dep.Path == "k8s.io/kubernetes" {
			return dep.Version, nil
		}
	}
	return "", fmt.Errorf("%s holds no Kubernetes", program)
}
