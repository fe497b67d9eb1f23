package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kedge-k8s/kedge/tests/bench/stock"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// agent measures a second node, on a host of its own.
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
	host, err := r.newHost(r.name + "-agent")
	if err != nil {
		return err
	}
	node := r.secondNode(host)
	r.more = append(r.more, node)
	if err := r.step(ctx, "prepare the agent", node.Prepare); err != nil {
		return err
	}
	r.calm()
	if err := r.step(ctx, "join", func(ctx context.Context) error { return r.measureJoin(ctx, node, host.Name) }); err != nil {
		return err
	}
	return r.measureIdleAgent(ctx, node)
}

// secondNode is one that the side's cluster doesn't have yet.
func (r *run) secondNode(host *testbed.Host) side {
	if stack, ok := r.side.(*stock.Stack); ok {
		return stack.Node(host)
	}
	return &kedge{host: host, server: r.host}
}

func (r *run) measureJoin(ctx context.Context, node side, name string) error {
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	began := time.Now()
	if err := node.Start(); err != nil {
		return err
	}
	if err := client.WaitObject(ctx, "/api/v1/nodes", name, hasCondition("Ready")); err != nil {
		return err
	}
	r.record("join", time.Since(began).Seconds())
	return nil
}

func (r *run) measureIdleAgent(ctx context.Context, node side) error {
	idle, err := r.idle(ctx, node)
	if err != nil {
		return fmt.Errorf("idle agent: %w", err)
	}
	r.record("agent-pss", idle.stack.pss)
	r.record("agent-anonymous", idle.stack.anonymous)
	r.record("agent-cpu", idle.processor)
	r.record("agent-writes", idle.written)
	return nil
}
