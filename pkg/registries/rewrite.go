package registries

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// rewrite renames repositories for the endpoints of a mirror.
type rewrite struct {
	pattern     *regexp.Regexp
	replacement string
}

// rewritten is the name that the first pattern gives which the repository matches.
func rewritten(rewrites []rewrite, repository string) string {
	for _, r := range rewrites {
		if r.pattern.MatchString(repository) {
			return r.pattern.ReplaceAllString(repository, r.replacement)
		}
	}
	return repository
}

// rewriting has the endpoints of a registry's mirror asked for the repository by
// the name that they have it under. The registry itself is not an endpoint unless
// the file lists it.
func (c Config) rewriting(registry, repository string, next http.RoundTripper) http.RoundTripper {
	m := c.mirrorOf(registry)
	name := rewritten(m.rewrites, repository)
	if _, done := next.(rewriteTransport); done || name == repository {
		return next
	}
	t := rewriteTransport{next: next, names: map[string]string{}}
	for _, e := range m.endpoints {
		u, err := url.Parse(e.url)
		if err != nil {
			continue // it was parsed before
		}
		path := u.Path
		if !e.ownPath {
			path = "/v2"
		}
		t.names[u.Host+path+"/"+repository+"/"] = path + "/" + name + "/"
	}
	return t
}

// rewriteTransport replaces the beginning of paths, by host and path.
type rewriteTransport struct {
	next  http.RoundTripper
	names map[string]string
}

func (t rewriteTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	for from, to := range t.names {
		rest, ok := strings.CutPrefix(request.URL.Host+request.URL.Path, from)
		if !ok {
			continue
		}
		renamed := request.Clone(request.Context())
		renamed.URL.Path, renamed.URL.RawPath = to+rest, ""
		response, err := t.next.RoundTrip(renamed)
		if response != nil {
			// What looks at the answer compares it with what was asked for.
			response.Request = request
		}
		return response, err
	}
	return t.next.RoundTrip(request)
}
