package registries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// blob is what all registries of the tests hold.
var blob = []byte(`{"layers": [], "padding": "` + strings.Repeat("x", 1000) + `"}`)

func describeBlob() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
}

// upstream is a registry. It asks for the login, if there is one.
type upstream struct {
	login string // NAME:PASSWORD
	mu    sync.Mutex
	asked []string
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, _ := r.BasicAuth(); u.login != "" && user+":"+password != u.login {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	u.mu.Lock()
	u.asked = append(u.asked, r.Method+" "+r.URL.Path)
	u.mu.Unlock()
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Docker-Content-Digest", describeBlob().Digest.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
	_, _ = w.Write(blob)
}

func (u *upstream) requests() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.asked)
}

func (u *upstream) serve(t *testing.T) (host string) {
	t.Helper()
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// transferrer takes an image as containerd does: it resolves and fetches.
type transferrer struct{ content []byte }

func (t *transferrer) Transfer(ctx context.Context, from, _ any, _ ...transfer.Opt) error {
	source, ok := from.(transfer.ImageFetcher)
	if !ok {
		return fmt.Errorf("%T can't be fetched from", from)
	}
	name, found, err := source.Resolve(ctx)
	if err != nil {
		return err
	}
	fetcher, err := source.Fetcher(ctx, name)
	if err != nil {
		return err
	}
	reader, err := fetcher.Fetch(ctx, found)
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	t.content, err = io.ReadAll(reader)
	return err
}

// anywhere is where images are stored.
type anywhere struct{ transfer.ImageStorer }

func (anywhere) Store(context.Context, ocispec.Descriptor, images.Store) ([]images.Image, error) {
	return nil, nil
}

// secret is the login of a pod's pull secret.
type secret struct {
	user, password string
	err            error
}

func (s secret) GetCredentials(_ context.Context, _, host string) (registry.Credentials, error) {
	return registry.Credentials{Host: host, Username: s.user, Secret: s.password}, s.err
}

func live(t *testing.T, content string) *Live {
	t.Helper()
	dir := t.TempDir()
	c := load(t, dir, content)
	l := NewLive(c, filepath.Join(dir, "registries.yaml"), filepath.Join(dir, "certs.d"), slog.New(slog.DiscardHandler))
	if err := l.Write(); err != nil {
		t.Fatal(err)
	}
	return l
}

// pull pulls an image as the CRI does.
func pull(t *testing.T, l *Live, peers Peers, name string, s secret) (content []byte, err error) {
	t.Helper()
	from, err := registry.NewOCIRegistry(t.Context(), name, registry.WithCredentials(s), registry.WithHostDir(l.dir))
	if err != nil {
		t.Fatal(err)
	}
	inner := &transferrer{}
	err = Pulls(inner, l, peers).Transfer(t.Context(), from, anywhere{})
	return inner.content, err
}

func TestPullLogin(t *testing.T) {
	t.Parallel()
	up := &upstream{login: "me:secret"}
	host := up.serve(t)
	with := func(password string) string {
		return "mirrors: {hub.example: {endpoint: ['http://" + host + "']}}\nconfigs: {'" + host + "': {auth: {username: me, password: " + password + "}}}\n"
	}
	for _, test := range []struct {
		name   string
		file   string
		secret secret
		want   string // in the error; empty: none
	}{
		{"from the file", with("secret"), secret{}, ""},
		{"wrong in the file", with("wrong"), secret{}, "401 Unauthorized"},
		{"none", "mirrors: {hub.example: {endpoint: ['http://" + host + "']}}\n", secret{}, "no basic auth credentials"},
		{"pull secret first", with("wrong"), secret{user: "me", password: "secret"}, ""},
		{"wrong pull secret", with("secret"), secret{user: "me", password: "wrong"}, "401 Unauthorized"},
		{"malformed pull secret", with("secret"), secret{err: errors.New("malformed")}, "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			content, err := pull(t, live(t, test.file), nil, "hub.example/team/app:1", test.secret)
			if test.want == "" {
				if err != nil || !bytes.Equal(content, blob) {
					t.Errorf("pulled %d bytes, error %v", len(content), err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q in it", err, test.want)
			}
		})
	}
}

// TestPullProxy has a proxy for images alone.
func TestPullProxy(t *testing.T) {
	proxy := &upstream{}
	t.Setenv("CONTAINERD_HTTP_PROXY", "http://"+proxy.serve(t))
	t.Setenv("CONTAINERD_NO_PROXY", "direct.invalid")
	for _, host := range []string{"mirror.invalid", "direct.invalid"} {
		content, err := pull(t, live(t, "mirrors: {hub.example: {endpoint: ['http://"+host+"']}}\n"), nil, "hub.example/team/app:1", secret{})
		if proxied := host == "mirror.invalid"; proxied != (err == nil && bytes.Equal(content, blob)) {
			t.Errorf("from %s pulled %d bytes, error %v", host, len(content), err)
		}
	}
	if asked := proxy.requests(); len(asked) == 0 {
		t.Error("the proxy was asked for nothing")
	}
}

func TestPullRewrite(t *testing.T) {
	t.Parallel()
	up := &upstream{}
	host := up.serve(t)
	for _, test := range []struct {
		name, image, path, rewrite string
		want                       string // beginning of the path
	}{
		{"prefix", "hub.example/team/app:1", "", `{"^team/(.*)": "mirror/$1"}`, "/v2/mirror/app/"},
		{"path of the endpoint", "hub.example/team/app:1", "/api", `{"^team/(.*)": "mirror/$1"}`, "/api/mirror/app/"},
		{"all", "hub.example/team/app:1", "", `{"(.*)": "hub/$1"}`, "/v2/hub/team/app/"},
		{"first that matches", "hub.example/team/app:1", "", `{"^other/": "x/", "^team/": "first/", "app": "second"}`, "/v2/first/app/"},
		{"no match", "hub.example/team/app:1", "", `{"^other/": "x/"}`, "/v2/team/app/"},
		{"of the wildcard", "other.example/team/app:1", "", `{"^team/": "x/"}`, "/v2/x/app/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			names := `hub.example`
			if test.name == "of the wildcard" {
				names = `"*"`
			}
			before := len(up.requests())
			content, err := pull(t, live(t, "mirrors: {"+names+": {endpoint: ['http://"+host+test.path+"'], rewrite: "+test.rewrite+"}}\n"), nil, test.image, secret{})
			if err != nil || !bytes.Equal(content, blob) {
				t.Fatalf("pulled %d bytes, error %v", len(content), err)
			}
			asked := up.requests()[before:]
			for _, request := range asked {
				if _, path, _ := strings.Cut(request, " "); !strings.HasPrefix(path, test.want+"manifests/") {
					t.Errorf("asked for %s, want %s…", path, test.want)
				}
			}
			if len(asked) < 2 {
				t.Errorf("asked for %q only", asked)
			}
		})
	}
}

// TestPullWebPage asks a registry that sends web pages.
func TestPullWebPage(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html>Log in first</html>")
	}))
	t.Cleanup(server.Close)
	l := live(t, "mirrors: {hub.example: {endpoint: ['"+server.URL+"']}}\n")
	if _, err := pull(t, l, nil, "hub.example/team/app:1", secret{}); err == nil || !strings.Contains(err.Error(), "text/html instead of a manifest") {
		t.Errorf("error %v", err)
	}
}

