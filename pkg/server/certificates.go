package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kedge-k8s/kedge/pkg/clock"
	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/controlplane"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/localpath"
	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/token"
)

// certificates makes the cluster's authorities, every component's certificate
// and kubeconfig, and the administrator's kubeconfig. Certificates are renewed
// long before their end; those who use them notice by themselves.
type certificates struct {
	server *Server
	nodes  *nodes
	leaves []leaf
	again  chan string // holds why the server is to start again
	others func() int  // how many other servers there are; nil: there can't be any
	run    component.Runner

	mu sync.Mutex // one at a time issues certificates
}

// leaf is a certificate that an authority of the cluster signs.
type leaf struct {
	ca      *pki.CA
	files   pki.KeyPair
	request pki.Request
}

func (*certificates) Name() string                     { return "certificates" }
func (*certificates) Needs() []string                  { return nil }
func (c *certificates) Stop(ctx context.Context) error { return c.run.Stop(ctx) }
func (c *certificates) Failed() <-chan error           { return c.run.Failed() }

// identities are the clients of the apiserver. None is in system:masters.
func (s *Server) identities() map[string]pki.Request {
	return map[string]pki.Request{
		"admin":                   {CommonName: "kedge:admin", Organization: []string{controlplane.AdminGroup}},
		"addons":                  {CommonName: controlplane.AddonsUser},
		"cloud-controller":        {CommonName: controlplane.CloudControllerUser},
		"helm":                    {CommonName: controlplane.HelmUser},
		"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":              {CommonName: "system:kube-proxy"},
		"join":                    {CommonName: controlplane.JoinUser},
		localpath.AddOn:           {CommonName: controlplane.LocalStorageUser},
		"servicelb":               {CommonName: controlplane.ServiceLBUser},
		"snapshots":               {CommonName: controlplane.SnapshotsUser},
		"node-hosts":              {CommonName: controlplane.NodeHostsUser},
		"upgrades":                {CommonName: controlplane.UpgradesUser},
		"agent":                   {CommonName: join.AgentUser(s.node.Name()), Organization: []string{join.AgentGroup}},
		"kubelet":                 {CommonName: "system:node:" + s.node.Name(), Organization: []string{"system:nodes"}},
	}
}

func (c *certificates) Start(context.Context) error {
	s := c.server
	for _, dir := range append(s.layout.Dirs(), filepath.Join(s.config.Paths.Server(), "etc")) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	var err error
	if c.leaves, err = s.leaves(); err != nil {
		return err
	}
	if _, err := c.issue(leaf.update); err != nil {
		return err
	}
	for name := range s.identities() {
		if name == "admin" {
			continue
		}
		if err := s.kubeconfig(name).Write(s.layout.Kubeconfig(name), 0o600); err != nil {
			return err
		}
	}
	c.run.Run(c.renew)
	return nil
}

// leaves makes or loads the cluster's authorities and lists what they are to sign.
func (s *Server) leaves() ([]leaf, error) {
	layout := s.layout
	serverCA, err := pki.EnsureCA(layout.ServerCA(), "kedge-server-ca")
	if err != nil {
		return nil, err
	}
	clientCA, err := pki.EnsureCA(layout.ClientCA(), "kedge-client-ca")
	if err != nil {
		return nil, err
	}
	headerCA, err := pki.EnsureCA(layout.RequestHeaderCA(), "kedge-request-header-ca")
	if err != nil {
		return nil, err
	}
	for _, ca := range []*pki.CA{serverCA, clientCA} {
		if err := ca.WriteCertificate(layout.Signing(ca.Files)); err != nil {
			return nil, err
		}
	}
	if _, err := pki.EnsureKey(layout.ServiceKey()); err != nil {
		return nil, err
	}
	apiserver, err := s.apiserverNames()
	if err != nil {
		return nil, err
	}
	leaves := []leaf{
		{serverCA, layout.Serving("kube-apiserver"), apiserver},
		{serverCA, layout.Serving("kubelet"), s.kubeletNames()},
		{clientCA, layout.Client("kube-apiserver-kubelet"), pki.Request{CommonName: controlplane.KubeletClientUser}},
		{headerCA, layout.Client("auth-proxy"), pki.Request{CommonName: "system:auth-proxy"}},
	}
	if s.usesEtcd() {
		ofEtcd, err := s.etcdLeaves()
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, ofEtcd...)
	}
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		leaves = append(leaves, leaf{serverCA, layout.Serving(name), pki.Request{
			CommonName: name,
			DNSNames:   []string{"localhost"},
			IPs:        []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		}})
	}
	for name, identity := range s.identities() {
		leaves = append(leaves, leaf{clientCA, layout.Client(name), identity})
	}
	return leaves, nil
}

