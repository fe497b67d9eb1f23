package dashboard

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strings"
)

const (
	userAgent  = "kedge-dashboard"
	csrfHeader = "X-Kedge-Csrf"
	// An API server that proxies to a Service refuses queries with dryRun, and passes none
	// on with a websocket: such a query is in a header, or among the protocols.
	queryHeader = "X-Kedge-Query"
	// A websocket has no headers of the page's own: the proof is one of its protocols.
	csrfProtocol  = "kedge-csrf."
	queryProtocol = "kedge-query."
	ownProtocol   = "kedge-dashboard"
	maxBody       = 3 << 20 // as the API server's

	// Scripts and connections only from here, no frames around us. Styles may be inline:
	// the terminal and the editor make theirs as they run.
	pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
		"font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
	// What comes from the API is data, whatever type it claims to be.
	dataPolicy = "default-src 'none'; sandbox; frame-ancestors 'none'"
)

// upstream is the API server.
type upstream struct {
	server    *url.URL
	transport http.RoundTripper
}

// handler is everything that is served.
type handler struct {
	page     http.Handler
	upstream *upstream
	provider *provider // nil: none
	fetcher  *fetcher
	api      *httputil.ReverseProxy
}

func newHandler(page http.Handler, u *upstream, p *provider, f *fetcher) http.Handler {
	h := &handler{page: page, upstream: u, provider: p, fetcher: f}
	h.api = &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { u.rewrite(r) },
		ModifyResponse: modifyResponse,
		Transport:      u.transport,
		FlushInterval:  -1, // watches and logs
		ErrorHandler:   proxyFailed,
		ErrorLog:       slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	return h
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Content-Security-Policy", pagePolicy)

	if r.URL.Path == "/healthz" {
		_, _ = w.Write([]byte("ok"))
		return
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch first {
	case "session", "oidc", "fetch", "api", "apis", "openapi", "version", "stream":
	default:
		h.page.ServeHTTP(w, r)
		return
	}
	header.Set("Content-Security-Policy", dataPolicy)
	// Browsers say which requests another origin's page has made them send.
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		fail(w, http.StatusForbidden, "the request comes from another site's page")
		return
	}
	switch r.URL.Path {
	case "/session":
		h.serveSession(w, r)
	case "/oidc":
		h.serveProvider(w, r)
	case "/fetch":
		h.serveFetch(w, r)
	default:
		h.serveAPI(w, r)
	}
}

