package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// What is tried when an endpoint can't be reached: another one at once, and again
// until one is there or the time is over. Requests that an endpoint may have seen
// are sent again only if they are GETs.
const (
	tryDuration = 5 * time.Second
	tryInterval = 50 * time.Millisecond
	tryTimes    = 40
)

// Handler is the Caddy module that serves all requests by the live table.
type Handler struct {
	live       *live
	transports *transports
	proxy      *reverseproxy.Handler
}

// CaddyModule says how Caddy makes the module.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.kedge_ingress", New: func() caddy.Module { return new(Handler) }}
}

// Provision readies the one reverse proxy for all routes.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.live = current.Load()
	h.transports = &transports{ctx: ctx}
	h.proxy = &reverseproxy.Handler{
		Transport:        h.transports,
		DynamicUpstreams: upstreams{},
		LoadBalancing: &reverseproxy.LoadBalancing{
			SelectionPolicy: reverseproxy.FirstSelection{},
			TryDuration:     caddy.Duration(tryDuration),
			TryInterval:     caddy.Duration(tryInterval),
			Retries:         tryTimes,
		},
	}
	return h.proxy.Provision(ctx)
}

// Cleanup ends the connections of the reverse proxy.
func (h *Handler) Cleanup() error {
	if h.proxy == nil {
		return nil
	}
	h.transports.close()
	return h.proxy.Cleanup()
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if r.TLS == nil && strings.HasPrefix(r.URL.Path, "/.well-known/acme-challenge/") {
		if answer := h.live.challenge.Load(); answer != nil && (*answer)(w, r) {
			return nil
		}
	}
	start := time.Now()
	found := h.live.table.Load().match(r)
	uri, host := r.RequestURI, r.Host // before a rewrite
	recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
	defer func() {
		took := time.Since(start)
		h.live.metrics.observe(found, recorder.Status(), took)
		if h.live.settings.Load().accessLog {
			attributes := []any{
				"client", clientIP(r), "method", r.Method, "host", host, "uri", uri, "proto", r.Proto,
				"status", recorder.Status(), "size", recorder.Size(), "took", took.Round(time.Microsecond),
			}
			if found != nil {
				attributes = append(attributes, "route", found.owner.String())
			}
			slog.Info("request", attributes...)
		}
	}()
	if found == nil {
		page(recorder, http.StatusNotFound, "nothing is served at this host and path")
		return nil
	}
	h.serve(recorder, r, found)
	return nil
}

// serve does what a route says.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, found *route) {
	if !found.response.empty() {
		w = &changedResponse{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, change: &found.response}
	}
	set := h.live.settings.Load()
	rules := found.policy
	switch client, err := netip.ParseAddr(clientIP(r)); {
	case rules.refused != "":
		page(w, http.StatusServiceUnavailable, rules.refused)
		return
	case len(rules.allow) > 0 && (err != nil || !rules.allows(client)):
		page(w, http.StatusForbidden, "your address is not allowed here")
		return
	}
	if (rules.redirectHTTPS || set.redirectHTTPS) && !secure(r) && found.owner.kind == kindIngress {
		to := redirect{scheme: "https"}
		h.redirect(w, to.location(r), http.StatusPermanentRedirect)
		return
	}
	if rules.auth != nil && !rules.auth.permits(r) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q, charset=\"UTF-8\"", rules.auth.realm))
		page(w, http.StatusUnauthorized, "a user name and a password are needed")
		return
	}
	if to := found.redirect; to != nil && (to.onlyAt == "" || to.onlyAt == r.URL.Path) {
		h.redirect(w, to.location(r), to.status)
		return
	}
	if found.broken != 0 {
		page(w, found.broken, "the route is not complete")
		return
	}
	limit := rules.bodySize
	if limit == 0 {
		limit = set.bodySize
	}
	if limit > 0 && r.Method != http.MethodConnect { // that is a websocket
		if r.ContentLength > limit {
			page(w, http.StatusRequestEntityTooLarge, "the body of the request is too large")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	to := found.choose()
	switch {
	case to == nil || (to.pool == nil && found.owner.kind == kindIngress):
		page(w, http.StatusServiceUnavailable, "the Service is not there")
		return
	case to.pool == nil:
		page(w, http.StatusInternalServerError, "the Service is not there")
		return
	case to.pool.empty():
		page(w, http.StatusServiceUnavailable, "the Service has no ready endpoints")
		return
	}
	found.rewrite.apply(r)
	found.request.apply(r.Header)
	r.Header.Set("X-Real-Ip", clientIP(r))

	ctx := context.WithValue(r.Context(), attemptKey{}, &attempt{route: found, backend: to, w: w, r: r})
	if found.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, found.timeout)
		defer cancel()
	}
	if err := h.proxy.ServeHTTP(w, r.WithContext(ctx), nil); err != nil {
		h.fail(w, err)
	}
}

func (h *Handler) redirect(w http.ResponseWriter, to string, status int) {
	w.Header().Set("Location", to)
	page(w, status, to)
}

// fail answers when no endpoint did.
func (h *Handler) fail(w http.ResponseWriter, err error) {
	status := http.StatusBadGateway
	var known caddyhttp.HandlerError
	if errors.As(err, &known) && known.StatusCode != 0 {
		status = known.StatusCode
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		page(w, http.StatusRequestEntityTooLarge, "the body of the request is too large")
	case status == 499: // the client has gone
		w.WriteHeader(status)
	case status == http.StatusGatewayTimeout || errors.Is(err, context.DeadlineExceeded):
		page(w, http.StatusGatewayTimeout, "the Service did not answer in time")
	case status == http.StatusServiceUnavailable:
		page(w, status, "the Service has no ready endpoints")
	default:
		slog.Debug("no endpoint answers", "err", err)
		page(w, http.StatusBadGateway, "the Service does not answer")
	}
}

// secure says whether the client speaks TLS, here or to a proxy that is trusted.
func secure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted && r.Header.Get("X-Forwarded-Proto") == "https"
}

// clientIP is the client's address, as a trusted proxy says, or the connection's.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// changedResponse changes the headers of a response just before they are sent.
type changedResponse struct {
	*caddyhttp.ResponseWriterWrapper
	change *headerChange
	done   bool
}

func (w *changedResponse) WriteHeader(status int) {
	if !w.done && status >= 200 {
		w.done = true
		w.change.apply(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *changedResponse) Write(data []byte) (int, error) {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(data)
}
