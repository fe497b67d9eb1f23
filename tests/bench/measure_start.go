package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/kedge-k8s/kedge/tests/bench/cluster"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// start starts the side and measures until its node is Ready and its DNS
// answers.
func (r *run) start(ctx context.Context) (nodeReady, dns time.Duration, err error) {
	began := time.Now()
	if err := r.side.Start(); err != nil {
		return 0, 0, err
	}
	client, err := r.connect(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	if err := client.WaitObject(ctx, "/api/v1/nodes", r.host.Name, hasCondition("Ready")); err != nil {
		return 0, 0, err
	}
	nodeReady = time.Since(began)
	if err := cluster.WaitDNS(ctx, r.host.Dial); err != nil {
		return 0, 0, err
	}
	return nodeReady, time.Since(began), nil
}

func (r *run) connect(ctx context.Context) (*cluster.Client, error) {
	return connect(ctx, r.host, r.side)
}

// connect makes a client of a side's host as soon as there is a kubeconfig.
func connect(ctx context.Context, host *testbed.Host, s side) (*cluster.Client, error) {
	path := host.Path(s.Kubeconfig())
	for {
		client, err := cluster.Connect(path, host.Dial)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return client, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// hasCondition makes a check that an object has a condition, and that it is True.
func hasCondition(kind string) func(object []byte) bool {
	return func(object []byte) bool {
		var content struct {
			Status struct {
				Conditions []struct {
					Type, Status string
				}
			}
		}
		if json.Unmarshal(object, &content) != nil {
			return false
		}
		for _, condition := range content.Status.Conditions {
			if condition.Type == kind {
				return condition.Status == "True"
			}
		}
		return false
	}
}

// measureStart starts with an empty data directory.
func (r *run) measureStart(ctx context.Context) error {
	nodeReady, dns, err := r.start(ctx)
	if err != nil {
		return err
	}
	r.record("node-ready", nodeReady.Seconds())
	r.record("dns", dns.Seconds())
	return nil
}

// measureFirst starts from the bare file.
func (r *run) measureFirst(ctx context.Context) error {
	_, dns, err := r.start(ctx)
	if err != nil {
		return err
	}
	r.record("first", dns.Seconds())
	return nil
}

// measureRestart stops the side and starts it again.
func (r *run) measureRestart(ctx context.Context) error {
	took, err := r.side.Stop(stopLimit)
	if err != nil {
		return err
	}
	r.record("stop", took.Seconds())
	began := time.Now()
	if err := r.side.Start(); err != nil {
		return err
	}
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.WaitReady(ctx); err != nil {
		return err
	}
	r.record("restart", time.Since(began).Seconds())
	return nil
}

func fileSize(path string) (megabytes float64, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()) / 1e6, nil
}