// TestPullRewriteRegistry asks the registry itself for the image's own name.
func TestPullRewriteRegistry(t *testing.T) {
	t.Parallel()
	up := &upstream{}
	host := up.serve(t)
	l := live(t, "mirrors: {'"+host+"': {endpoint: ['http://127.0.0.1:1'], rewrite: {'^team/': 'x/'}}}\n")
	if _, err := pull(t, l, nil, host+"/team/app:1", secret{}); err != nil {
		t.Fatal(err)
	}
	for _, request := range up.requests() {
		if !strings.Contains(request, "/v2/team/app/") {
			t.Errorf("the registry itself is asked for %s", request)
		}
	}
}

// peers have the blob under one tag, or don't.
type peers struct {
	mu      sync.Mutex
	have    bool
	content []byte // given for the blob
	err     error  // after the content
	asked   []string
}

func (p *peers) Resolve(_ context.Context, registry, repository, object string) (ocispec.Descriptor, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, registry+" "+repository+" "+object)
	if !p.have {
		return ocispec.Descriptor{}, errors.New("nobody has it")
	}
	return describeBlob(), nil
}

func (p *peers) Open(_ context.Context, _, _ string, content ocispec.Descriptor) (io.ReadCloser, error) {
	if !p.have || content.Digest != describeBlob().Digest {
		return nil, errors.New("nobody has it")
	}
	err := p.err
	if err == nil {
		err = io.EOF
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(p.content), failing{err})), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestPullFromPeers(t *testing.T) {
	t.Parallel()
	const down = "127.0.0.1:1"
	sum := describeBlob().Digest.String()
	for _, test := range []struct {
		name, object string // of the image: tag or digest
		peers        *peers
		down         bool // the registry
		mirrors      string
		wantAsked    string // of the peers
		wantRegistry int    // requests
		wantErr      string
	}{
		{"all from a peer", ":1", &peers{have: true, content: blob}, true, "HOST", "HOST team/app 1", 0, ""},
		{"by digest", "@" + sum, &peers{have: true, content: blob}, true, "HOST", "HOST team/app " + sum, 0, ""},
		{"tag with a digest", ":1@" + sum, &peers{have: true, content: blob}, true, "HOST", "HOST team/app " + sum, 0, ""},
		{"wildcard", ":1", &peers{have: true, content: blob}, true, `"*"`, "HOST team/app 1", 0, ""},
		{"registry not named", ":1", &peers{have: true, content: blob}, false, "other.example", "", 2, ""},
		{"nobody has it", ":1", &peers{}, false, "HOST", "", 2, ""},
		{"digest that nobody has", "@" + sum, &peers{}, false, "HOST", "HOST team/app " + sum, 2, ""},
		{"tag from the registry", ":1", &peers{have: true, content: blob}, false, "HOST", "", 1, ""},
		{"latest from the registry", ":latest", &peers{have: true, content: blob}, false, "HOST", "", 1, ""},
		{"latest without the registry", ":latest", &peers{have: true, content: blob}, true, "HOST", "HOST team/app latest", 0, ""},
		{"neither", ":1", &peers{}, true, "HOST", "HOST team/app 1", 0, "connection refused"},
		{"peer ends early", ":1", &peers{have: true, content: blob[:100]}, false, "HOST", "", 2, ""},
		{"peer fails", ":1", &peers{have: true, content: blob[:100], err: errors.New("reset")}, false, "HOST", "", 2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			up := &upstream{}
			host := down
			if !test.down {
				host = up.serve(t)
			}
			names := strings.NewReplacer("HOST", host)
			mirrors := names.Replace(strings.ReplaceAll(test.mirrors, "HOST", "'HOST'"))
			l := live(t, "mirrors: {"+mirrors+": {}}\n")
			content, err := pull(t, l, test.peers, host+"/team/app"+test.object, secret{})
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error %v, want %q in it", err, test.wantErr)
				}
			} else if err != nil || !bytes.Equal(content, blob) {
				t.Errorf("pulled %d bytes, error %v", len(content), err)
			}
			if got := strings.Join(test.peers.asked, ", "); got != names.Replace(test.wantAsked) {
				t.Errorf("peers are asked for %q, want %q", got, names.Replace(test.wantAsked))
			}
			if got := up.requests(); len(got) != test.wantRegistry {
				t.Errorf("the registry is asked for %q, want %d requests", got, test.wantRegistry)
			}
		})
	}
}

