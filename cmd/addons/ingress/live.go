package ingress

import (
	"net/http"
	"net/netip"
	"sync/atomic"
)

// live is what Caddy's modules of this package read while Caddy runs, and what the
// controller replaces. So Caddy's own configuration never changes.
type live struct {
	table        atomic.Pointer[table]
	certificates atomic.Pointer[certificates]
	settings     atomic.Pointer[settings]
	challenge    atomic.Pointer[func(http.ResponseWriter, *http.Request) bool] // answers an ACME server's; nil: there is none
	metrics      *metrics
}

func newLive() (*live, error) {
	l := &live{metrics: newMetrics()}
	l.table.Store(newTable(nil))
	l.settings.Store(&settings{})
	fallback, err := selfSigned()
	if err != nil {
		return nil, err
	}
	l.certificates.Store(&certificates{fallback: fallback})
	return l, nil
}

// current is what modules find when Caddy makes them: Caddy gives them nothing but
// their part of its configuration, and there is one Caddy in a process.
var current atomic.Pointer[live]

// settings are those of the whole ingress; see docs/ingress.md.
type settings struct {
	accessLog      bool
	redirectHTTPS  bool
	bodySize       int64 // 0: no limit
	trustedProxies []netip.Prefix
	externalNames  bool // Services of type ExternalName are served
	certificate    objectName
	acme           acmeSettings
}

// acmeSettings say where certificates come from.
type acmeSettings struct {
	server string // URL of the directory
	email  string
	ca     string // PEM: who is trusted to be that server; empty: the usual CAs
}

// objectName is where an object is found in the cluster.
type objectName struct{ namespace, name string }

func (n objectName) String() string { return n.namespace + "/" + n.name }
