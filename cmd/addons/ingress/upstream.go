package ingress

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// attempt is what is known of a request while endpoints are tried.
type attempt struct {
	route   *route
	backend *backend
	w       http.ResponseWriter
	r       *http.Request
	tried   []string
}

type attemptKey struct{}

func attemptOf(r *http.Request) *attempt {
	a, _ := r.Context().Value(attemptKey{}).(*attempt)
	return a
}

// upstreams gives Caddy's reverse proxy the one endpoint to try next.
type upstreams struct{}

func (upstreams) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	a := attemptOf(r)
	if a == nil {
		return nil, errors.New("a request without a route")
	}
	address := a.next()
	if address == "" {
		return nil, nil
	}
	return []*reverseproxy.Upstream{{Dial: address}}, nil
}

// next chooses an endpoint. To be asked again means that the one before failed.
func (a *attempt) next() string {
	pool, sticky := a.backend.pool, a.route.policy.affinity
	if n := len(a.tried); n > 0 {
		pool.avoid(a.tried[n-1])
	}
	address := ""
	if sticky != nil && len(a.tried) == 0 {
		if cookie, err := a.r.Cookie(sticky.cookie); err == nil {
			address = pool.find(cookie.Value)
		}
	}
	if address == "" {
		if address = pool.pick(a.tried); address == "" {
			return ""
		}
		if sticky != nil {
			a.remember(sticky, address)
		}
	}
	a.tried = append(a.tried, address)
	return address
}

// remember gives the client the cookie that brings it back.
func (a *attempt) remember(sticky *affinity, address string) {
	cookie := http.Cookie{ //nolint:gosec // Secure where the client came by TLS
		Name: sticky.cookie, Value: endpointCookie(address), Path: "/",
		MaxAge: sticky.maxAge, HttpOnly: true, Secure: secure(a.r), SameSite: http.SameSiteLaxMode,
	}
	h := a.w.Header()
	kept := h["Set-Cookie"][:0]
	for _, other := range h["Set-Cookie"] { // that of an endpoint that failed
		if parsed, err := http.ParseSetCookie(other); err != nil || parsed.Name != sticky.cookie {
			kept = append(kept, other)
		}
	}
	h["Set-Cookie"] = append(kept, cookie.String())
}

// transportKey is all that makes connections to backends differ.
type transportKey struct {
	protocol protocol
	options  upstreamOptions
	headers  bool // the request is an upgrade, which HTTP/2 can't carry
}

// transports keeps a pool of connections for each way to connect.
type transports struct {
	ctx   caddy.Context
	byKey sync.Map // transportKey → *reverseproxy.HTTPTransport
	mu    sync.Mutex
}

func (t *transports) RoundTrip(r *http.Request) (*http.Response, error) {
	a := attemptOf(r)
	if a == nil {
		return nil, errors.New("a request without a route")
	}
	key := transportKey{protocol: a.backend.protocol, options: a.route.policy.upstream}
	if key.protocol != protocolHTTP && r.Header.Get("Upgrade") != "" {
		if key.protocol == protocolH2C {
			key.protocol = protocolHTTP
		}
		key.headers = true
	}
	transport, err := t.get(key)
	if err != nil {
		return nil, err
	}
	return transport.RoundTrip(r)
}

func (t *transports) get(key transportKey) (*reverseproxy.HTTPTransport, error) {
	if found, ok := t.byKey.Load(key); ok {
		return found.(*reverseproxy.HTTPTransport), nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if found, ok := t.byKey.Load(key); ok {
		return found.(*reverseproxy.HTTPTransport), nil
	}
	plain := false
	made := &reverseproxy.HTTPTransport{
		Versions:     []string{"1.1"},
		Compression:  &plain, // bodies pass as they are
		DialTimeout:  caddy.Duration(key.options.connectTimeout),
		ReadTimeout:  caddy.Duration(key.options.readTimeout),
		WriteTimeout: caddy.Duration(key.options.sendTimeout),
	}
	switch key.protocol {
	case protocolH2C:
		made.Versions = []string{"h2c", "2"}
	case protocolHTTPS:
		// Caddy replaces placeholders in it, such as {file.PATH}, at each connection.
		if strings.Contains(key.options.serverName, "{") {
			return nil, fmt.Errorf("connections to backends: %q is no name of a server", key.options.serverName)
		}
		made.TLS = &reverseproxy.TLSConfig{
			InsecureSkipVerify: !key.options.verify,
			ServerName:         key.options.serverName,
		}
		if !key.headers {
			made.Versions = []string{"1.1", "2"}
		}
	}
	if err := made.Provision(t.ctx); err != nil {
		return nil, fmt.Errorf("connections to backends: %w", err)
	}
	t.byKey.Store(key, made)
	return made, nil
}

// close ends the connections that no request uses.
func (t *transports) close() {
	t.byKey.Range(func(_, value any) bool {
		value.(*reverseproxy.HTTPTransport).Transport.CloseIdleConnections()
		return true
	})
}

func init() {
	caddy.RegisterModule(TrustedProxies{})
}

// TrustedProxies is the Caddy module that says whose X-Forwarded-For is believed.
type TrustedProxies struct{ live *live }

// CaddyModule says how Caddy makes the module.
func (TrustedProxies) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.ip_sources.kedge_ingress", New: func() caddy.Module { return new(TrustedProxies) }}
}

// Provision finds the live settings.
func (p *TrustedProxies) Provision(caddy.Context) error {
	p.live = current.Load()
	return nil
}

// GetIPRanges gives the ranges of the settings.
func (p *TrustedProxies) GetIPRanges(*http.Request) []netip.Prefix {
	return p.live.settings.Load().trustedProxies
}
