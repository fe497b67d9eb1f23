package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kedge-k8s/kedge/tests/bench/stock"
)

// agent measures nodes beside the first, on hosts of their own.
func (r *run) agent(ctx context.Context) error {
	r.compare()
	if err := r.step(ctx, "prepare", r.side.Prepare); err != nil {
		return err
	}
	// DNS runs on the first node then, and stays there.
	if err := r.step(ctx, "start", func(ctx context.Context) error {
		_, _, err := r.start(ctx)
		return err
	}); err != nil {
		return err
	}
	if err := r.step(ctx, "join", func(ctx context.Context) error { return r.measureJoin(ctx, "join", 1) }); err != nil {
		return err
	}
	if err := r.measureIdleAgent(ctx); err != nil {
		return err
	}
	return r.step(ctx, "join together", func(ctx context.Context) error { return r.measureJoin(ctx, "join-together", joinTogether) })
}

// joinTogether is how many agents start at the same moment.
const joinTogether = 3

// measureJoin starts more nodes at the same moment, and waits until the last of
// them is Ready.
func (r *run) measureJoin(ctx context.Context, key string, nodes int) error {
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	var names []string
	for i := range nodes {
		name, err := r.addNode(ctx, fmt.Sprintf("%s-%s-%d", r.name, key, i+1))
		if err != nil {
			return fmt.Errorf("prepare an agent: %w", err)
		}
		names = append(names, name)
	}
	r.calm()
	began := time.Now()
	for _, node := range r.nodes[len(r.nodes)-nodes:] {
		if err := node.Start(); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := client.WaitObject(ctx, "/api/v1/nodes", name, hasCondition("Ready")); err != nil {
			return err
		}
	}
	r.record(key, time.Since(began).Seconds())
	return nil
}

// addNode prepares a node that the side's cluster doesn't have yet.
func (r *run) addNode(ctx context.Context, host string) (name string, err error) {
	h, err := r.newHost(host)
	if err != nil {
		return "", err
	}
	var node side = &kedge{host: h, server: r.host}
	if stack, ok := r.side.(*stock.Stack); ok {
		node = stack.Node(h)
	}
	r.nodes = append(r.nodes, node)
	return h.Name, node.Prepare(ctx)
}

func (r *run) measureIdleAgent(ctx context.Context) error {
	idle, err := r.idle(ctx, r.nodes[0])
	if err != nil {
		return fmt.Errorf("idle agent: %w", err)
	}
	r.record("agent-pss", idle.stack.pss)
	r.record("agent-anonymous", idle.stack.anonymous)
	r.record("agent-cpu", idle.processor)
	r.record("agent-writes", idle.written)
	return nil
}
