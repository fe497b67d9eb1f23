package dashboard

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func TestTarget(t *testing.T) {
	for path, want := range map[string]string{
		"/api":                                  "/api",
		"/apis/":                                "/apis/",
		"/version":                              "/version",
		"/openapi/v3/api/v1":                    "/openapi/v3/api/v1",
		"/api/v1/namespaces/a/pods/b/log":       "/api/v1/namespaces/a/pods/b/log",
		"/api/v1/namespaces/a/configmaps/proxy": "/api/v1/namespaces/a/configmaps/proxy",
		"/api/v1/nodes/proxy":                   "/api/v1/nodes/proxy",
		"/api/v1/namespaces/proxy":              "/api/v1/namespaces/proxy",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node": "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
		"/stream/watch/api/v1/pods":                                   "/api/v1/pods",
		"/stream/exec/a/b":                                            "/api/v1/namespaces/a/pods/b/exec",
		"/stream/attach/a/b":                                          "/api/v1/namespaces/a/pods/b/attach",

		"/metrics":                                  "",
		"/logs/":                                    "",
		"/stream/watch/metrics":                     "",
		"/stream/exec/a":                            "",
		"/stream/exec/a/b/c":                        "",
		"/stream/exec//b":                           "",
		"/stream/portforward/a/b":                   "",
		"/api/../metrics":                           "",
		"/api//v1":                                  "",
		"/api/v1/namespaces/..%2f..%2fmetrics":      "",
		"/stream/exec/..%2f..%2fa/b":                "",
		"/stream/exec/../b":                         "",
		"/api/v1/namespaces/a/services/b/proxy":     "",
		"/api/v1/namespaces/a/pods/b/proxy/x":       "",
		"/api/v1/nodes/a/proxy/pods":                "",
		"/api/v1/proxy/namespaces/a/pods/b":         "",
		"/stream/watch/api/v1/nodes/a/proxy/pods":   "",
		"/api/v1/namespaces/a/services/b/proxy%5cx": "",
	} {
		u, err := url.Parse("https://host" + path)
		if err != nil {
			t.Fatal(err)
		}
		got, reason := target(u)
		if got != want || (reason == "") != (want != "") {
			t.Errorf("%s leads to %q (%s), want %q", path, got, reason, want)
		}
	}
}

const good = "good.token.value"

// with is what a dashboard may have besides.
type with struct {
	provider *provider
	fetch    []netip.Prefix
	accepts  func(token string) bool // what the API server knows; default: good
}

// serve makes a dashboard before an API server that says what it was asked.
func serve(t *testing.T, w with) (*httptest.Server, chan *http.Request) {
	t.Helper()
	accepts := func(token string) bool { return token == good }
	if w.accepts != nil {
		accepts = w.accepts
	}
	asked := make(chan *http.Request, 10)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !ok || !accepts(token) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.HasSuffix(r.URL.Path, "selfsubjectreviews") {
			writeJSON(w, http.StatusCreated, map[string]any{"status": map[string]any{"userInfo": map[string]any{"username": "alice"}}})
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- r
		w.Header().Set("Set-Cookie", "stolen=1")
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<script>1</script>")
	}))
	t.Cleanup(api.Close)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, "the page")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := newPage(fstest.MapFS{"index.html.gz": {Data: packed.Bytes()}, "assets/a-1.js.gz": {Data: packed.Bytes()}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(api.URL)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(newHandler(p, &upstream{server: u, transport: http.DefaultTransport}, w.provider, newFetcher(w.fetch)))
	t.Cleanup(server.Close)
	return server, asked
}

// answer is a response whose body has been read.
type answer struct {
	code   int
	header http.Header
}

func do(t *testing.T, method, url, body string, header ...string) (answer, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header}, string(content)
}

