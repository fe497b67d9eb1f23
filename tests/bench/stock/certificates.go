package stock

import (
	"net"
	"os"

	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/tests/bench/cluster"
)

const apiURL = "https://127.0.0.1:6443"

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
	serverCA, err := pki.EnsureCA(layout.ServerCA(), "server-ca")
	if err != nil {
		return err
	}
	clientCA, err := pki.EnsureCA(layout.ClientCA(), "client-ca")
	if err != nil {
		return err
	}
	headerCA, err := pki.EnsureCA(layout.RequestHeaderCA(), "request-header-ca")
	if err != nil {
		return err
	}
	if _, err := pki.EnsureKey(layout.ServiceKey()); err != nil {
		return err
	}

	node := s.host.Name
	for name, addresses := range map[string][]net.IP{
		"etcd":           {net.IPv4(127, 0, 0, 1)},
		"kubelet":        {net.IPv4(127, 0, 0, 1), s.host.Address.AsSlice()},
		"kube-apiserver": {net.IPv4(127, 0, 0, 1), s.host.Address.AsSlice(), net.ParseIP(cluster.APIAddress)},
	} {
		names := []string{"localhost", node}
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
	if err := headerCA.EnsureCertificate(layout.Client("front-proxy"), pki.Request{CommonName: "front-proxy-client"}); err != nil {
		return err
	}
	for name, identity := range map[string]pki.Request{
		"admin":                   {CommonName: "kubernetes-admin", Organization: []string{"system:masters"}},
		"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":              {CommonName: "system:kube-proxy"},
		"kubelet":                 {CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
	} {
		files := layout.Client(name)
		if err := clientCA.EnsureCertificate(files, identity); err != nil {
			return err
		}
		kubeconfig := pki.Kubeconfig{Server: apiURL, CA: serverCA.Bundle, Client: files}
		if err := kubeconfig.Write(layout.Kubeconfig(name), 0o600); err != nil {
			return err
		}
	}
	return nil
}
