package ingress

import (
	"cmp"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// table says which route serves a request. It is made whole and never changed;
// a change of the cluster's objects makes another one.
type table struct {
	exact    map[string][]*route // by host name
	wildcard map[string][]*route // by what follows the asterisk, such as .example.com
	any      []*route            // of all hosts
}

// newTable sorts routes so that the first that matches is the one to take.
func newTable(routes []*route) *table {
	t := &table{exact: make(map[string][]*route), wildcard: make(map[string][]*route)}
	for _, r := range routes {
		switch {
		case r.host == "":
			t.any = append(t.any, r)
		case strings.HasPrefix(r.host, "*."):
			t.wildcard[r.host[1:]] = append(t.wildcard[r.host[1:]], r)
		default:
			t.exact[r.host] = append(t.exact[r.host], r)
		}
	}
	for _, hosts := range []map[string][]*route{t.exact, t.wildcard} {
		for _, list := range hosts {
			slices.SortStableFunc(list, comparePrecedence)
		}
	}
	slices.SortStableFunc(t.any, comparePrecedence)
	return t
}

// match finds the route of a request: of the most specific host that has one.
func (t *table) match(r *http.Request) *route {
	host, clean := hostOf(r), cleanPath(r.URL.Path)
	var query url.Values // parsed when a route asks
	q := func() url.Values {
		if query == nil {
			query = r.URL.Query()
		}
		return query
	}
	if found := first(t.exact[host], r, clean, q, 0); found != nil {
		return found
	}
	for labels, rest := 1, host; ; labels++ {
		dot := strings.IndexByte(rest, '.')
		if dot < 0 {
			break
		}
		if found := first(t.wildcard[rest[dot:]], r, clean, q, labels); found != nil {
			return found
		}
		rest = rest[dot+1:]
	}
	return first(t.any, r, clean, q, 0)
}

func first(routes []*route, r *http.Request, path string, query func() url.Values, labels int) *route {
	for _, candidate := range routes {
		if labels > 1 && candidate.oneLabel {
			continue
		}
		if candidate.matches(r, path, query) {
			return candidate
		}
	}
	return nil
}

// hostOf is the name that a client asks for, without port and final dot.
func hostOf(r *http.Request) string {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// cleanPath resolves dots and repeated slashes, as a backend may: what is forbidden
// at /admin must not be reached as /public/../admin.
func cleanPath(p string) string {
	if p == "" {
		return "/"
	}
	clean := path.Clean("/" + p)
	if clean != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		clean += "/"
	}
	return clean
}

// pathKind is how a path is compared. The order is that of precedence.
type pathKind int

const (
	pathExact pathKind = iota
	pathRegexp
	pathPrefix // element by element: /a is in /a and /a/b, not in /ab
)

// scheme is a set of ways in which a request can come.
type scheme uint8

const (
	schemeHTTP scheme = 1 << iota
	schemeHTTPS
	schemeBoth = schemeHTTP | schemeHTTPS
)

// pattern says which requests a route is for.
type pattern struct {
	host     string // in lower case; *.NAME: all names below; empty: all
	oneLabel bool   // *.NAME stands for one label only, as in an Ingress
	schemes  scheme
	kind     pathKind
	path     string         // prefixes without a slash at the end
	regexp   *regexp.Regexp // of pathRegexp
	method   string         // empty: all
	headers  []valueMatch   // names in canonical form
	query    []valueMatch
}

// valueMatch compares the value of a header or of a query's parameter.
type valueMatch struct {
	name   string
	value  string
	regexp *regexp.Regexp // in place of value
}

func (m *valueMatch) matches(value string) bool {
	if m.regexp != nil {
		return m.regexp.MatchString(value)
	}
	return m.value == value
}

// prefix makes a path of pathPrefix from one that a user wrote.
func prefix(path string) string {
	return strings.TrimSuffix("/"+strings.TrimPrefix(path, "/"), "/")
}

func (p *pattern) matches(r *http.Request, path string, query func() url.Values) bool {
	came := schemeHTTP
	if r.TLS != nil {
		came = schemeHTTPS
	}
	if p.schemes&came == 0 || (p.method != "" && p.method != r.Method) {
		return false
	}
	switch p.kind {
	case pathExact:
		if path != p.path {
			return false
		}
	case pathRegexp:
		if !p.regexp.MatchString(path) {
			return false
		}
	case pathPrefix:
		if rest, ok := strings.CutPrefix(path, p.path); !ok || (rest != "" && rest[0] != '/') {
			return false
		}
	}
	for i := range p.headers {
		values := r.Header[p.headers[i].name]
		if len(values) == 0 || !p.headers[i].matches(strings.Join(values, ",")) {
			return false
		}
	}
	for i := range p.query {
		values, ok := query()[p.query[i].name]
		if !ok || !p.query[i].matches(values[0]) {
			return false
		}
	}
	return true
}

// comparePrecedence is negative if a goes before b. The rules are those of Gateway
// API, of which Ingress's are a part: an exact path, then the longest one; a method;
// more headers; more parameters; the older object, the first by name, the first rule.
func comparePrecedence(a, b *route) int {
	return cmp.Or(
		compareBool(b.last, a.last), // what is last is after all others
		compareBool(a.kind == pathExact, b.kind == pathExact),
		cmp.Compare(len(b.path), len(a.path)),
		cmp.Compare(a.kind, b.kind),
		compareBool(a.method != "", b.method != ""),
		cmp.Compare(len(b.headers), len(a.headers)),
		cmp.Compare(len(b.query), len(a.query)),
		a.owner.created.Compare(b.owner.created),
		cmp.Compare(a.owner.namespace, b.owner.namespace),
		cmp.Compare(a.owner.name, b.owner.name),
		cmp.Compare(a.order, b.order),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}
