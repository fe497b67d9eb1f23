package mirror

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageStore finds images by their names.
type imageStore interface {
	Get(ctx context.Context, name string) (images.Image, error)
}

// contentStore holds what images are made of.
type contentStore interface {
	content.InfoProvider
	content.Provider
}

// handler serves what a node has.
type handler struct {
	images  imageStore
	content contentStore
	shares  func(registry string) bool
}

func newHandler(images imageStore, content contentStore, shares func(string) bool) http.Handler {
	return handler{images, content, shares}
}

// requestPath is that of the distribution protocol. The registry which a mirror is
// asked for comes as ns.
var requestPath = regexp.MustCompile(`^/v2/([a-z0-9._/-]+)/(manifests|blobs)/([a-zA-Z0-9_][a-zA-Z0-9._:-]*)$`)

// manifestLimit is larger than manifests are.
const manifestLimit = 8 << 20

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	registry := r.URL.Query().Get("ns")
	parts := requestPath.FindStringSubmatch(r.URL.Path)
	if parts == nil || !h.shares(registry) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	ctx := namespaces.WithNamespace(r.Context(), containerdNamespace)
	desc, err := h.find(ctx, registry+"/"+parts[1], parts[3])
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	reader, err := h.content.ReaderAt(ctx, desc)
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	defer func() { _ = reader.Close() }()
	body := io.NewSectionReader(reader, 0, reader.Size())
	mediaType := "application/octet-stream"
	if parts[2] == "manifests" {
		if mediaType = mediaTypeOf(body, desc); mediaType == "" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", desc.Digest.String())
	http.ServeContent(w, r, "", time.Time{}, body)
}

// find finds what a tag or digest stands for, if all of it has arrived here.
func (h handler) find(ctx context.Context, repository, object string) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{Digest: digest.Digest(object)}
	if desc.Digest.Validate() != nil {
		image, err := h.images.Get(ctx, repository+":"+object)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		desc = image.Target
	}
	info, err := h.content.Info(ctx, desc.Digest)
	desc.Size = info.Size
	return desc, err
}

// mediaTypeOf is a manifest's media type, empty for what is none.
func mediaTypeOf(body *io.SectionReader, desc ocispec.Descriptor) string {
	if desc.MediaType != "" {
		return desc.MediaType
	}
	if body.Size() > manifestLimit {
		return ""
	}
	var manifest struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
	}
	if err := json.NewDecoder(io.NewSectionReader(body, 0, body.Size())).Decode(&manifest); err != nil {
		return ""
	}
	switch {
	case manifest.MediaType != "":
		return manifest.MediaType
	case manifest.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case manifest.Layers != nil:
		return ocispec.MediaTypeImageManifest
	}
	return ""
}
