package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/kedge-k8s/kedge/pkg/controlplane"
	"github.com/kedge-k8s/kedge/pkg/hostcheck"
	"github.com/kedge-k8s/kedge/pkg/join"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

// certificates makes the cluster's authorities, every component's certificate
// and kubeconfig, and the administrator's kubeconfig.
type certificates struct{ server *Server }

func (*certificates) Name() string               { return "certificates" }
func (*certificates) Needs() []string            { return nil }
func (*certificates) Stop(context.Context) error { return nil }

// identities are the clients of the apiserver. None is in system:masters.
func (s *Server) identities() map[string]pki.Request {
	return map[string]pki.Request{
		"admin":                   {CommonName: "kedge:admin", Organization: []string{controlplane.AdminGroup}},
		"addons":                  {CommonName: controlplane.AddonsUser},
		"cloud-controller":        {CommonName: controlplane.CloudControllerUser},
		"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":              {CommonName: "system:kube-proxy"},
		"join":                    {CommonName: controlplane.JoinUser},
		"agent":                   {CommonName: join.AgentUser(s.node.Name()), Organization: []string{join.AgentGroup}},
		"kubelet":                 {CommonName: "system:node:" + s.node.Name(), Organization: []string{"system:nodes"}},
	}
}

func (c *certificates) Start(context.Context) error {
	s, layout := c.server, c.server.layout
	for _, dir := range append(layout.Dirs(), filepath.Join(s.config.Paths.Server(), "etc")) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	serverCA, err := pki.EnsureCA(layout.ServerCA(), "kedge-server-ca")
	if err != nil {
		return err
	}
	clientCA, err := pki.EnsureCA(layout.ClientCA(), "kedge-client-ca")
	if err != nil {
		return err
	}
	headerCA, err := pki.EnsureCA(layout.RequestHeaderCA(), "kedge-request-header-ca")
	if err != nil {
		return err
	}
	if _, err := pki.EnsureKey(layout.ServiceKey()); err != nil {
		return err
	}

	var jobs []func() error
	sign := func(ca *pki.CA, files pki.KeyPair, req pki.Request) {
		jobs = append(jobs, func() error { return ca.EnsureCertificate(files, req) })
	}
	apiserver, err := s.apiserverNames()
	if err != nil {
		return err
	}
	sign(serverCA, layout.Serving("kube-apiserver"), apiserver)
	local := pki.Request{DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}}
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		req := local
		req.CommonName = name
		sign(serverCA, layout.Serving(name), req)
	}
	sign(serverCA, layout.Serving("kubelet"), s.kubeletNames())
	sign(clientCA, layout.Client("kube-apiserver-kubelet"), pki.Request{CommonName: controlplane.KubeletClientUser})
	sign(headerCA, layout.Client("auth-proxy"), pki.Request{CommonName: "system:auth-proxy"})
	url := controlplane.LocalURL(s.config.ControlPlane.BindAddress, s.config.ControlPlane.Port)
	for name, identity := range s.identities() {
		jobs = append(jobs, func() error {
			files := layout.Client(name)
			if err := clientCA.EnsureCertificate(files, identity); err != nil {
				return err
			}
			kubeconfig := pki.Kubeconfig{Server: url, CA: layout.ServerCA().Cert, Client: files}
			if name == "admin" {
				return s.writeAdminKubeconfig(kubeconfig)
			}
			return kubeconfig.Write(layout.Kubeconfig(name), 0o600)
		})
	}
	return inParallel(jobs)
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

// writeAdminKubeconfig puts the administrator's kubeconfig where the user
// wants it, and rewrites it when authorities or address have changed.
func (s *Server) writeAdminKubeconfig(k pki.Kubeconfig) error {
	out := s.config.Kubeconfig
	if err := os.MkdirAll(filepath.Dir(out.Path), 0o755); err != nil {
		return err
	}
	if err := k.WriteEmbedded(out.Path, out.Mode); err != nil {
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
