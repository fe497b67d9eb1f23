package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/kedge-k8s/kedge/pkg/agent"
	"github.com/kedge-k8s/kedge/pkg/bootstrap"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/controlplane"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/leader"
	"github.com/kedge-k8s/kedge/pkg/token"
)

// joinLimit is how long a server is waited for.
const joinLimit = 5 * time.Minute

// sharedFiles are what all servers of a cluster have in common, below the
// directory of the server role. Those that do not exist are none.
var sharedFiles = []string{
	"token",
	"agent-token",
	"tls/server-ca.crt", "tls/server-ca.key",
	"tls/client-ca.crt", "tls/client-ca.key",
	"tls/request-header-ca.crt", "tls/request-header-ca.key",
	"tls/service.key",
	"tls/etcd/server-ca.crt", "tls/etcd/server-ca.key",
	"tls/etcd/peer-ca.crt", "tls/etcd/peer-ca.key",
	"cred/encryption-config.json", "cred/encryption-state.json",
}

// usesEtcd says whether this server's state is in embedded etcd: because an
// option says so, or because it has been before.
func (s *Server) usesEtcd() bool {
	return s.config.Datastore.Endpoint == "" && (s.config.Etcd.ClusterInit || s.config.Join.Server != "" || datastore.UsesEtcd(s.config.Paths))
}

// peers are the servers that this one joins.
type peers struct {
	server *Server
	client join.Client
	secret string // the machine's
}

// newPeers reads how to reach the servers named by --server; nil if there are none.
func (s *Server) newPeers() (*peers, error) {
	c := s.config
	if c.Join.Server == "" {
		return nil, nil
	}
	to, err := url.Parse(c.Join.Server)
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	p := &peers{server: s, client: join.Client{Servers: []string{to.Host}, User: token.Server, Log: s.log}}
	if p.client.Token, err = s.clusterToken(); err != nil {
		return nil, err
	}
	if !datastore.HasEtcd(c.Paths.Etcd()) {
		return p, s.refuseOwnState()
	}
	p.client.CA, err = os.ReadFile(s.layout.ServerCA().Cert)
	return p, err
}

// clusterToken is the one that servers join with: given, or kept by an earlier run.
func (s *Server) clusterToken() (token.Token, error) {
	if s.config.Join.Token != "" {
		t, err := token.Parse(s.config.Join.Token.Reveal())
		if err != nil {
			return t, fmt.Errorf("--token: %w", err)
		}
		if t.User == token.Node || t.BootstrapID != "" {
			return t, fmt.Errorf("--token: this is a token with which agents join: give that of the cluster, which another server has in %s", s.config.Paths.Token())
		}
		return t, nil
	}
	t, _, err := token.ReadFile(s.config.Paths.Token())
	if errors.Is(err, fs.ErrNotExist) {
		return t, fmt.Errorf("this server has not joined yet: give the token of the cluster with --token, --token-file or KEDGE_TOKEN; another server has it in %s", s.config.Paths.Token())
	}
	return t, err
}

// refuseOwnState keeps a cluster of this machine's own from being forgotten.
func (s *Server) refuseOwnState() error {
	database := filepath.Join(s.config.Paths.DB(), "state.db")
	if info, err := os.Stat(database); err == nil && info.Size() > 0 {
		return fmt.Errorf("--server: this machine has a cluster of its own in %s: remove --server to go on with it, or move the file away to leave it for the other cluster", database)
	}
	return nil
}

// join gets what all servers have in common, before anything reads it, unless
// this server has joined before.
func (p *peers) join(ctx context.Context) error {
	s := p.server
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	var err error
	if p.secret, err = join.MachineSecret(config.NodePasswordFile); err != nil {
		return err
	}
	if datastore.HasEtcd(s.config.Paths.Etcd()) {
		return nil
	}
	if err := p.client.FindCA(ctx); err != nil {
		return err
	}
	files, err := p.client.Bootstrap(ctx, join.NewServer{Node: s.node.Name(), Secret: p.secret, Options: s.config.Agreed()})
	if err != nil {
		return err
	}
	return bootstrap.Data(files).Install(s.config.Paths.Server(), sharedFiles)
}

func (p *peers) AddMember(ctx context.Context, name, peer string) ([]join.Member, error) {
	return p.client.AddMember(ctx, join.NewMember{Node: p.server.node.Name(), Secret: p.secret, Name: name, Peer: peer})
}

func (p *peers) Promote(ctx context.Context, id uint64) error { return p.client.Promote(ctx, id) }

