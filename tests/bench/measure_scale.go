package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

const (
	scaleGroup = "scale"
	// scaleLimit is how long the nodes, and then the pods, are waited for.
	scaleLimit = 5 * time.Minute
	// scaleTime is how long the API is asked and the server looked at.
	scaleTime = time.Minute

	podsPerNode = 10
	// maxNodes is what the addresses of the hollow nodes are enough for.
	maxNodes = 250

	datastoreDir = "/var/lib/kedge/server/db"
)

// scaleNodes are the numbers of nodes to measure with. The goals are for the
// largest.
var scaleNodes = []int{10, 50, 100, 200}

// scaleRequests are what clients ask while the server is looked at, and how often.
var scaleRequests = []struct {
	key, name string
	every     time.Duration
}{
	{"get", "API get of a pod", 100 * time.Millisecond},
	{"create", "API create of a ConfigMap", 100 * time.Millisecond},
	{"list", "API list of all pods", time.Second},
}

func scaleKey(nodes int, what string) string { return fmt.Sprintf("scale-%d-%s", nodes, what) }

// scaleMetrics are sorted by what they are of, so that growth is seen.
func scaleMetrics(nodes []int) []metric {
	var all []metric
	add := func(what, name, unit string, digits int, limit float64) {
		for _, n := range nodes {
			m := metric{Key: scaleKey(n, what), Group: scaleGroup, Name: plural(n, "node") + ": " + name, Unit: unit, digits: digits}
			if n == scaleNodes[len(scaleNodes)-1] {
				m.goal.limit = limit
			}
			all = append(all, m)
		}
	}
	add("ready", "start to all Ready", "s", 1, 0)
	add("pods", fmt.Sprintf("%d pods each, applied to all Ready", podsPerNode), "s", 1, 0)
	add("server-time", "processor for that, server", "s", 1, 0)
	add("hollow-time", "processor for that, hollow nodes", "s", 1, 0)
	add("rest-time", "processor meanwhile, rest of the machine", "s", 1, 0)
	for _, request := range scaleRequests {
		for _, p := range apiPercentiles {
			limit := 0.0
			if p == 99 {
				limit = 1000
			}
			add(fmt.Sprintf("%s-p%d", request.key, p), fmt.Sprintf("%s, p%d", request.name, p), "ms", 1, limit)
		}
	}
	add("pss", "memory, PSS", "MB", 0, 0)
	add("anonymous", "memory, anonymous", "MB", 0, 0)
	add("peak", "memory, largest RSS so far", "MB", 0, 0)
	add("cpu", "processor, server", "ms/s", 0, 0)
	add("hollow-cpu", "processor, hollow nodes", "ms/s", 0, 0)
	add("rest-cpu", "processor, rest of the machine", "ms/s", 0, 0)
	add("writes", "writes", "kB/s", 0, 0)
	add("database", "size of the database", "MB", 1, 0)
	return all
}

// scale measures a server with so many hollow nodes.
func (r *run) scale(ctx context.Context, nodes int) error {
	r.title += ", " + plural(nodes, "node")
	if err := r.step(ctx, "prepare", r.side.Prepare); err != nil {
		return err
	}
	r.calm()
	if err := r.step(ctx, "start", func(ctx context.Context) error {
		_, _, err := r.start(ctx)
		return err
	}); err != nil {
		return err
	}
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	began := time.Now()
	hollow, err := r.startHollow(ctx, nodes)
	if err != nil {
		return err
	}
	defer hollow.end()
	ctx = hollow.ctx // ends with them
	before, err := r.loads(hollow)
	if err != nil {
		return err
	}
	if err := r.within(ctx, scaleLimit, "nodes", func(ctx context.Context) error {
		return waitNodes(ctx, client, nodes)
	}); err != nil {
		return err
	}
	r.record(scaleKey(nodes, "ready"), time.Since(began).Seconds())
	if err := r.within(ctx, scaleLimit, "pods", func(ctx context.Context) error {
		return r.profiled(ctx, client, "pods", nodes, func() error { return r.fill(ctx, client, nodes) })
	}); err != nil {
		return err
	}
	after, err := r.loads(hollow)
	if err != nil {
		return err
	}
	server, nodesOwn, rest := after.since(before)
	r.record(scaleKey(nodes, "server-time"), server.Seconds())
	r.record(scaleKey(nodes, "hollow-time"), nodesOwn.Seconds())
	r.record(scaleKey(nodes, "rest-time"), rest.Seconds())
	return r.within(ctx, scaleLimit, "look", func(ctx context.Context) error {
		return r.profiled(ctx, client, "look", nodes, func() error { return r.look(ctx, client, nodes, hollow) })
	})
}

// profileSeconds is how long the processor is profiled.
const profileSeconds = 30

