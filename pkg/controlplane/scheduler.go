package controlplane

import (
	"context"
	"strconv"

	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/probe"
)

const schedulerPort = 10259

// SchedulerConfig is what the scheduler is told.
type SchedulerConfig struct {
	PKI       pki.Layout
	Profiling bool
	ExtraArgs []config.Arg
}

// Scheduler is kube-scheduler as a component.
type Scheduler struct {
	options *options.Options
	url     string
	ca      string
	run     component.Runner
}

// NewScheduler checks the user's arguments.
func NewScheduler(c SchedulerConfig) (*Scheduler, error) {
	o := options.NewOptions()
	if err := setFlags(o.Flags, c.flags(), "kube-scheduler-arg", c.ExtraArgs); err != nil {
		return nil, err
	}
	return &Scheduler{
		options: o,
		url:     "https://127.0.0.1:" + strconv.Itoa(o.SecureServing.BindPort) + "/healthz",
		ca:      c.PKI.ServerCA().Cert,
	}, nil
}

func (c SchedulerConfig) flags() map[string]string {
	serving, kubeconfig := c.PKI.Serving("kube-scheduler"), c.PKI.Kubeconfig("kube-scheduler")
	return map[string]string{
		"authentication-kubeconfig": kubeconfig,
		"authorization-kubeconfig":  kubeconfig,
		"bind-address":              "127.0.0.1",
		"contention-profiling":      "false", // costs the whole process, all the time
		"kubeconfig":                kubeconfig,
		"leader-elect":              "false", // as in the controller manager
		"profiling":                 strconv.FormatBool(c.Profiling),
		"secure-port":               strconv.Itoa(schedulerPort),
		"tls-cert-file":             serving.Cert,
		"tls-private-key-file":      serving.Key,
	}
}

func (*Scheduler) Name() string    { return "scheduler" }
func (*Scheduler) Needs() []string { return []string{"apiserver"} }

func (s *Scheduler) Start(ctx context.Context) error {
	completed, scheduler, err := app.Setup(s.run.Context(), s.options, withPromptVolumeBinding(s.options))
	if err != nil {
		return err
	}
	s.run.Run(func(ctx context.Context) error { return app.Run(ctx, completed, scheduler) })
	return nil
}

func (s *Scheduler) Ready(ctx context.Context) error { return probe.Wait(ctx, s.url, s.ca) }
func (s *Scheduler) Stop(ctx context.Context) error  { return s.run.Stop(ctx) }
func (s *Scheduler) Failed() <-chan error            { return s.run.Failed() }
