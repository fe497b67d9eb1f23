package ingress

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// request makes a request for matching; a URL with https comes by TLS.
func request(method, url string) *http.Request {
	r := httptest.NewRequest(method, url, nil)
	if strings.HasPrefix(url, "https:") {
		r.TLS = &tls.ConnectionState{}
	}
	return r
}

// TestPaths has the examples of the Ingress documentation.
func TestPaths(t *testing.T) {
	tests := []struct {
		kind, path, asked string
		want              bool
	}{
		{"Prefix", "/", "/any/path", true},
		{"Exact", "/foo", "/foo", true},
		{"Exact", "/foo", "/bar", false},
		{"Exact", "/foo", "/foo/", false},
		{"Exact", "/foo/", "/foo", false},
		{"Prefix", "/foo", "/foo", true},
		{"Prefix", "/foo", "/foo/", true},
		{"Prefix", "/foo/", "/foo", true},
		{"Prefix", "/foo/", "/foo/", true},
		{"Prefix", "/aaa/bb", "/aaa/bbb", false},
		{"Prefix", "/aaa/bbb", "/aaa/bbb", true},
		{"Prefix", "/aaa/bbb/", "/aaa/bbb", true},
		{"Prefix", "/aaa/bbb", "/aaa/bbb/", true},
		{"Prefix", "/aaa/bbb", "/aaa/bbb/ccc", true},
		{"Prefix", "/aaa/bbb", "/aaa/bbbxyz", false},
		{"Prefix", "/Foo", "/foo", false},
		{"Prefix", "/foo", "/bar/../foo/x", true},
		{"Prefix", "/foo", "/foo/../bar", false},
		{"Prefix", "/foo", "//foo//x", true},
		{"Exact", "/foo", "/foo?a=b", true},
		{"ImplementationSpecific", "/foo", "/foo/bar", true},
		{"ImplementationSpecific", "/foo", "/foobar", false},
	}
	for _, test := range tests {
		c := newFakeCluster()
		c.addService("web", "10.0.0.1:80")
		c.simple(t, "example.com", test.kind, test.path, "web")
		found := newTable(c.build().routes).match(request("GET", "http://example.com"+test.asked))
		if (found != nil) != test.want {
			t.Errorf("%s %s serves %s: %t, want %t", test.kind, test.path, test.asked, found != nil, test.want)
		}
	}
}

func TestPathOverlap(t *testing.T) {
	c := newFakeCluster()
	for _, name := range []string{"root", "aaa", "bbb", "exact", "prefix", "other", "wild", "deep", "last"} {
		c.addService(name, "10.0.0.1:80")
	}
	c.simple(t, "example.com", "Prefix", "/", "root")
	c.simple(t, "example.com", "Prefix", "/aaa", "aaa")
	c.simple(t, "example.com", "Prefix", "/aaa/bbb", "bbb")
	c.simple(t, "example.com", "Prefix", "/same", "prefix")
	c.simple(t, "example.com", "Exact", "/same", "exact")
	c.simple(t, "*.example.com", "Prefix", "/", "wild")
	c.simple(t, "a.example.com", "Prefix", "/own", "deep")
	c.simple(t, "", "Prefix", "/everywhere", "other")
	c.addIngress(t, `
metadata: {name: default}
spec: {defaultBackend: {service: {name: last, port: {number: 80}}}}
`)
	table := newTable(c.build().routes)
	for url, want := range map[string]string{
		"http://example.com/aaa/bbb/ccc":     "bbb",
		"http://example.com/aaa/ccc":         "aaa",
		"http://example.com/ccc":             "root",
		"http://example.com/same":            "exact",
		"http://example.com/same/":           "prefix",
		"http://EXAMPLE.com:8080/same":       "exact",
		"http://example.com./same":           "exact",
		"http://b.example.com/":              "wild",
		"http://b.c.example.com/":            "last",
		"http://a.example.com/own":           "deep",
		"http://a.example.com/":              "wild", // of its own host there is none
		"http://a.example.com/everywhere":    "wild",
		"http://somewhere.else/everywhere/x": "other",
		"http://somewhere.else/":             "last",
		"https://example.com/aaa":            "aaa",
	} {
		found := table.match(request("GET", url))
		got := "nothing"
		if found != nil {
			got = serviceOf(c, found)
		}
		if got != want {
			t.Errorf("%s is served by %s, want %s", url, got, want)
		}
	}
}

// serviceOf names the Service of a route by its Ingress.
func serviceOf(c *fakeCluster, r *route) string {
	for _, i := range c.list {
		if i.Name != r.owner.name {
			continue
		}
		if i.Spec.DefaultBackend != nil {
			return i.Spec.DefaultBackend.Service.Name
		}
		return i.Spec.Rules[0].HTTP.Paths[0].Backend.Service.Name
	}
	return "?"
}