// profiled runs f, and keeps profiles of the server if that is wanted: of the
// processor from the beginning on, of goroutines after that, and of memory after f.
func (r *run) profiled(ctx context.Context, client *cluster.Client, name string, nodes int, f func() error) error {
	dir := r.bench.options.profiles
	if dir == "" {
		return f()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	keep := func(kind, query string) error {
		content, err := client.Get(ctx, "/debug/pprof/"+kind+query)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d-%s-%s", nodes, name, kind)), content, 0o600)
	}
	processor := make(chan error, 1)
	go func() {
		err := keep("profile", fmt.Sprintf("?seconds=%d", profileSeconds))
		processor <- errors.Join(err, keep("goroutine", ""))
	}()
	err := f()
	return errors.Join(err, <-processor, keep("heap", ""))
}

func waitNodes(ctx context.Context, client *cluster.Client, nodes int) error {
	for i := range nodes {
		if err := client.WaitObject(ctx, "/api/v1/nodes", hollowName(i), hasCondition("Ready")); err != nil {
			return err
		}
	}
	return nil
}

// fill puts ten pods on each node, by Deployments that each have one for each.
func (r *run) fill(ctx context.Context, client *cluster.Client, nodes int) error {
	if err := createNamespace(ctx, client, podsNamespace); err != nil {
		return err
	}
	began := time.Now()
	var names []string
	for i := range podsPerNode {
		name := fmt.Sprintf("pause-%d", i)
		if err := client.Apply(ctx, deployment(name, nodes, hollowLabel)); err != nil {
			return err
		}
		names = append(names, name)
	}
	for _, name := range names {
		if err := waitDeployment(ctx, client, name, nodes); err != nil {
			return err
		}
	}
	r.record(scaleKey(nodes, "pods"), time.Since(began).Seconds())
	return nil
}

// look asks the API for a while, and looks at what the server and the hollow nodes
// take.
func (r *run) look(ctx context.Context, client *cluster.Client, nodes int, hollow *hollowNodes) error {
	pod, err := somePod(ctx, client)
	if err != nil {
		return err
	}
	requests := map[string]func(i int) error{
		"get": func(int) error {
			_, err := client.Get(ctx, pods+"/"+pod)
			return err
		},
		"create": func(i int) error { return client.Create(ctx, configMaps(podsNamespace), configMap(i)) },
		"list": func(int) error {
			_, err := client.Get(ctx, "/api/v1/pods")
			return err
		},
	}
	began := time.Now()
	before, err := r.loads(hollow)
	if err != nil {
		return err
	}
	latencies := make([][]time.Duration, len(scaleRequests))
	var group errgroup.Group
	for i, request := range scaleRequests {
		group.Go(func() (err error) {
			latencies[i], err = pace(ctx, request.every, scaleTime, requests[request.key])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	after, err := r.loads(hollow)
	if err != nil {
		return err
	}
	used, err := memoryOf(r.side.PIDs())
	if err != nil {
		return err
	}
	peak, err := peakOf(r.side.PIDs()[0])
	if err != nil {
		return err
	}
	size, err := dirSize(r.host.Path(datastoreDir))
	if err != nil {
		return err
	}
	for i, request := range scaleRequests {
		for _, p := range apiPercentiles {
			r.record(scaleKey(nodes, fmt.Sprintf("%s-p%d", request.key, p)), percentile(latencies[i], p).Seconds()*1e3)
		}
	}
	server, nodesOwn, rest := after.since(before)
	r.record(scaleKey(nodes, "cpu"), server.Seconds()*1e3/seconds)
	r.record(scaleKey(nodes, "hollow-cpu"), nodesOwn.Seconds()*1e3/seconds)
	r.record(scaleKey(nodes, "rest-cpu"), rest.Seconds()*1e3/seconds)
	r.record(scaleKey(nodes, "writes"), (after.server.written-before.server.written)/1e3/seconds)
	r.record(scaleKey(nodes, "pss"), used.pss)
	r.record(scaleKey(nodes, "anonymous"), used.anonymous)
	r.record(scaleKey(nodes, "peak"), peak)
	r.record(scaleKey(nodes, "database"), size)
	return nil
}

// loads is what has been used of the machine so far.
type loads struct {
	server, hollow usage
	all            time.Duration // the processors, by everybody
}

func (r *run) loads(hollow *hollowNodes) (l loads, err error) {
	if l.server, err = usageOf(r.side.PIDs()); err != nil {
		return l, err
	}
	if l.hollow, err = usageOf([]int{hollow.pid()}); err != nil {
		return l, err
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return l, err
	}
	l.all, err = busyOf(stat)
	return l, err
}

// since says who has had the processors since an earlier moment.
func (l loads) since(before loads) (server, hollow, rest time.Duration) {
	server, hollow = l.server.processor-before.server.processor, l.hollow.processor-before.hollow.processor
	return server, hollow, l.all - before.all - server - hollow
}

const pods = "/api/v1/namespaces/" + podsNamespace + "/pods"

// somePod returns the name of a pod.
func somePod(ctx context.Context, client *cluster.Client) (string, error) {
	text, err := client.Get(ctx, pods+"?limit=1")
	if err != nil {
		return "", err
	}
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := json.Unmarshal(text, &list); err != nil || len(list.Items) == 0 {
		return "", fmt.Errorf("no pod in %.200s (%w)", text, err)
	}
	return list.Items[0].Metadata.Name, nil
}

// pace sends requests one after another, at an interval and for a while, and
// returns how long each took, in order of that.
func pace(ctx context.Context, every, total time.Duration, request func(i int) error) ([]time.Duration, error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	end := time.After(total)
	var took []time.Duration
	for i := 0; ; i++ {
		began := time.Now()
		if err := request(i); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-end:
			slices.Sort(took)
			return took, nil
		case <-tick.C:
		}
	}
}

// dirSize is the size of the files in a directory, in megabytes.
func dirSize(dir string) (float64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, entry := range entries {
		size, err := fileSize(filepath.Join(dir, entry.Name()))
		if err != nil {
			return 0, err
		}
		sum += size
	}
	return sum, nil
}
