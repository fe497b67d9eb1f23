package stock

import (
	"net"
	"os"

	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

// makeCertificates makes what kubeadm would: authorities, certificates and
// kubeconfigs. They are made before the start, and not part of it.
func (s *Stack) makeCertificates() error {
	// The files, as this process and not the host sees them.
	layout := pki.NewLayout(s.host.Path(pkiDir))
	for _, dir := range layout.Dirs() {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	// A node gets its certificates from the cluster's authorities.
	authorities := pki.NewLayout(s.cluster.host.Path(pkiDir))
	serverCA, err := pki.EnsureCA(authorities.ServerCA(), "server-ca")
	if err != nil {
		return err
	}
	clientCA, err := pki.EnsureCA(authorities.ClientCA(), "client-ca")
	if err != nil {
		return err
	}
	kubeconfigs := map[string]pki.Request{
		"kube-proxy": {CommonName: "system:kube-proxy"},
		"kubelet":    {CommonName: "system:node:" + s.host.Name, Organization: []string{"system:nodes"}},
	}
	if s.cluster == s {
		kubeconfigs["admin"] = pki.Request{CommonName: "kubernetes-admin", Organization: []string{"system:masters"}}
		kubeconfigs["kube-controller-manager"] = pki.Request{CommonName: "system:kube-controller-manager"}
		kubeconfigs["kube-scheduler"] = pki.Request{CommonName: "system:kube-scheduler"}
		if err := s.makeControlPlaneCertificates(layout, serverCA, clientCA); err != nil {
			return err
		}
	} else if err := os.WriteFile(layout.ClientCA().Cert, clientCA.Bundle, 0o600); err != nil {
		return err
	}
	kubelet := pki.Request{
		CommonName: "kubelet",
		DNSNames:   []string{"localhost", s.host.Name},
		IPs:        []net.IP{net.IPv4(127, 0, 0, 1), s.host.Address.AsSlice()},
	}
	if err := serverCA.EnsureCertificate(layout.Serving("kubelet"), kubelet); err != nil {
		return err
	}
	for name, identity := range kubeconfigs {
		files := layout.Client(name)
		if err := clientCA.EnsureCertificate(files, identity); err != nil {
			return err
		}
		kubeconfig := pki.Kubeconfig{Server: s.apiURL(), CA: serverCA.Files.Cert, Client: files}
		if err := kubeconfig.WriteEmbedded(layout.Kubeconfig(name), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// makeControlPlaneCertificates makes what only the control plane needs.
func (s *Stack) makeControlPlaneCertificates(layout pki.Layout, serverCA, clientCA *pki.CA) error {
	headerCA, err := pki.EnsureCA(layout.RequestHeaderCA(), "request-header-ca")
	if err != nil {
		return err
	}
	if _, err := pki.EnsureKey(layout.ServiceKey()); err != nil {
		return err
	}
	for name, addresses := range map[string][]net.IP{
		"etcd":           {net.IPv4(127, 0, 0, 1)},
		"kube-apiserver": {net.IPv4(127, 0, 0, 1), s.host.Address.AsSlice(), net.ParseIP(cluster.APIAddress)},
	} {
		names := []string{"localhost", s.host.Name}
		if name == "kube-apiserver" {
			names = append(names, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc."+cluster.Domain)
		}
		if err := serverCA.EnsureCertificate(layout.Serving(name), pki.Request{CommonName: name, DNSNames: names, IPs: addresses}); err != nil {
			return err
		}
	}
	for name, identity := range map[string]pki.Request{
		"etcd":           {CommonName: "kube-apiserver-etcd-client"},
		"kube-apiserver": {CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}},
	} {
		if err := clientCA.EnsureCertificate(layout.Client(name), identity); err != nil {
			return err
		}
	}
	return headerCA.EnsureCertificate(layout.Client("front-proxy"), pki.Request{CommonName: "front-proxy-client"})
}

// apiURL is where the host's programs reach the API.
func (s *Stack) apiURL() string {
	if s.cluster == s {
		return "https://127.0.0.1:6443"
	}
	return "https://" + s.cluster.host.Address.String() + ":6443"
}
