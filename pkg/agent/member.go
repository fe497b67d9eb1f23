package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/clock"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/token"
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
	ended   time.Time // when the certificate ended that can't be used any more; zero: there is none
	secret  string
	cluster join.Cluster
	issued  join.Certificates
	keys    join.Keys

	renewing sync.Mutex // one at a time changes the certificates, once it has joined
}

func (m *member) file(name string) string { return filepath.Join(m.paths.AgentPKI(), name) }

func (m *member) pair(identity join.Identity) pki.KeyPair {
	return pki.KeyPair{Cert: m.file(string(identity) + ".crt"), Key: m.file(string(identity) + ".key")}
}

func (m *member) serverCA() string  { return m.file("server-ca.crt") }
func (m *member) formerCAs() string { return m.file("former-cas") }
func (m *member) clientCA() string  { return m.file("client-ca.crt") }

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
	for _, identity := range join.Identities() {
		if err := pki.Settle(m.pair(identity)); err != nil {
			return err
		}
	}
	ca, err := os.ReadFile(m.serverCA())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m.client.CA = ca
	former, err := os.ReadFile(m.formerCAs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m.client.Former = strings.Fields(string(former))
	if cert, err := m.certificate(); err == nil { // else it has not joined yet, or not to the end
		if time.Now().After(cert.Leaf.NotAfter) {
			m.ended = cert.Leaf.NotAfter
		} else {
			m.client.Certificate = cert
		}
	}
	return nil
}

// needsToken says why this machine can't join without one.
func (m *member) needsToken() error {
	give := fmt.Sprintf("give the token of the cluster with --token, --token-file or KEDGE_TOKEN; a server has it in %s", m.paths.NodeToken())
	if m.ended.IsZero() {
		return errors.New("this machine has not joined yet: " + give)
	}
	const layout = "2006-01-02 15:04 UTC"
	return fmt.Errorf("this node's certificate ended at %s, and this machine's clock says %s: if that is wrong, set the clock (with timedatectl, or date); else %s",
		m.ended.UTC().Format(layout), time.Now().UTC().Format(layout), give)
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
	if err := m.node.AvoidProxy(m.cluster.ClusterCIDRs, m.cluster.ServiceCIDRs, m.cluster.ClusterDomain, append(m.cluster.Servers, m.fallback)...); err != nil {
		return err
	}
	if err := m.node.CheckRanges(m.cluster.ClusterCIDRs, m.cluster.ServiceCIDRs); err != nil {
		return err
	}
	if m.secret, err = join.MachineSecret(config.NodePasswordFile); err != nil {
		return err
	}
	return m.request(ctx, pki.LoadOrNewKey)
}

// request gets certificates for the keys that there are, or for new ones: keyAt
// says which, by the path of each.
func (m *member) request(ctx context.Context, keyAt func(path string) (crypto.Signer, error)) error {
	keys := join.Keys{}
	for _, identity := range join.Identities() {
		key, err := keyAt(m.pair(identity).Key)
		if err != nil {
			return err
		}
		keys[identity] = key
	}
	issued, err := m.client.Certificates(ctx, m.node.Name(), m.secret, keys, m.node.ServingNames())
	if err != nil {
		return err
	}
	m.issued, m.keys = issued, keys
	return nil
}

