package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/node"
	"github.com/kedge-k8s/kedge/pkg/version"
)

// preflight refuses what can't work, with what to do about it, before anything
// on the machine is changed.
func (s *Server) preflight(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("a server needs root: run it with sudo")
	}
	if err := s.host.CheckKernel(); err != nil {
		return err
	}
	if err := s.host.CheckCgroups(); err != nil {
		return err
	}
	node.LoadModules(ctx)
	var err error
	if s.cgroups, err = s.host.Cgroups(); err != nil {
		return err
	}
	if s.addresses, err = s.nodeAddresses(); err != nil {
		return err
	}
	interfaces, err := hostcheck.HostInterfaces(hostcheck.OwnInterface)
	if err != nil {
		return err
	}
	if err := hostcheck.CheckRanges(s.config.Network.ClusterCIDRs, s.config.Network.ServiceCIDRs, interfaces); err != nil {
		return err
	}
	if err := s.checkKubeconfigPath(); err != nil {
		return err
	}
	if err := s.checkDataDir(ctx); err != nil {
		return err
	}
	return s.checkPorts(ctx)
}

// Ports are what a server listens on.
func Ports(c *config.Server) []hostcheck.Port {
	return []hostcheck.Port{
		{Host: c.ControlPlane.BindAddress.String(), Number: int(c.ControlPlane.Port), Use: "API server", Option: "--https-listen-port"},
		{Number: 10250, Use: "kubelet", Option: "--kubelet-arg=port=…"},
		{Host: "127.0.0.1", Number: 10248, Use: "kubelet's health", Option: "--kubelet-arg=healthz-port=…"},
		{Host: "127.0.0.1", Number: 10257, Use: "controller manager", Option: "--kube-controller-manager-arg=secure-port=…"},
		{Host: "127.0.0.1", Number: 10259, Use: "scheduler", Option: "--kube-scheduler-arg=secure-port=…"},
	}
}

func (s *Server) checkPorts(ctx context.Context) error {
	for _, p := range Ports(s.config) {
		if err := s.host.CheckPort(ctx, p.Host, p.Number, p.Option); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) checkKubeconfigPath() error {
	path := s.config.Kubeconfig.Path
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("--write-kubeconfig: %s is a directory: name a file in it", path)
	}
	if err := hostcheck.Writable(filepath.Dir(path)); err != nil {
		return fmt.Errorf("--write-kubeconfig: %w", err)
	}
	if _, err := groupID(s.config.Kubeconfig.Group); err != nil {
		return err
	}
	return nil
}

func (s *Server) checkDataDir(ctx context.Context) error {
	dir := s.config.Paths.DataDir
	if err := hostcheck.Writable(dir); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	free, err := hostcheck.FreeSpace(dir)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if free < hostcheck.MinFreeSpace {
		return fmt.Errorf("--data-dir: only %d MB are free on the file system of %s, and %d are needed: make room, or choose another --data-dir", free>>20, dir, hostcheck.MinFreeSpace>>20)
	}
	if err := checkVersion(dir); err != nil {
		return err
	}
	// A running server holds the lock and the ports: it is the clearer news.
	lock, err := lockServer(s.config.Paths.Server(), 0)
	if err == nil {
		_ = lock.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := datastore.CheckSQLite(ctx, filepath.Join(s.config.Paths.DB(), "state.db")); err != nil {
		return err
	}
	if s.snapshotter == "overlayfs" && s.config.Node.RuntimeEndpoint == "" {
		if err := hostcheck.OverlayUsable(dir); err != nil {
			s.log.Warn("using the native snapshotter, which copies images and takes more space and time", "why", err)
			s.snapshotter = "native"
		}
	}
	return nil
}

// checkVersion refuses a data directory that a newer Kedge has written to.
func checkVersion(dataDir string) error {
	data, err := os.ReadFile(versionFile(dataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if last := strings.TrimSpace(string(data)); version.Newer(last, version.Version) {
		return fmt.Errorf("%s was last used by Kedge %s, and this is %s, which is older: install %s or newer, or restore a backup from before the upgrade", dataDir, last, version.Version, last)
	}
	return nil
}

func (s *Server) resolvConfCopy() string {
	return filepath.Join(s.config.Paths.AgentEtc(), "resolv.conf")
}

// resolvConf is the path of a resolv.conf that pods can use.
func (s *Server) resolvConf() string {
	if s.config.Node.ResolvConf != "" {
		return s.config.Node.ResolvConf
	}
	if r, ok := s.host.ResolvConf(); ok && !r.Filtered {
		return r.Path
	}
	return s.resolvConfCopy()
}

// prepareNode makes the machine ready for pods, and writes what the node's
// components read.
func (s *Server) prepareNode() error {
	if s.cgroups.Version == 2 && s.cgroups.Nested && s.cgroups.AtRoot() {
		if err := node.LeaveCgroup(hostcheck.CgroupRoot); err != nil {
			return err
		}
	}
	if s.resolvConf() != s.resolvConfCopy() {
		return nil
	}
	r, found := s.host.ResolvConf()
	content := r.Content
	if found {
		s.log.Info("pods get a resolv.conf without the nameservers that only this machine reaches", "from", r.Path)
	} else {
		content = hostcheck.FallbackResolvConf()
		s.log.Warn("this machine has no nameserver that pods can reach, so they get 8.8.8.8: name a file with --resolv-conf to choose another")
	}
	_, err := atomicfile.Update(s.resolvConfCopy(), content, 0o644)
	return err
}
