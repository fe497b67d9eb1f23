package pki

import "path/filepath"

// Layout is where a server keeps its authorities, certificates and
// kubeconfigs. Names follow k3s, so that people find them.
type Layout struct {
	dir  string
	cred string
}

// NewLayout roots a layout in <data-dir>/server.
func NewLayout(serverDir string) Layout {
	return Layout{dir: filepath.Join(serverDir, "tls"), cred: filepath.Join(serverDir, "cred")}
}

// Dirs are the directories the layout needs, private to root.
func (l Layout) Dirs() []string { return []string{l.dir, l.cred} }

// ServerCA signs what serves: the apiserver and the kubelets.
func (l Layout) ServerCA() KeyPair { return l.pair("server-ca") }

// ClientCA signs the identities that the apiserver accepts.
func (l Layout) ClientCA() KeyPair { return l.pair("client-ca") }

// RequestHeaderCA signs the front proxy's identity for aggregated APIs.
func (l Layout) RequestHeaderCA() KeyPair { return l.pair("request-header-ca") }

// Signing is a copy of an authority's own certificate, without the rest of its
// bundle: the controller manager signs with no other file.
func (l Layout) Signing(ca KeyPair) string {
	return filepath.Join(filepath.Dir(l.dir), "etc", filepath.Base(ca.Cert))
}

// ServiceKey signs service account tokens.
func (l Layout) ServiceKey() string { return filepath.Join(l.dir, "service.key") }

// Serving is the serving certificate of the named component.
func (l Layout) Serving(component string) KeyPair { return l.pair("serving-" + component) }

// Client is the client certificate of the named component.
func (l Layout) Client(component string) KeyPair { return l.pair("client-" + component) }

// Kubeconfig is the kubeconfig of the named component.
func (l Layout) Kubeconfig(component string) string {
	return filepath.Join(l.cred, component+".kubeconfig")
}

func (l Layout) pair(name string) KeyPair {
	return KeyPair{Cert: filepath.Join(l.dir, name+".crt"), Key: filepath.Join(l.dir, name+".key")}
}
