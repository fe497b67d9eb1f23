package node

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"text/template"

	"github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

//go:embed containerd.toml.tmpl
var containerdTemplate string

// ContainerdConfig fills containerd's configuration file.
type ContainerdConfig struct {
	Root             string // persistent: images, snapshots, containers
	State            string // gone with a reboot
	Socket           string
	ConfigFile       string // where the rendered configuration goes
	PauseImage       string
	Snapshotter      string
	Runc             string // path of the program
	CNIPlugins       []string
	CNIConfig        string // directory
	RegistryConfig   string // directory of hosts.toml files
	SystemdCgroups   bool
	RestrictOOMScore bool // this process may not lower scores
	AppArmor         bool
}

// Containerd is containerd as a component.
type Containerd struct {
	config ContainerdConfig
	server *server.Server
	cancel context.CancelFunc
}

// NewContainerd makes the component.
func NewContainerd(c ContainerdConfig) *Containerd { return &Containerd{config: c} }

func (*Containerd) Name() string    { return "containerd" }
func (*Containerd) Needs() []string { return nil }

// Start does what containerd's own main does, without its signals and service
// manager.
func (c *Containerd) Start(ctx context.Context) error {
	if err := c.writeConfig(); err != nil {
		return err
	}
	life, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	all := registry.Graph(func(*plugin.Registration) bool { return false })
	loaded := &srvconfig.Config{Plugins: map[string]any{}}
	plugins := func() iter.Seq[plugin.Registration] { return slices.Values(all) }
	if err := srvconfig.LoadConfigWithPlugins(ctx, c.config.ConfigFile, plugins, loaded); err != nil {
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
	t, err := template.New("containerd").Parse(containerdTemplate)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, c.config); err != nil {
		return fmt.Errorf("containerd configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.config.ConfigFile), 0o700); err != nil {
		return err
	}
	_, err = atomicfile.Update(c.config.ConfigFile, out.Bytes(), 0o600)
	return err
}