func TestMirrorsOnly(t *testing.T) {
	t.Parallel()
	own, mirrored := &upstream{}, &upstream{}
	host, mirror := own.serve(t), mirrored.serve(t)
	for _, test := range []struct {
		name, file string
		own        bool // the registry is asked
		err        string
	}{
		{"not named", "", true, ""},
		{"mirror", "mirrors: {'HOST': {endpoint: ['http://MIRROR']}}", false, ""},
		{"wildcard", "mirrors: {'*': {endpoint: ['http://MIRROR']}}", false, ""},
		{"itself", "mirrors: {'HOST': {endpoint: ['http://HOST']}}", true, ""},
		{"mirror down", "mirrors: {'HOST': {endpoint: ['http://127.0.0.1:1']}}", false, "connection refused"},
		{"no endpoint", "mirrors: {'HOST': {}}", false, "disable-default-registry-endpoint"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := live(t, strings.NewReplacer("HOST", host, "MIRROR", mirror).Replace(test.file))
			l.MirrorsOnly = true
			before := len(own.requests())
			_, err := pull(t, l, nil, host+"/app:1", secret{})
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if asked := len(own.requests()) > before; asked != test.own {
				t.Errorf("the registry itself is asked: %t, want %t", asked, test.own)
			}
		})
	}
}