// serveAPI passes a request on to the API server, as the user.
func (h *handler) serveAPI(w http.ResponseWriter, r *http.Request) {
	token := token(r)
	if token == "" {
		fail(w, http.StatusUnauthorized, "nobody is logged in")
		return
	}
	upgrade := r.Header.Get("Upgrade") != ""
	if !fromPage(r, token, upgrade) {
		fail(w, http.StatusForbidden, "the request does not come from the dashboard's page")
		return
	}
	if _, reason := target(r.URL); reason != "" {
		fail(w, http.StatusBadRequest, reason)
		return
	}
	if !upgrade {
		if r.ContentLength > maxBody {
			fail(w, http.StatusRequestEntityTooLarge, "the request is too large")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	}
	h.api.ServeHTTP(w, r)
}

// fromPage says whether a request was made by our own page: one that changes
// something or opens a websocket has to show what only that can have read.
func fromPage(r *http.Request, token string, upgrade bool) bool {
	if upgrade {
		return slices.ContainsFunc(protocols(r), func(p string) bool {
			shown, ok := strings.CutPrefix(p, csrfProtocol)
			return ok && sameCSRF(token, shown)
		})
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	return sameCSRF(token, r.Header.Get(csrfHeader))
}

// protocols are the websocket protocols that a request offers.
func protocols(r *http.Request) []string {
	var all []string
	for _, value := range r.Header.Values("Sec-Websocket-Protocol") {
		for p := range strings.SplitSeq(value, ",") {
			all = append(all, strings.TrimSpace(p))
		}
	}
	return all
}

// target finds the API server's path for one of ours, or says why there is none.
//
//	/api/…, /apis/…, /openapi/…, /version   the same
//	/stream/watch/PATH                      PATH, as a watch
//	/stream/exec/NAMESPACE/POD              a command in a pod
//	/stream/attach/NAMESPACE/POD            a container's own input and output
//
// The last two have paths of their own because kubectl proxy refuses those of the
// API, even behind the path of a Service.
func target(u *url.URL) (to, reason string) {
	to = u.Path
	if strings.Contains(strings.ToLower(u.EscapedPath()), "%2f") || strings.ContainsAny(to, "\\\x00") || path.Clean(to) != strings.TrimSuffix(to, "/") {
		return "", "the path is not understood"
	}
	if rest, ok := strings.CutPrefix(to, "/stream/"); ok {
		kind, rest, _ := strings.Cut(rest, "/")
		names := strings.Split(rest, "/")
		switch {
		case kind == "watch":
			to = "/" + rest
		case (kind == "exec" || kind == "attach") && len(names) == 2 && names[0] != "" && names[1] != "":
			return "/api/v1/namespaces/" + names[0] + "/pods/" + names[1] + "/" + kind, ""
		default:
			return "", "there is no such stream"
		}
	}
	segments := strings.Split(strings.Trim(to, "/"), "/")
	switch segments[0] {
	case "api":
		object := segments[min(2, len(segments)):]
		if len(object) > 2 && object[0] == "namespaces" {
			object = object[2:]
		}
		// Pages of pods and services would be pages of our origin.
		if len(object) > 2 && object[2] == "proxy" || len(object) > 0 && object[0] == "proxy" {
			return "", "the dashboard does not show pages of pods, services and nodes; use kubectl port-forward"
		}
	case "apis", "openapi", "version":
	default:
		return "", "there is no such path in the API"
	}
	return to, ""
}

// passed are the headers of the page's requests that the API server sees.
var passed = []string{"Accept", "Accept-Encoding", "Connection", "Content-Type", "If-None-Match", "Sec-Websocket-Key", "Sec-Websocket-Version", "Upgrade"}

const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

// rewrite makes the API server's request of one of ours.
func (u *upstream) rewrite(r *httputil.ProxyRequest) {
	to, _ := target(r.In.URL)
	r.Out.URL = &url.URL{Scheme: u.server.Scheme, Host: u.server.Host, Path: to}
	query := r.In.URL.Query()
	if text := r.In.Header.Get(queryHeader); text != "" {
		query, _ = url.ParseQuery(text) // what is wrong is left out
	}
	header := http.Header{"User-Agent": {userAgent}, "Authorization": {"Bearer " + token(r.In)}}
	for _, name := range passed {
		if values := r.Out.Header.Values(name); len(values) > 0 {
			header[name] = values
		}
	}
	if r.In.Header.Get("Upgrade") != "" {
		var offered []string
		for _, p := range protocols(r.In) {
			if encoded, ok := strings.CutPrefix(p, queryProtocol); ok {
				decoded, _ := base64.RawURLEncoding.DecodeString(encoded)
				query, _ = url.ParseQuery(string(decoded))
			} else if p != ownProtocol && !strings.HasPrefix(p, csrfProtocol) {
				offered = append(offered, p)
			}
		}
		// The API server wants one for its watches.
		header.Set("Origin", "https://"+u.server.Host)
		if len(offered) > 0 {
			header.Set("Sec-Websocket-Protocol", strings.Join(offered, ", "))
		}
		// A browser's websocket asks for no type of content.
		if query.Get("as") == "Table" {
			header.Set("Accept", asTable)
		}
		query.Del("as")
	}
	if strings.HasPrefix(r.In.URL.Path, "/stream/watch/") {
		query.Set("watch", "true")
	}
	r.Out.URL.RawQuery = query.Encode()
	r.Out.Host = u.server.Host
	r.Out.Header = header
}

// modifyResponse keeps what the API server answers from being more than data.
func modifyResponse(r *http.Response) error {
	for _, name := range []string{"Set-Cookie", "Www-Authenticate", "Location", "Refresh", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials",
		"Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options"} {
		r.Header.Del(name)
	}
	if r.StatusCode == http.StatusSwitchingProtocols && r.Header.Get("Sec-Websocket-Protocol") == "" {
		r.Header.Set("Sec-Websocket-Protocol", ownProtocol) // a browser wants one of those it has offered
	}
	return nil
}

func proxyFailed(w http.ResponseWriter, r *http.Request, err error) {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		fail(w, http.StatusRequestEntityTooLarge, "the request is too large")
	case r.Context().Err() != nil: // the browser has gone
		w.WriteHeader(http.StatusBadGateway)
	default:
		fail(w, http.StatusBadGateway, "the API server can't be reached: "+err.Error())
	}
}

// fail answers as the API server would.
func fail(w http.ResponseWriter, code int, message string) {
	writeJSON(w, code, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message})
}

func writeJSON(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value)
}