// write puts keys, certificates and kubeconfigs in place. Those who use them
// notice by themselves.
func (m *member) write() error {
	if err := os.MkdirAll(m.paths.AgentPKI(), 0o700); err != nil {
		return err
	}
	if err := m.rememberCA(); err != nil {
		return err
	}
	for path, content := range map[string]string{m.serverCA(): m.issued.ServerCA, m.clientCA(): m.issued.ClientCA} {
		if _, err := atomicfile.Update(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	for identity, key := range m.keys {
		if err := pki.WritePair(m.pair(identity), []byte(m.issued.Issued[identity]), key); err != nil {
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

// rememberCA keeps the hash of a bundle of servers' authorities that is about to be
// replaced: the token that this machine is given may name it.
func (m *member) rememberCA() error {
	if len(m.client.CA) == 0 || string(m.client.CA) == m.issued.ServerCA {
		m.client.CA = []byte(m.issued.ServerCA)
		return nil
	}
	if hash := token.HashCA(m.client.CA); !slices.Contains(m.client.Former, hash) {
		m.client.Former = append(m.client.Former, hash)
	}
	m.client.CA = []byte(m.issued.ServerCA)
	_, err := atomicfile.Update(m.formerCAs(), []byte(strings.Join(m.client.Former, "\n")+"\n"), 0o600)
	return err
}

// succeeded says whether the cluster's authorities have changed.
func (m *member) succeeded(ctx context.Context) (bool, error) {
	m.renewing.Lock()
	defer m.renewing.Unlock()
	client := m.client
	client.Servers = []string{m.balancer}
	bundle, err := client.CurrentCA(ctx)
	return err == nil && !bytes.Equal(bundle, m.client.CA), err
}

// due says whether a certificate is near its end.
func (m *member) due() (bool, error) {
	for _, identity := range join.Identities() {
		authority := m.clientCA()
		if identity == join.Serving {
			authority = m.serverCA()
		}
		ca, err := pki.LoadCertificate(authority)
		if err != nil {
			return false, err
		}
		cert, err := pki.LoadCertificate(m.pair(identity).Cert)
		if err != nil {
			return false, err
		}
		if pki.Due(cert, ca) {
			return true, nil
		}
	}
	return false, nil
}

// renew replaces all certificates of a node that runs, for the keys that keyAt
// says.
func (m *member) renew(ctx context.Context, keyAt func(path string) (crypto.Signer, error)) error {
	m.renewing.Lock()
	defer m.renewing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, renewalLimit)
	defer cancel()
	cert, err := m.certificate()
	if err != nil {
		return err
	}
	m.client.Certificate = cert
	m.client.Servers = []string{m.balancer} // which knows the servers of now
	if err := m.request(ctx, keyAt); err != nil {
		return err
	}
	return m.write()
}

const (
	renewalRetry = 10 * time.Minute
	renewalLimit = time.Minute
)

// renewal asks for new certificates long before the old ones end, as a
// component.
type renewal struct {
	member *member
	look   chan struct{} // holds a token when there is a reason to look
	run    component.Runner
}

func newRenewal(m *member) *renewal { return &renewal{member: m, look: make(chan struct{}, 1)} }

func (*renewal) Name() string                     { return "renewal" }
func (*renewal) Needs() []string                  { return []string{"apiserver"} }
func (r *renewal) Stop(ctx context.Context) error { return r.run.Stop(ctx) }
func (r *renewal) Failed() <-chan error           { return r.run.Failed() }

func (r *renewal) Start(context.Context) error {
	r.run.Run(func(ctx context.Context) error {
		clockSet := clock.Sets(ctx, r.member.log)
		wait := pki.CheckInterval
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			case <-r.look:
			case <-clockSet:
			}
			wait = pki.CheckInterval
			err := r.check(ctx)
			if errors.Is(err, component.ErrRestart) {
				return err
			}
			if err != nil && ctx.Err() == nil {
				r.member.log.Warn("renewing the node's certificates failed; it is tried again", "component", r.Name(), "in", renewalRetry, "err", err)
				wait = renewalRetry
			}
		}
	})
	return nil
}

// lookSoon has the certificates looked at now: a server that was away may have new
// authorities.
func (r *renewal) lookSoon() {
	select {
	case r.look <- struct{}{}:
	default:
	}
}

// check renews the certificates if they are near their end, or the cluster has new
// authorities. With one that has ended, as after the clock was set, a node can't ask
// for another: it joins again if it has a token.
func (r *renewal) check(ctx context.Context) error {
	cert, err := r.member.certificate()
	if err != nil {
		return err
	}
	if time.Now().After(cert.Leaf.NotAfter) && r.member.client.Token.Secret() != "" {
		return fmt.Errorf("the node's certificate has ended, and the token gets another: %w", component.ErrRestart)
	}
	succeeded, err := r.member.succeeded(ctx)
	if err != nil {
		return err
	}
	if due, err := r.member.due(); err != nil || !due && !succeeded {
		return err
	}
	if err := r.member.renew(ctx, pki.LoadOrNewKey); err != nil {
		return err
	}
	r.member.log.Info("renewed the node's certificates", "component", r.Name(), "new CAs", succeeded)
	return nil
}

// rotate replaces all keys and certificates at once.
func (r *renewal) rotate(ctx context.Context, _ control.None) (control.Rotated, error) {
	err := r.member.renew(ctx, func(string) (crypto.Signer, error) { return pki.NewKey() })
	if err != nil {
		return control.Rotated{}, err
	}
	r.member.log.Info("replaced the node's keys and certificates", "component", r.Name())
	var rotated control.Rotated
	for _, identity := range join.Identities() {
		rotated.Files = append(rotated.Files, r.member.pair(identity).Cert)
	}
	return rotated, nil
}

// String keeps the machine's secret out of logs.
func (m *member) String() string { return fmt.Sprintf("member %s", m.node.Name()) }