// etcdLeaves does the same for the embedded etcd.
func (s *Server) etcdLeaves() ([]leaf, error) {
	layout := s.layout
	if err := os.MkdirAll(layout.EtcdDir(), 0o700); err != nil {
		return nil, err
	}
	serverCA, err := pki.EnsureCA(layout.EtcdServerCA(), "kedge-etcd-server-ca")
	if err != nil {
		return nil, err
	}
	peerCA, err := pki.EnsureCA(layout.EtcdPeerCA(), "kedge-etcd-peer-ca")
	if err != nil {
		return nil, err
	}
	serving := pki.Request{
		CommonName: "kedge-etcd-server",
		DNSNames:   []string{"localhost", s.node.Name()},
		IPs:        []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		Peer:       true, // etcd also asks itself
	}
	peer := pki.Request{CommonName: "kedge-etcd-peer", DNSNames: serving.DNSNames, IPs: serving.IPs, Peer: true}
	for _, address := range s.clusterAddresses() {
		peer.IPs = append(peer.IPs, address.AsSlice())
	}
	return []leaf{
		{serverCA, layout.EtcdServing(), serving},
		{serverCA, layout.EtcdClient(), pki.Request{CommonName: "kedge-etcd-client"}},
		{peerCA, layout.EtcdPeer(), peer},
	}, nil
}

// update issues a certificate if the one that there is will not do.
func (l leaf) update() (issued bool, err error) { return l.ca.Update(l.files, l.request) }

// lapsed says whether nobody takes the certificate now.
func (l leaf) lapsed() bool {
	cert, err := pki.LoadCertificate(l.files.Cert)
	return err == nil && pki.Lapsed(cert, time.Now())
}

// reissue issues a certificate for a new key.
func (l leaf) reissue() (issued bool, err error) { return true, l.ca.Reissue(l.files, l.request) }

// issue calls do for each certificate, brings the administrator's kubeconfig up
// to date, and returns the files of the certificates that were issued.
func (c *certificates) issue(do func(leaf) (issued bool, err error)) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	issued := make([]bool, len(c.leaves))
	jobs := make([]func() error, len(c.leaves))
	for i, l := range c.leaves {
		jobs[i] = func() (err error) {
			issued[i], err = do(l)
			return err
		}
	}
	err := inParallel(jobs)
	var files []string
	for i, l := range c.leaves {
		if issued[i] {
			files = append(files, l.files.Cert)
		}
	}
	slices.Sort(files)
	if err != nil {
		return files, err
	}
	return files, c.server.writeAdminKubeconfig()
}

// renew issues the certificates that are near their end, again and again, until
// ctx ends or the server is to start again: it must where they had lapsed, since
// clients keep theirs for minutes, and the apiserver its own one for good.
func (c *certificates) renew(ctx context.Context) error {
	tick := time.NewTicker(pki.CheckInterval)
	defer tick.Stop()
	clockSet := clock.Sets(ctx, c.server.log)
	for {
		select {
		case <-ctx.Done():
			return nil
		case why := <-c.again:
			return fmt.Errorf("%s: %w", why, component.ErrRestart)
		case <-tick.C:
		case <-clockSet:
		}
		var revived atomic.Bool
		files, err := c.issue(func(l leaf) (bool, error) {
			lapsed := l.lapsed()
			issued, err := l.update()
			if lapsed && issued && !l.lapsed() {
				revived.Store(true)
			}
			return issued, err
		})
		if err != nil {
			c.server.log.Error("renewing certificates failed; it is tried again", "component", c.Name(), "in", pki.CheckInterval, "err", err)
		}
		if len(files) > 0 {
			c.server.log.Info("renewed certificates", "component", c.Name(), "files", files)
		}
		if revived.Load() && err == nil {
			return fmt.Errorf("the certificates in use were not valid any more by this machine's clock, which was set: %w", component.ErrRestart)
		}
	}
}

// rotate replaces all keys and certificates but those of authorities.
func (c *certificates) rotate(context.Context, control.None) (control.Rotated, error) {
	files, err := c.issue(leaf.reissue)
	if err != nil {
		return control.Rotated{}, err
	}
	c.server.log.Info("replaced keys and certificates", "component", c.Name(), "files", len(files))
	return control.Rotated{Files: append(files, c.server.config.Kubeconfig.Path)}, nil
}

// rotateCA replaces the cluster's authorities, or ends the trust in old ones. The
// server then starts again, which pods don't notice: much of Kubernetes reads
// authorities once.
func (c *certificates) rotateCA(ctx context.Context, ask control.Succession) (control.Rotated, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.others != nil && c.others() > 0 {
		return control.Rotated{}, fmt.Errorf("the cluster has %d other servers, which would go on with the old CAs: CAs are replaced only while a server is alone", c.others())
	}
	layout := c.server.layout
	var files []string
	var err error
	why := "the cluster's CAs are new"
	if ask.Retire {
		why = "the CAs of before are not trusted any more"
		if err := c.mayRetire(ctx, ask.Force); err != nil {
			return control.Rotated{}, err
		}
		files, err = layout.RetireAuthorities()
	} else {
		files, err = layout.ReplaceAuthorities(ask.Dir, ask.Force)
	}
	if err != nil {
		return control.Rotated{}, err
	}
	c.server.log.Warn(why+"; the server starts again to use them", "component", c.Name(), "files", files)
	select {
	case c.again <- why:
	default:
	}
	return control.Rotated{Files: files}, nil
}