func (p *peers) Members(ctx context.Context) (join.Members, error) { return p.client.Members(ctx) }

// servers lets further servers join, and keeps what they need in the datastore.
type servers struct {
	*datastore.Etcd
	server *Server
}

func (s servers) Options() map[string]string { return s.server.config.Agreed() }

func (s servers) Bootstrap() (map[string][]byte, error) {
	return bootstrap.Collect(s.server.config.Paths.Server(), sharedFiles)
}

func (s servers) Members(context.Context) (join.Members, error) { return s.Etcd.Members(), nil }

// keeper keeps the bootstrap data in the datastore, encrypted, as a component.
type keeper struct {
	servers servers
	tokens  *tokens
	run     component.Runner
}

func (*keeper) Name() string                     { return "bootstrap-data" }
func (*keeper) Needs() []string                  { return []string{"datastore", "tokens", "apiserver"} }
func (k *keeper) Stop(ctx context.Context) error { return k.run.Stop(ctx) }

// Start does the work in the background: making a key from the token takes the
// better part of a second on a small board.
func (k *keeper) Start(context.Context) error {
	k.run.Run(func(ctx context.Context) error {
		for wait := time.Second; ; wait = min(2*wait, time.Minute) {
			err := k.keep(ctx)
			if err == nil {
				break
			}
			if ctx.Err() == nil {
				k.servers.server.log.Warn("the cluster's keys are not kept in the datastore yet; it is tried again", "component", k.Name(), "in", wait, "err", err)
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
		}
		<-ctx.Done()
		return nil
	})
	return nil
}

func (k *keeper) keep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	files, err := k.servers.Bootstrap()
	if err != nil {
		return err
	}
	secret := k.tokens.secret()
	stored, err := k.servers.Get(ctx, bootstrap.Key)
	if err != nil {
		return err
	}
	if known, err := bootstrap.Open(secret, stored); err == nil && same(known, files) {
		return nil
	}
	content, err := bootstrap.Data(files).Seal(secret)
	if err != nil {
		return err
	}
	return k.servers.Put(ctx, bootstrap.Key, content)
}

func same(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for name, content := range a {
		other, ok := b[name]
		if !ok || !slices.Equal(content, other) {
			return false
		}
	}
	return true
}

// clusterAddresses are this server's own at which the other servers reach it.
func (s *Server) clusterAddresses() []netip.Addr {
	addresses := append([]netip.Addr{s.advertiseAddress()}, s.node.Addresses()...)
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses)
}

// address is this server's, as host:port.
func (s *Server) address() string {
	return net.JoinHostPort(s.advertiseAddress().String(), strconv.Itoa(int(s.config.ControlPlane.Port)))
}

// allServers are the servers of the cluster, this one first.
func (s *Server) allServers() []string {
	all := []string{s.address()}
	if known := s.known.Load(); known != nil {
		for _, address := range *known {
			if address != all[0] {
				all = append(all, address)
			}
		}
	}
	return all
}

// among lists what a server has beside its control plane as one of several. The
// parts that only one of them runs are the leader's.
func (s *Server) among(etcd *datastore.Etcd, tokens *tokens, controllers *controlplane.ControllerManager, alone []component.Component) []component.Component {
	lead := &leader.Leader{
		Kubeconfig: s.layout.Kubeconfig("addons"),
		Identity:   s.node.Name(),
		Parts:      alone,
		Log:        s.log,
	}
	follow := agent.NewServers(s.layout.Kubeconfig("agent"), func(list []string) { s.known.Store(&list) })
	components := []component.Component{lead, follow, &keeper{servers: servers{etcd, s}, tokens: tokens}}
	if s.config.DisableAgent {
		return components
	}
	lead.Started = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, component.DefaultStartLimit)
		defer cancel()
		if err := controllers.Built(ctx); err != nil {
			return err
		}
		return s.node.ReclaimVolumes(ctx)
	}
	// The other servers reach this node as they reach agents.
	t := agent.NewTunnel(s.node, s.config.Network.EgressSelectorMode, func() (*tls.Config, error) {
		return agent.ClientTLS(s.layout.Client("agent"), s.layout.ServerCA().Cert)
	}, nil)
	follow.Learn(func(list []string) {
		t.SetServers(slices.DeleteFunc(slices.Clone(list), func(address string) bool { return address == s.address() }))
	})
	return append(components, t, &serverNode{
		node:       s.node.Name(),
		member:     etcd.MemberName,
		kubeconfig: s.layout.Kubeconfig("join"),
		log:        s.log,
	})
}
