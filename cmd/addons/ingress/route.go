package ingress

import (
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// route is what is done with the requests that match its pattern.
type route struct {
	pattern
	owner owner
	order int  // among the routes of its owner
	last  bool // takes what no other route of its host does: a default backend

	policy   *policy   // shared by the routes of one Ingress
	redirect *redirect // in place of an answer of a backend
	rewrite  rewrite
	request  headerChange
	response headerChange
	backends []backend
	weight   int32 // the sum of the backends'
	broken   int   // status of all answers, if what was asked for cannot be done; else 0
	timeout  time.Duration
}

// owner is the object that a route is from.
type owner struct {
	kind, namespace, name string
	created               time.Time
}

func (o owner) String() string { return o.kind + " " + o.namespace + "/" + o.name }

// backend is a part of the endpoints that answer.
type backend struct {
	pool     *pool // nil: the Service or its port is not there
	weight   int32
	protocol protocol
}

// protocol is how a backend is spoken to.
type protocol uint8

const (
	protocolHTTP  protocol = iota
	protocolHTTPS          // HTTP/1.1 or 2
	protocolH2C            // HTTP/2 without TLS
)

// choose takes a backend at random, by the weights.
func (r *route) choose() *backend {
	switch {
	case r.weight <= 0:
		return nil
	case len(r.backends) == 1:
		return &r.backends[0]
	}
	n := rand.Int32N(r.weight) //nolint:gosec // it only shares out the load
	for i := range r.backends {
		if n -= r.backends[i].weight; n < 0 {
			return &r.backends[i]
		}
	}
	return nil
}

// policy is what the annotations of an Ingress ask for.
type policy struct {
	redirectHTTPS bool
	allow         []netip.Prefix // who may ask; empty: all
	auth          *basicAuth     // nil: no password needed
	refused       string         // why no request can be served: a protection that is asked for is not there
	bodySize      int64          // limit in bytes; 0: none
	affinity      *affinity      // nil: no sticky sessions
	upstream      upstreamOptions
}

// upstreamOptions are those of connections to backends that routes have in common.
type upstreamOptions struct {
	connectTimeout, readTimeout, sendTimeout time.Duration // 0: the default, for ever, for ever
	verify                                   bool          // the certificate of an HTTPS backend
	serverName                               string
}

// affinity is a cookie that brings a client back to the same endpoint.
type affinity struct {
	cookie string
	maxAge int // in seconds; 0: until the browser ends
}

func (p *policy) allows(client netip.Addr) bool {
	if len(p.allow) == 0 {
		return true
	}
	for _, prefix := range p.allow {
		if prefix.Contains(client.Unmap()) {
			return true
		}
	}
	return false
}

// headerChange is what is done to the headers of a request or a response.
type headerChange struct {
	set, add []header
	remove   []string
}

type header struct{ name, value string }

func (c *headerChange) empty() bool { return len(c.set)+len(c.add)+len(c.remove) == 0 }

func (c *headerChange) apply(h http.Header) {
	for _, each := range c.set {
		h.Set(each.name, each.value)
	}
	for _, each := range c.add {
		h.Add(each.name, each.value)
	}
	for _, name := range c.remove {
		h.Del(name)
	}
}

// rewrite is how a request is changed before a backend sees it.
type rewrite struct {
	host   string         // in place of the client's; empty: that one
	regexp *regexp.Regexp // the path is replaced by target, with $1 … from here; nil: target is as it stands
	target string
	full   bool   // target replaces all of the path
	prefix bool   // target replaces the prefix strip
	strip  string // without a slash at the end
}

func (w *rewrite) apply(r *http.Request) {
	if w.host != "" {
		r.Host = w.host
	}
	switch {
	case w.full:
		target := w.target
		if w.regexp != nil {
			clean := cleanPath(r.URL.Path)
			if found := w.regexp.FindStringSubmatchIndex(clean); found != nil {
				target = string(w.regexp.ExpandString(nil, w.target, clean, found))
			}
		}
		setPath(r.URL, target)
	case w.prefix:
		setEscapedPath(r.URL, replacePrefix(r.URL, w.strip, w.target))
	}
}

// replacePrefix gives the path of u, escaped, with another prefix.
func replacePrefix(u *url.URL, prefix, replacement string) string {
	escaped := u.EscapedPath()
	rest, ok := strings.CutPrefix(escaped, prefix)
	if !ok || (rest != "" && rest[0] != '/') {
		// The prefix itself is escaped, or has dots in it.
		escaped = (&url.URL{Path: cleanPath(u.Path)}).EscapedPath()
		rest = strings.TrimPrefix(escaped, (&url.URL{Path: prefix}).EscapedPath())
	}
	escaped = strings.TrimSuffix(replacement, "/") + rest
	if !strings.HasPrefix(escaped, "/") {
		escaped = "/" + escaped
	}
	return escaped
}

// setPath changes a URL's path to one that a user wrote, perhaps with a query.
func setPath(u *url.URL, target string) {
	target, query, found := strings.Cut(target, "?")
	if found {
		u.RawQuery = query
	}
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	u.Path, u.RawPath = target, ""
}

func setEscapedPath(u *url.URL, escaped string) {
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		plain = escaped
	}
	u.Path, u.RawPath = plain, escaped
}

// redirect is an answer that sends the client somewhere else. What is empty stays
// as it was in the request.
type redirect struct {
	status  int
	url     string // complete, in place of all that follows
	onlyAt  string // a path; other requests are served
	scheme  string
	host    string
	port    int
	path    string // replaces all of the path
	prefix  bool   // path replaces the prefix strip
	replace bool   // path is meant
	strip   string
}

// location is where r is sent.
func (d *redirect) location(r *http.Request) string {
	if d.url != "" {
		return d.url
	}
	u := *r.URL
	u.Scheme, u.Host = "http", hostOf(r)
	if r.TLS != nil {
		u.Scheme = "https"
	}
	port := d.port
	if _, own, err := net.SplitHostPort(r.Host); err == nil && d.scheme == "" && port == 0 {
		port, _ = strconv.Atoi(own)
	}
	if d.scheme != "" {
		u.Scheme = d.scheme
	}
	if d.host != "" {
		u.Host = d.host
	}
	if strings.Contains(u.Host, ":") && !strings.HasPrefix(u.Host, "[") {
		u.Host = "[" + u.Host + "]"
	}
	if usual := map[string]int{"http": 80, "https": 443}; port != 0 && port != usual[u.Scheme] {
		u.Host += ":" + strconv.Itoa(port)
	}
	switch {
	case d.prefix:
		setEscapedPath(&u, replacePrefix(r.URL, d.strip, d.path))
	case d.replace:
		setPath(&u, d.path)
	}
	return u.String()
}