// mayRetire refuses to leave a node behind, unless forced to.
func (c *certificates) mayRetire(ctx context.Context, force bool) error {
	server := c.server.layout.ServerCA().Cert
	old := false
	for _, file := range []string{server, c.server.layout.ClientCA().Cert, c.server.layout.RequestHeaderCA().Cert} {
		has, err := pki.HasPredecessor(file)
		if err != nil {
			return err
		}
		old = old || has
	}
	if !old {
		return errors.New("no CA of before is trusted: there is nothing to retire")
	}
	bundle, err := os.ReadFile(server)
	if err != nil {
		return err
	}
	client, err := c.nodes.connect()
	if err != nil {
		return err
	}
	behind, err := behindNodes(ctx, client, token.HashCA(bundle), c.nodes.own)
	if err != nil {
		return fmt.Errorf("look which nodes know the new CAs: %w", err)
	}
	if len(behind) > 0 && !force {
		return fmt.Errorf("these nodes don't know the new CAs yet: %s; start them, or delete them with kedge kubectl delete node; --force leaves them behind, and they have to join again", strings.Join(behind, ", "))
	}
	return nil
}

// inParallel runs the jobs at once: each waits for the disk several times.
func inParallel(jobs []func() error) error {
	errs := make(chan error, len(jobs))
	var wg sync.WaitGroup
	for _, job := range jobs {
		wg.Go(func() { errs <- job() })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// apiserverNames are all the names that clients may call the apiserver by.
func (s *Server) apiserverNames() (pki.Request, error) {
	domain := s.config.Network.ClusterDomain
	req := pki.Request{
		CommonName: "kube-apiserver",
		DNSNames:   []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + domain, "localhost", s.node.Name()},
	}
	addresses := append([]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), s.advertiseAddress()}, s.node.Addresses()...)
	if bind := s.config.ControlPlane.BindAddress; !bind.IsUnspecified() {
		addresses = append(addresses, bind)
	}
	for _, cidr := range s.config.Network.ServiceCIDRs {
		addresses = append(addresses, cidr.Masked().Addr().Next())
	}
	interfaces, err := hostcheck.HostInterfaces(hostcheck.OwnInterface)
	if err != nil {
		return req, err
	}
	for _, i := range interfaces {
		for _, prefix := range i.Addresses {
			addresses = append(addresses, prefix.Addr())
		}
	}
	for _, name := range s.config.ControlPlane.TLSSANs {
		if address, err := netip.ParseAddr(name); err == nil {
			addresses = append(addresses, address)
		} else {
			req.DNSNames = append(req.DNSNames, name)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	for _, address := range slices.Compact(addresses) {
		req.IPs = append(req.IPs, address.AsSlice())
	}
	return req, nil
}

func (s *Server) kubeletNames() pki.Request {
	names := s.node.ServingNames()
	return pki.Request{
		CommonName: "system:node:" + s.node.Name(),
		DNSNames:   append(names.DNS, "localhost"),
		IPs:        append(names.IPs, net.IPv4(127, 0, 0, 1)),
	}
}

// kubeconfig is the way into the cluster of a client of this machine.
func (s *Server) kubeconfig(name string) pki.Kubeconfig {
	return pki.Kubeconfig{
		Server: controlplane.LocalURL(s.config.ControlPlane.BindAddress, s.config.ControlPlane.Port),
		CA:     s.layout.ServerCA().Cert,
		Client: s.layout.Client(name),
	}
}

// writeAdminKubeconfig puts the administrator's kubeconfig where the user
// wants it, and rewrites it when certificate, authorities or address have
// changed.
func (s *Server) writeAdminKubeconfig() error {
	out := s.config.Kubeconfig
	if err := os.MkdirAll(filepath.Dir(out.Path), 0o755); err != nil {
		return err
	}
	if err := pki.LinkKubeconfig(config.DefaultKubeconfig, out.Path); err != nil {
		s.log.Warn("commands on this machine find the administrator's kubeconfig only with KUBECONFIG="+out.Path, "err", err)
	}
	if err := s.kubeconfig("admin").WriteEmbedded(out.Path, out.Mode); err != nil {
		return err
	}
	gid, err := groupID(out.Group)
	if err != nil {
		return err
	}
	return os.Chown(out.Path, -1, gid)
}

// groupID is the number of a group given by name or number; root's for none.
func groupID(group string) (int, error) {
	if group == "" {
		return 0, nil
	}
	if gid, err := strconv.Atoi(group); err == nil {
		return gid, nil
	}
	found, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("--write-kubeconfig-group: there is no group %q on this machine: add it with groupadd %s, or name another", group, group)
	}
	return strconv.Atoi(found.Gid)
}
