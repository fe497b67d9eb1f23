package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/datadir"
	"github.com/kedge-k8s/kedge/pkg/loadbalancer"
	"github.com/kedge-k8s/kedge/pkg/metrics"
	"github.com/kedge-k8s/kedge/pkg/node"
	"github.com/kedge-k8s/kedge/pkg/token"
)

const (
	// stopLimit is how long everything together may take to stop.
	stopLimit = 9 * time.Second
	// joinLimit is how long a server is waited for.
	joinLimit = 5 * time.Minute
)

// Gate holds back what the libraries complain about while parts start and
// stop. Release logs what was held back.
type Gate interface {
	Open()
	Close()
	Release()
}

// Agent is the role that runs a node and nothing else.
type Agent struct {
	config *config.Agent
	log    *slog.Logger
	gate   Gate
	out    io.Writer // for the person who started it
	node   *Node
	began  time.Time

	// Ready is called once, when the node is Ready.
	Ready func()
}

// New makes an agent that takes its programs and images from the payload
// directory, logs to log, and says to out what a person wants to know.
func New(c *config.Agent, payload string, log *slog.Logger, gate Gate, out io.Writer) (*Agent, error) {
	n, err := NewNode(c.Node, c.Paths, payload, log)
	return &Agent{config: c, log: log, gate: gate, out: out, node: n}, err
}

// Run joins the cluster, runs the node, and returns when ctx ends or a part of
// it fails for good. Pods keep running.
func (a *Agent) Run(ctx context.Context) error {
	began := time.Now()
	a.began = began
	if err := a.preflight(ctx); err != nil {
		return err
	}
	member, err := a.newMember()
	if err != nil {
		return err
	}
	joining, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	if err := member.join(joining); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop while it waited
		}
		return fmt.Errorf("join the cluster: %w", err)
	}
	components, err := a.components(member)
	if err != nil {
		return err
	}
	release, err := a.dir().Claim()
	if err != nil {
		return err
	}
	defer release()
	a.node.RaiseLimits()
	if err := a.node.Prepare(); err != nil {
		return err
	}
	if err := member.write(); err != nil {
		return fmt.Errorf("keep the node's certificates: %w", err)
	}
	manager, err := component.NewManager(a.log, components...)
	if err != nil {
		return err
	}
	return manager.Run(ctx, stopLimit, component.Hooks{
		Started: func(ctx context.Context) { a.announce(ctx, member, began) },
		Stopping: func(err error) {
			if err != nil && !errors.Is(err, component.ErrRestart) {
				a.gate.Release()
			}
			a.gate.Close()
		},
	})
}

func (a *Agent) dir() datadir.Dir {
	return datadir.Dir{Root: a.config.Paths.DataDir, Role: a.config.Paths.Agent()}
}

// preflight refuses what can't work before anything on the machine is changed.
func (a *Agent) preflight(ctx context.Context) error {
	if err := NeedRoot("agent"); err != nil {
		return err
	}
	if err := a.node.Check(ctx); err != nil {
		return err
	}
	if a.config.Node.Profile == config.ProfileCIS {
		if err := CheckPrivate(a.config.ConfigFile, a.config.ConfigFile+".d"); err != nil {
			return err
		}
	}
	if err := a.dir().Check(); err != nil {
		return err
	}
	a.node.ChooseSnapshotter()
	return a.node.CheckPorts(ctx, AllPorts(a.config.Node))
}

// newMember reads what an earlier run has kept, and how to join with it or anew.
func (a *Agent) newMember() (*member, error) {
	m := &member{node: a.node, paths: a.config.Paths, log: a.log, balancer: a.balancerAddress()}
	if err := m.load(); err != nil {
		return nil, err
	}
	if a.config.Join.Token != "" {
		var err error
		if m.client.Token, err = token.Parse(a.config.Join.Token.Reveal()); err != nil {
			return nil, fmt.Errorf("--token: %w", err)
		}
	}
	if m.client.Certificate == nil && a.config.Join.Token == "" {
		return nil, m.needsToken()
	}
	server, err := url.Parse(a.config.Join.Server)
	if err != nil || server.Host == "" {
		return nil, errNoServer
	}
	m.fallback = server.Host
	m.client.Servers = []string{server.Host}
	if m.client.Certificate != nil {
		// Of a cluster that it has joined a node knows more servers than the one it
		// joined through, which may be gone.
		known, err := loadbalancer.Known(a.balancerState())
		if err != nil {
			a.log.Warn("the servers that this node has known can't be read", "err", err)
		}
		m.client.Servers = append(known, m.client.Servers...)
	}
	return m, nil
}

// balancerState keeps the servers that the node knows.
func (a *Agent) balancerState() string {
	return filepath.Join(a.config.Paths.AgentEtc(), "load-balancer.json")
}

func (a *Agent) balancerAddress() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(a.config.Node.LBPort)))
}

// components lists what an agent is made of.
func (a *Agent) components(m *member) ([]component.Component, error) {
	dials := metrics.NewDials()
	balancer, err := loadbalancer.New(loadbalancer.Options{
		Listen:    m.balancer,
		Servers:   m.cluster.Servers,
		Default:   m.fallback,
		StateFile: a.balancerState(),
		Dial:      dials.Dial,
		Logger:    a.log,
	})
	if err != nil {
		return nil, err
	}
	parts, err := a.node.Components(Setup{Cluster: m.cluster, Credentials: m.credentials()})
	if err != nil {
		return nil, err
	}
	renewal := newRenewal(m)
	t := NewTunnel(a.node, m.cluster.EgressMode, m.tls, renewal.lookSoon)
	t.SetServers(m.cluster.Servers)
	follow := NewServers(m.credentials().Agent, func(list []string) {
		if err := balancer.SetServers(list); err != nil {
			a.log.Warn("the cluster's servers can't be kept", "component", "servers", "servers", list, "err", err)
		}
	}, t.SetServers)
	commands := control.NewServer(filepath.Join(config.RuntimeDir, control.Socket), "agent", a.log)
	control.Handle(commands, control.RotateCertificates, renewal.rotate)
	about := a.describe(m, balancer)
	control.Handle(commands, control.Describe, about)
	if m.cluster.SupervisorMetrics {
		legacyregistry.RawMustRegister(&metrics.Collector{About: about}, dials)
		parts = append(parts, &metricsServer{member: m, log: a.log})
	}
	return append(parts,
		&balancerComponent{balancer: balancer},
		component.Nothing("listener", "load-balancer"),
		component.Nothing("apiserver", "load-balancer"),
		renewal,
		commands,
		follow,
		t,
	), nil
}

// announce says when the node is Ready.
func (a *Agent) announce(ctx context.Context, m *member, began time.Time) {
	if err := node.WaitReady(ctx, m.credentials().Agent, a.node.Name(), a.log); err != nil {
		if ctx.Err() != nil {
			return
		}
		a.gate.Release()
		a.log.Warn("the node is not Ready; on a server look with: kedge kubectl describe node "+a.node.Name(), "err", err)
		if node.UntilReady(ctx, m.credentials().Agent, a.node.Name(), a.log) != nil {
			return
		}
	}
	a.Ready()
	a.gate.Open()
	took := time.Since(began)
	a.log.Info("node is Ready", "node", a.node.Name(), "at", took.Round(time.Millisecond))
	fmt.Fprintf(a.out, "\nNode %s joined %s and is Ready after %.1f s. Ctrl-C stops Kedge; pods keep running.\n\n", a.node.Name(), m.fallback, took.Seconds())
	a.node.Settle(ctx)
}
