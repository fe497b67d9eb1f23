package node

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/registries"
)

// Containerd is containerd as a component.
type Containerd struct {
	config ContainerdConfig
	file   []byte // the rendered configuration
	log    *slog.Logger
	server *server.Server
	cancel context.CancelFunc
}

// NewContainerd checks the user's template, and that no settings of the user's
// are where those of the registries belong.
func NewContainerd(c ContainerdConfig, log *slog.Logger) (*Containerd, error) {
	if err := c.Registries.Check(); err != nil {
		return nil, err
	}
	file, err := c.render()
	if err != nil {
		return nil, err
	}
	return &Containerd{config: c, file: file, log: log}, nil
}

func (*Containerd) Name() string    { return "containerd" }
func (*Containerd) Needs() []string { return nil }

// Start does what containerd's own main does, without its signals and service
// manager.
func (c *Containerd) Start(ctx context.Context) error {
	if err := c.writeConfig(); err != nil {
		return err
	}
	for _, r := range c.config.Runtimes {
		c.log.Info("found a container runtime", "component", c.Name(), "runtimeclass", r.Name, "program", r.Program)
	}
	life, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	all := registry.Graph(c.pulls)
	loaded := &srvconfig.Config{Plugins: map[string]any{}}
	registered := func() iter.Seq[plugin.Registration] { return slices.Values(all) }
	if err := srvconfig.LoadConfigWithPlugins(ctx, c.config.ConfigFile, registered, loaded); err != nil {
		return fmt.Errorf("containerd configuration %s: %w", c.config.ConfigFile, err)
	}
	if err := server.CreateTopLevelDirectories(loaded); err != nil {
		return err
	}
	if err := mount.SetTempMountLocation(filepath.Join(loaded.Root, "tmpmounts")); err != nil {
		return err
	}
	// What a killed predecessor left mounted.
	if _, err := mount.CleanupTempMounts(0); err != nil {
		return fmt.Errorf("unmount leftovers: %w", err)
	}
	// containerd needs its sockets' directory, and replaces stale sockets.
	if err := os.MkdirAll(filepath.Dir(c.config.Socket), 0o711); err != nil {
		return err
	}
	var err error
	if c.server, err = server.New(life, loaded); err != nil {
		return err
	}
	return c.server.Start(life)
}

// pulls has the plugin that pulls images do so by the registries' file. As a
// filter of plugins it lets all of them pass.
func (c *Containerd) pulls(r *plugin.Registration) (leaveOut bool) {
	if r.Type != plugins.TransferPlugin {
		return false
	}
	init := r.InitFn
	r.InitFn = func(ic *plugin.InitContext) (any, error) {
		instance, err := init(ic)
		if inner, ok := instance.(transfer.Transferrer); ok && err == nil {
			return c.config.Await(registries.Pulls(inner, c.config.Registries, c.config.Peers)), nil
		}
		return instance, err
	}
	return false
}

// Ready waits until the plugins that register readiness, the CRI among them,
// serve.
func (c *Containerd) Ready(ctx context.Context) error {
	ready := make(chan struct{})
	go func() { c.server.Wait(); close(ready) }()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("its plugins are not ready: %w", ctx.Err())
	}
}

// Stop ends containerd; its shims and the containers in them go on.
func (c *Containerd) Stop(context.Context) error {
	c.cancel()
	c.server.Stop()
	return nil
}

func (c *Containerd) writeConfig() error {
	if err := os.MkdirAll(filepath.Dir(c.config.ConfigFile), 0o700); err != nil {
		return err
	}
	// A template may put passwords into it.
	if _, err := atomicfile.Update(c.config.ConfigFile, c.file, 0o600); err != nil {
		return err
	}
	return c.config.Registries.Write()
}