func TestAPI(t *testing.T) {
	server, asked := serve(t, with{})
	response, body := do(t, "POST", server.URL+"/session", `{"token":"`+good+`","secure":true}`, "Content-Type: application/json")
	if response.code != http.StatusOK {
		t.Fatalf("the login: %d %s", response.code, body)
	}
	var s session
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.User != "alice" {
		t.Fatalf("the session is %s, error %v", body, err)
	}
	set := response.header.Get("Set-Cookie")
	for _, attribute := range []string{"HttpOnly", "Secure", "SameSite=Strict"} {
		if !strings.Contains(set, attribute) {
			t.Errorf("the cookie %s is not %s", set, attribute)
		}
	}
	cookie, _, _ := strings.Cut(set, ";")
	cookie = "Cookie: " + cookie
	proof := "X-Kedge-Csrf: " + s.CSRF

	for name, c := range map[string]struct {
		method, path, body string
		header             []string
		want               int
	}{
		"without a session":     {"GET", "/api/v1/pods", "", nil, 401},
		"a header is no login":  {"GET", "/api/v1/pods", "", []string{"Authorization: Bearer " + good}, 401},
		"with a session":        {"GET", "/api/v1/pods", "", []string{cookie}, 200},
		"another token":         {"GET", "/api/v1/pods", "", []string{"Cookie: kedge-dashboard=bad"}, 401},
		"from another site":     {"GET", "/api/v1/pods", "", []string{cookie, "Sec-Fetch-Site: cross-site"}, 403},
		"from another port":     {"GET", "/api/v1/pods", "", []string{cookie, "Sec-Fetch-Site: same-site"}, 403},
		"from the page":         {"GET", "/api/v1/pods", "", []string{cookie, "Sec-Fetch-Site: same-origin"}, 200},
		"a change":              {"POST", "/api/v1/pods", "{}", []string{cookie, proof}, 200},
		"without the proof":     {"POST", "/api/v1/pods", "{}", []string{cookie}, 403},
		"with a guess":          {"DELETE", "/api/v1/pods", "", []string{cookie, "X-Kedge-Csrf: guess"}, 403},
		"a websocket":           {"GET", "/stream/watch/api/v1/pods", "", []string{cookie, "Connection: Upgrade", "Upgrade: websocket"}, 403},
		"too much":              {"POST", "/api/v1/pods", strings.Repeat("x", maxBody+1), []string{cookie, proof}, 413},
		"a page of a service":   {"GET", "/api/v1/namespaces/a/services/b/proxy/", "", []string{cookie}, 400},
		"logged out by another": {"DELETE", "/session", "", []string{cookie}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			response, body := do(t, c.method, server.URL+c.path, c.body, c.header...)
			if response.code != c.want {
				t.Errorf("got %d %.200s, want %d", response.code, body, c.want)
			}
			if policy := response.header.Get("Content-Security-Policy"); policy != dataPolicy {
				t.Errorf("the answer's policy is %q", policy)
			}
			if response.header.Get("Set-Cookie") != "" && c.want == http.StatusOK {
				t.Error("the API sets a cookie")
			}
		})
	}
	for len(asked) > 0 {
		<-asked
	}
	do(t, "PUT", server.URL+"/api/v1/pods?ignored=1", "{}", cookie, proof, "X-Kedge-Query: dryRun=All", "Impersonate-User: root", "X-Forwarded-For: 1.2.3.4", "X-Remote-User: root")
	r := <-asked
	if r.URL.RawQuery != "dryRun=All" {
		t.Errorf("the query is %q", r.URL.RawQuery)
	}
	for name := range r.Header {
		switch name {
		case "Accept-Encoding", "Authorization", "Content-Length", "User-Agent":
		default:
			t.Errorf("the API server sees the header %s: %s", name, r.Header.Get(name))
		}
	}
}

func TestPage(t *testing.T) {
	server, _ := serve(t, with{})
	for path, want := range map[string]int{"/": 200, "/index.html": 200, "/assets/a-1.js": 200, "/assets/missing.js": 404, "/../secret": 404, "/page.go": 404} {
		for _, encoding := range []string{"gzip", "identity"} {
			response, body := do(t, "GET", server.URL+path, "", "Accept-Encoding: "+encoding)
			if response.code != want {
				t.Errorf("%s: %d, want %d", path, response.code, want)
				continue
			}
			if want == http.StatusOK && (encoding == "identity") != (body == "the page") {
				t.Errorf("%s as %s is %q", path, encoding, body)
			}
			if response.header.Get("X-Frame-Options") != "DENY" || response.header.Get("Content-Security-Policy") != pagePolicy {
				t.Errorf("%s comes with %v", path, response.header)
			}
			if hashedName := strings.HasPrefix(path, "/assets/a"); hashedName != strings.Contains(response.header.Get("Cache-Control"), "immutable") {
				t.Errorf("%s is kept: %s", path, response.header.Get("Cache-Control"))
			}
		}
	}
	if _, err := newPage(fstest.MapFS{".gitignore": {}}); err == nil || !strings.Contains(err.Error(), "make") {
		t.Errorf("without a page: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	encode := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for token, want := range map[string]int64{
		encode(`{"exp":1800000000}`): 1800000000,
		encode(`{}`):                 0,
		encode(`[]`):                 0,
		"abc.def":                    0,
		"a.!.c":                      0,
	} {
		got := expiry(token)
		if (got == nil) != (want == 0) || got != nil && !got.Equal(time.Unix(want, 0)) {
			t.Errorf("%s ends %v, want %d", token, got, want)
		}
	}
}

func TestCheckToken(t *testing.T) {
	for token, ok := range map[string]bool{"a.b-c_d": true, "": false, "a b": false, "a\nb": false, "a;b": false, "é": false, strings.Repeat("x", maxToken+1): false} {
		if err := checkToken(token); (err == nil) != ok {
			t.Errorf("%.20q: %v", token, err)
		}
	}
}
