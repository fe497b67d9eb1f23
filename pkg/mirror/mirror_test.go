package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	manifest = `{"schemaVersion": 2, "layers": []}`
	index    = `{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": []}`
	layer    = "the layer's bytes"
)

type imageMap map[string]images.Image

func (m imageMap) Get(_ context.Context, name string) (images.Image, error) {
	image, ok := m[name]
	if !ok {
		return image, errors.New("not found")
	}
	return image, nil
}

func sum(text string) digest.Digest { return digest.FromString(text) }

// node is what a node serves: one image of a.example, by tag and digest.
func node(t *testing.T, blobs ...string) http.Handler {
	t.Helper()
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx := namespaces.WithNamespace(t.Context(), containerdNamespace)
	for _, blob := range blobs {
		desc := ocispec.Descriptor{Digest: sum(blob), Size: int64(len(blob))}
		if err := content.WriteBlob(ctx, store, blob, strings.NewReader(blob), desc); err != nil {
			t.Fatal(err)
		}
	}
	stored := imageMap{"a.example/team/app:1": {Target: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: sum(manifest), Size: int64(len(manifest)),
	}}}
	return newHandler(stored, store, func(registry string) bool { return registry == "a.example" })
}

func TestHandler(t *testing.T) {
	t.Parallel()
	h := node(t, manifest, index, layer)
	for _, test := range []struct {
		name, method, path string
		status             int
		mediaType, body    string
	}{
		{"tag", "GET", "/v2/team/app/manifests/1?ns=a.example", 200, ocispec.MediaTypeImageManifest, manifest},
		{"head of a tag", "HEAD", "/v2/team/app/manifests/1?ns=a.example", 200, ocispec.MediaTypeImageManifest, ""},
		{"manifest", "GET", "/v2/team/app/manifests/" + sum(manifest).String() + "?ns=a.example", 200, ocispec.MediaTypeImageManifest, manifest},
		{"index", "GET", "/v2/team/app/manifests/" + sum(index).String() + "?ns=a.example", 200, images.MediaTypeDockerSchema2ManifestList, index},
		{"blob", "GET", "/v2/team/app/blobs/" + sum(layer).String() + "?ns=a.example", 200, "application/octet-stream", layer},
		{"layer as a manifest", "GET", "/v2/team/app/manifests/" + sum(layer).String() + "?ns=a.example", 404, "", ""},
		{"other tag", "GET", "/v2/team/app/manifests/2?ns=a.example", 404, "", ""},
		{"other blob", "GET", "/v2/team/app/blobs/" + sum("other").String() + "?ns=a.example", 404, "", ""},
		{"other registry", "GET", "/v2/team/app/manifests/1?ns=b.example", 404, "", ""},
		{"registry that isn't shared", "GET", "/v2/team/app/blobs/" + sum(layer).String() + "?ns=b.example", 404, "", ""},
		{"no registry", "GET", "/v2/team/app/manifests/1", 404, "", ""},
		{"other path", "GET", "/v2/_catalog?ns=a.example", 404, "", ""},
		{"upload", "POST", "/v2/team/app/blobs/uploads/?ns=a.example", 405, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, httptest.NewRequest(test.method, test.path, nil))
			if answer.Code != test.status || answer.Header().Get("Content-Type") != test.mediaType || answer.Body.String() != test.body {
				t.Errorf("got %d, %q, %q", answer.Code, answer.Header().Get("Content-Type"), answer.Body)
			}
		})
	}
}

func TestOnlyGroup(t *testing.T) {
	t.Parallel()
	for group, want := range map[string]int{"nodes": 200, "others": 403} {
		certificate := &x509.Certificate{}
		certificate.Subject.Organization = []string{group}
		request := httptest.NewRequest(http.MethodGet, "/v2/team/app/manifests/1?ns=a.example", nil)
		request.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}}
		answer := httptest.NewRecorder()
		onlyGroup("nodes", node(t, manifest)).ServeHTTP(answer, request)
		if answer.Code != want {
			t.Errorf("one of %s gets %d, want %d", group, answer.Code, want)
		}
	}
}

// member is a Node object whose node serves at the address.
func member(t *testing.T, name, address string) *v1.Node {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{Annotation: port}},
		Status: v1.NodeStatus{Addresses: []v1.NodeAddress{
			{Type: v1.NodeHostName, Address: name}, {Type: v1.NodeInternalIP, Address: host},
		}},
	}
}

func serve(t *testing.T, h http.Handler) (address string, config *tls.Config) {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return server.Listener.Addr().String(), &tls.Config{RootCAs: pool}
}

func TestPeers(t *testing.T) {
	t.Parallel()
	var empty atomic.Int32
	// Closed without an answer: the address is one that nobody listens at.
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	has, config := serve(t, node(t, manifest, layer))
	lacks, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		empty.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	p := NewPeers(slog.New(slog.DiscardHandler))
	if _, err := p.Resolve(t.Context(), "a.example", "team/app", "1"); !errors.Is(err, errNobody) {
		t.Errorf("without peers the error is %v", err)
	}
	p.connect("self", config)
	if err := p.Replace([]any{
		member(t, "self", lacks), member(t, "dead", dead.Addr().String()), member(t, "has", has),
		&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "without"}},
	}, ""); err != nil {
		t.Fatal(err)
	}

	found, err := p.Resolve(t.Context(), "a.example", "team/app", "1")
	want := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: sum(manifest), Size: int64(len(manifest))}
	if err != nil || found.Digest != want.Digest || found.Size != want.Size || found.MediaType != want.MediaType {
		t.Errorf("resolved %v, error %v", found, err)
	}
	for _, blob := range []string{manifest, layer} {
		reader, err := p.Open(t.Context(), "a.example", "team/app", ocispec.Descriptor{Digest: sum(blob), Size: int64(len(blob))})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(reader)
		if err != nil || string(got) != blob {
			t.Errorf("got %q, error %v", got, err)
		}
		_ = reader.Close()
	}
	if _, err := p.Open(t.Context(), "a.example", "team/app", ocispec.Descriptor{Digest: sum("other"), Size: 5}); !errors.Is(err, errNobody) {
		t.Errorf("for what nobody has the error is %v", err)
	}
	if empty.Load() != 0 {
		t.Error("the node asks itself")
	}
	if asked := p.askable(); len(asked) != 1 {
		t.Errorf("asks %v after one of two couldn't be reached", asked)
	}
	if err := p.Delete(member(t, "has", has)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Resolve(t.Context(), "a.example", "team/app", "1"); !errors.Is(err, errNobody) {
		t.Errorf("without the node the error is %v", err)
	}
}

// TestSlowPeer leaves a peer alone that doesn't answer, soon.
func TestSlowPeer(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	slow, config := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(release) })
	p := NewPeers(slog.New(slog.DiscardHandler))
	p.connect("self", config)
	if err := p.Add(member(t, "slow", slow)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := p.Resolve(t.Context(), "a.example", "team/app", "1"); !errors.Is(err, errNobody) {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("a peer that doesn't answer is waited for %s", took)
	}
	if asked := p.askable(); len(asked) != 0 {
		t.Errorf("asks %v", asked)
	}
}
