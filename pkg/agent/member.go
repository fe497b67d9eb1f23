package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

// member is this machine's membership in a cluster: its secret, keys and
// certificates, and what it was told of the cluster.
type member struct {
	node     *Node
	paths    config.Paths
	log      *slog.Logger
	balancer string // host:port of the node's own load balancer
	fallback string // host:port that the user gave

	client  join.Client
	secret  string
	cluster join.Cluster

	mu     sync.Mutex
	issued join.Certificates
	keys   join.Keys
}

func (m *member) file(name string) string { return filepath.Join(m.paths.AgentPKI(), name) }

func (m *member) pair(identity join.Identity) pki.KeyPair {
	return pki.KeyPair{Cert: m.file(string(identity) + ".crt"), Key: m.file(string(identity) + ".key")}
}

func (m *member) serverCA() string { return m.file("server-ca.crt") }
func (m *member) clientCA() string { return m.file("client-ca.crt") }

func (m *member) kubeconfig(identity join.Identity) string {
	return filepath.Join(m.paths.AgentEtc(), string(identity)+".kubeconfig")
}

// credentials are the files that write puts in place.
func (m *member) credentials() Credentials {
	return Credentials{
		ClientCA:  m.clientCA(),
		Serving:   m.pair(join.Serving),
		Kubelet:   m.kubeconfig(join.Kubelet),
		KubeProxy: m.kubeconfig(join.KubeProxy),
		Agent:     m.kubeconfig(join.Agent),
	}
}

// load reads what an earlier run has kept. A certificate that has expired is as
// good as none.
func (m *member) load() error {
	m.client.Log = m.log
	ca, err := os.ReadFile(m.serverCA())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m.client.CA = ca
	if cert, err := m.certificate(); err == nil && time.Now().Before(cert.Leaf.NotAfter) {
		m.client.Certificate = cert
	}
	return nil
}

// certificate reads the node's certificate of identity Agent.
func (m *member) certificate() (*tls.Certificate, error) {
	files := m.pair(join.Agent)
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	return &cert, err
}

// join asks for all that a node needs. Nothing is written yet.
func (m *member) join(ctx context.Context) error {
	var err error
	if err = m.client.FindCA(ctx); err != nil {
		return err
	}
	if m.cluster, err = m.client.Cluster(ctx); err != nil {
		return err
	}
	if err := m.node.FindAddresses(m.cluster.ClusterCIDRs); err != nil {
		return err
	}
	if err := m.node.CheckRanges(m.cluster.ClusterCIDRs, m.cluster.ServiceCIDRs); err != nil {
		return err
	}
	if m.secret, err = join.MachineSecret(config.NodePasswordFile); err != nil {
		return err
	}
	return m.request(ctx)
}

// request gets certificates for the keys that there are, or for new ones.
func (m *member) request(ctx context.Context) error {
	keys := join.Keys{}
	for _, identity := range join.Identities() {
		key, err := pki.LoadOrNewKey(m.pair(identity).Key)
		if err != nil {
			return err
		}
		keys[identity] = key
	}
	issued, err := m.client.Certificates(ctx, m.node.Name(), m.secret, keys, m.node.ServingNames())
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.issued, m.keys = issued, keys
	return nil
}

// write puts keys, certificates and kubeconfigs in place. Those who use them
// notice by themselves.
func (m *member) write() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := os.MkdirAll(m.paths.AgentPKI(), 0o700); err != nil {
		return err
	}
	files := map[string]string{m.serverCA(): m.issued.ServerCA, m.clientCA(): m.issued.ClientCA}
	for identity, chain := range m.issued.Issued {
		files[m.pair(identity).Cert] = chain
		if err := pki.WriteKey(m.pair(identity).Key, m.keys[identity]); err != nil {
			return err
		}
	}
	for path, content := range files {
		if _, err := atomicfile.Update(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	for _, identity := range []join.Identity{join.Kubelet, join.KubeProxy, join.Agent} {
		k := pki.Kubeconfig{Server: "https://" + m.balancer, CA: m.serverCA(), Client: m.pair(identity)}
		if err := k.Write(m.kubeconfig(identity), 0o600); err != nil {
			return err
		}
	}
	return nil
}

const (
	renewalInterval = 6 * time.Hour
	renewalRetry    = 10 * time.Minute
)

// renewal asks for new certificates long before the old ones end, as a
// component.
type renewal struct {
	member *member
	run    component.Runner
}

func (*renewal) Name() string                     { return "renewal" }
func (*renewal) Needs() []string                  { return []string{"apiserver"} }
func (r *renewal) Stop(ctx context.Context) error { return r.run.Stop(ctx) }
func (r *renewal) Failed() <-chan error           { return r.run.Failed() }

func (r *renewal) Start(context.Context) error {
	r.run.Run(func(ctx context.Context) error {
		wait := renewalInterval
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
			wait = renewalInterval
			if err := r.renew(ctx); err != nil && ctx.Err() == nil {
				r.member.log.Warn("renewing the node's certificates failed; it is tried again", "component", r.Name(), "in", renewalRetry, "err", err)
				wait = renewalRetry
			}
		}
	})
	return nil
}

// renew replaces the certificates if they are near their end.
func (r *renewal) renew(ctx context.Context) error {
	m := r.member
	cert, err := m.certificate()
	if err != nil {
		return err
	}
	if !pki.NearEnd(cert.Leaf) {
		return nil
	}
	m.client.Certificate = cert
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	if err := m.request(ctx); err != nil {
		return err
	}
	if err := m.write(); err != nil {
		return err
	}
	m.log.Info("renewed the node's certificates", "component", r.Name())
	return nil
}

// String keeps the machine's secret out of logs.
func (m *member) String() string { return fmt.Sprintf("member %s", m.node.Name()) }