func TestPrecedence(t *testing.T) {
	now := time.Now()
	made := func(name string, change func(*route)) *route {
		r := &route{policy: openPolicy, owner: owner{kindHTTPRoute, "default", name, now}}
		r.schemes, r.kind = schemeBoth, pathPrefix
		change(r)
		return r
	}
	header := []valueMatch{{name: "X-Kind", value: "b"}}
	routes := []*route{
		made("later", func(r *route) { r.owner.created = now.Add(time.Hour) }),
		made("b", func(*route) {}),
		made("a", func(*route) {}),
		made("query", func(r *route) { r.query = []valueMatch{{name: "q", value: "1"}} }),
		made("header", func(r *route) { r.headers = header }),
		made("headers", func(r *route) { r.headers = slices.Concat(header, []valueMatch{{name: "X-More", value: "c"}}) }),
		made("method", func(r *route) { r.method = "POST" }),
		made("long", func(r *route) { r.path = "/long" }),
		made("exact", func(r *route) { r.kind, r.path = pathExact, "/x" }),
	}
	table := newTable(routes)
	for _, test := range []struct {
		method, url, headers, want string
	}{
		{"GET", "http://h/", "", "a"},
		{"GET", "http://h/?q=1", "", "query"},
		{"GET", "http://h/?q=2", "", "a"},
		{"GET", "http://h/?q=1", "X-Kind=b", "header"},
		{"GET", "http://h/", "X-Kind=b X-More=c", "headers"},
		{"GET", "http://h/", "X-Kind=z", "a"},
		{"POST", "http://h/?q=1", "X-Kind=b", "method"},
		{"POST", "http://h/long/x", "X-Kind=b", "long"},
		{"POST", "http://h/x", "X-Kind=b", "exact"},
	} {
		r := request(test.method, test.url)
		for _, each := range strings.Fields(test.headers) {
			name, value, _ := strings.Cut(each, "=")
			r.Header.Set(name, value)
		}
		if found := table.match(r); found == nil || found.owner.name != test.want {
			t.Errorf("%s %s %s: %v, want %s", test.method, test.url, test.headers, found, test.want)
		}
	}
}

func TestClasses(t *testing.T) {
	c := newFakeCluster()
	c.addService("web", "10.0.0.1:80")
	for _, text := range []string{
		`{metadata: {name: own}, spec: {ingressClassName: kedge, defaultBackend: {service: {name: web, port: {number: 80}}}}}`,
		`{metadata: {name: other}, spec: {ingressClassName: nginx, defaultBackend: {service: {name: web, port: {number: 80}}}}}`,
		`{metadata: {name: missing}, spec: {ingressClassName: gone, defaultBackend: {service: {name: web, port: {number: 80}}}}}`,
		`{metadata: {name: none}, spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}}`,
		`{metadata: {name: old, annotations: {kubernetes.io/ingress.class: kedge}}, spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}}`,
		`{metadata: {name: oldother, annotations: {kubernetes.io/ingress.class: nginx}}, spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}}`,
	} {
		c.addIngress(t, text)
	}
	served := func() string {
		var names []string
		for _, r := range c.build().reports {
			names = append(names, r.ingress.Name)
		}
		return strings.Join(names, " ")
	}
	if got := served(); got != "own none old" {
		t.Errorf("served are %q", got)
	}
	c.isDefault = false
	if got := served(); got != "own old" {
		t.Errorf("when the class is not the default one, served are %q", got)
	}
}

func TestRewrite(t *testing.T) {
	tests := []struct {
		path, url, want string
		annotations     []string
	}{
		{"/app", "/app/x?y=z", "/app/x?y=z", nil},
		{"/app", "/app/x?y=z", "/x?y=z", []string{"ingress.kedge.io/strip-prefix", "true"}},
		{"/app", "/app", "/", []string{"ingress.kedge.io/strip-prefix", "true"}},
		{"/app", "/app/a%2Fb", "/a%2Fb", []string{"ingress.kedge.io/strip-prefix", "true"}},
		{"/app", "/app/x", "/v2/x", []string{"ingress.kedge.io/strip-prefix", "true", "ingress.kedge.io/rewrite-target", "/v2/"}},
		{"/app", "/app/x?y=z", "/?y=z", []string{"nginx.ingress.kubernetes.io/rewrite-target", "/"}},
		{"/app(/|$)(.*)", "/app/a/b", "/a/b", []string{"nginx.ingress.kubernetes.io/rewrite-target", "/$2"}},
		{"/app(/|$)(.*)", "/app", "/", []string{"nginx.ingress.kubernetes.io/rewrite-target", "/$2"}},
		{"/a(.*)", "/abc", "/new?was=bc", []string{"ingress.kedge.io/use-regex", "true", "ingress.kedge.io/rewrite-target", "/new?was=$1"}},
	}
	for _, test := range tests {
		c := newFakeCluster()
		c.addService("web", "10.0.0.1:80")
		c.simple(t, "h", "ImplementationSpecific", test.path, "web", test.annotations...)
		r := request("GET", "http://h"+test.url)
		found := newTable(c.build().routes).match(r)
		if found == nil {
			t.Errorf("%s: no route", test.url)
			continue
		}
		found.rewrite.apply(r)
		if got := r.URL.RequestURI(); got != test.want {
			t.Errorf("%s at %s %v: %s, want %s", test.url, test.path, test.annotations, got, test.want)
		}
	}
}

func TestRedirectLocation(t *testing.T) {
	for _, test := range []struct {
		url  string
		to   redirect
		want string
	}{
		{"http://h:8080/a?b=c", redirect{scheme: "https"}, "https://h/a?b=c"},
		{"http://h:8080/a", redirect{host: "other"}, "http://other:8080/a"},
		{"http://h/a", redirect{scheme: "https", port: 8443}, "https://h:8443/a"},
		{"https://h/a", redirect{scheme: "http", port: 80}, "http://h/a"},
		{"http://h/a/b", redirect{path: "/new", replace: true}, "http://h/new"},
		{"http://h/a/b?c", redirect{path: "/new", prefix: true, strip: "/a"}, "http://h/new/b?c"},
		{"http://[::1]:8080/a", redirect{scheme: "https"}, "https://[::1]/a"},
		{"http://h/a", redirect{url: "https://x/y"}, "https://x/y"},
	} {
		if got := test.to.location(request("GET", test.url)); got != test.want {
			t.Errorf("%s with %+v: %s, want %s", test.url, test.to, got, test.want)
		}
	}
}
