// Package addon keeps the cluster as the files in the directory of manifests say:
// the packaged ones, which it writes there itself, and the user's.
//
// For each file there is an Addon object in kube-system. It says what the file has
// put into the cluster, so that what goes from the file also goes from the
// cluster, whether Kedge ran at that moment or not; and what is wrong with it.
package addon

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/kedge-k8s/kedge/manifests"
	"github.com/kedge-k8s/kedge/pkg/component"
)

// Config says what is deployed.
type Config struct {
	Dir      string   // where the manifests are
	Disabled []string // packaged add-ons that are not deployed
	// Variables returns the values of ${NAME} in packaged manifests.
	Variables  func() (map[string]string, error)
	Kubeconfig string
	// Server is the name of this one of several servers, each of which has a
	// directory of its own; empty: it is the only one.
	Server string
	Log    *slog.Logger
}

// Deployer deploys the manifests as a component.
type Deployer struct {
	config Config
	run    component.Runner
}

// NewDeployer makes the component.
func NewDeployer(c Config) *Deployer { return &Deployer{config: c} }

func (*Deployer) Name() string                     { return "manifests" }
func (*Deployer) Needs() []string                  { return []string{"apiserver"} }
func (d *Deployer) Stop(ctx context.Context) error { return d.run.Stop(ctx) }

// Start writes the packaged manifests, and deploys all there are in the
// background.
func (d *Deployer) Start(context.Context) error {
	log := d.config.Log.With("component", d.Name())
	variables, err := d.config.Variables()
	if err != nil {
		return err
	}
	packaged, err := render(manifests.FS, d.config.Disabled, variables)
	if err != nil {
		return err
	}
	if err := packaged.write(d.config.Dir, log); err != nil {
		return fmt.Errorf("write the packaged manifests: %w", err)
	}
	client, err := connect(d.config.Kubeconfig)
	if err != nil {
		return err
	}
	d.run.Run(newController(d.config.Dir, d.config.Server, packaged, client, log).Run)
	return nil
}
