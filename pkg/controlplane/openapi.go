package controlplane

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/version"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler3"
)

// openAPIIdle is how long a document is kept after it was last asked for.
const openAPIIdle = time.Minute

// openAPI serves the OpenAPI documents of Kubernetes' built-in APIs. Upstream
// builds all of them when the apiserver starts and keeps them for ever: more
// than a second and half of the live heap of a small cluster, for documents
// that are hardly asked for. This builds a document with upstream's own code
// when somebody asks, and forgets it a while later. The aggregator in front
// adds custom resources and aggregated APIs as ever.
type openAPI struct {
	services []*restful.WebService
	v2       *common.Config
	v3       *common.OpenAPIV3Config
	// revision changes whenever any document may: by version, feature gates
	// and enabled APIs.
	revision string

	mu   sync.Mutex
	docs map[string]*openAPIDocument
}

// openAPIDocument is one document that is being built or kept.
type openAPIDocument struct {
	handler func() http.Handler // builds once
	forget  *time.Timer
}

// serveOpenAPI installs the handlers where upstream's own would be.
func serveOpenAPI(server *genericapiserver.GenericAPIServer, v2 *common.Config, v3 *common.OpenAPIV3Config) {
	o := &openAPI{
		services: server.Handler.GoRestfulContainer.RegisteredWebServices(),
		v2:       v2,
		v3:       v3,
		docs:     map[string]*openAPIDocument{},
	}
	o.revision = o.fingerprint()
	server.Handler.NonGoRestfulMux.HandleFunc("/openapi/v2", o.serveV2)
	server.Handler.NonGoRestfulMux.HandleFunc("/openapi/v3", o.serveV3Root)
	server.Handler.NonGoRestfulMux.HandlePrefix("/openapi/v3/", http.HandlerFunc(o.serveV3))
}

func (o *openAPI) fingerprint() string {
	hash := sha256.New()
	fmt.Fprintln(hash, version.Get())
	gates := utilfeature.DefaultMutableFeatureGate.GetAll()
	for _, name := range slices.Sorted(maps.Keys(gates)) {
		fmt.Fprintln(hash, name, utilfeature.DefaultFeatureGate.Enabled(name))
	}
	for _, service := range o.services {
		for _, route := range service.Routes() {
			fmt.Fprintln(hash, route.Method, route.Path)
		}
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// serveV2 serves the one document of all built-in APIs.
func (o *openAPI) serveV2(w http.ResponseWriter, r *http.Request) {
	o.serve(w, r, "v2", func(m *mux.PathRecorderMux) {
		routes.OpenAPI{Config: o.v2}.InstallV2(containerOf(o.services...), m)
	})
}

// serveV3Root lists the documents, one for each group and version.
func (o *openAPI) serveV3Root(w http.ResponseWriter, _ *http.Request) {
	root := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	for _, service := range o.services {
		path := strings.TrimPrefix(service.RootPath(), "/")
		root.Paths[path] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: "/openapi/v3/" + path + "?hash=" + o.revision}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(root)
}

// serveV3 serves the document of one group and version. A client that names
// the current revision may keep the answer for ever, as upstream has it.
func (o *openAPI) serveV3(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/openapi/v3")
	i := slices.IndexFunc(o.services, func(s *restful.WebService) bool { return s.RootPath() == path })
	if i < 0 {
		http.NotFound(w, r)
		return
	}
	query := r.URL.Query()
	if query.Get("hash") == o.revision {
		w = immutable{w}
	}
	// The handler behind compares it with a hash of its own.
	query.Del("hash")
	plain := r.Clone(r.Context())
	plain.URL.RawQuery = query.Encode()
	o.serve(w, plain, path, func(m *mux.PathRecorderMux) {
		routes.OpenAPI{V3Config: o.v3}.InstallV3(containerOf(o.services[i]), m)
	})
}

// serve answers with a document, which is built first if nobody has asked for
// it lately.
func (o *openAPI) serve(w http.ResponseWriter, r *http.Request, name string, install func(*mux.PathRecorderMux)) {
	o.mu.Lock()
	doc := o.docs[name]
	if doc == nil {
		doc = &openAPIDocument{handler: sync.OnceValue(func() http.Handler {
			m := mux.NewPathRecorderMux("openapi")
			install(m)
			return m
		})}
		doc.forget = time.AfterFunc(openAPIIdle, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			delete(o.docs, name)
		})
		o.docs[name] = doc
	}
	doc.forget.Reset(openAPIIdle)
	o.mu.Unlock()
	doc.handler().ServeHTTP(w, r)
}

func containerOf(services ...*restful.WebService) *restful.Container {
	c := restful.NewContainer()
	for _, service := range services {
		c.Add(service)
	}
	return c
}

// immutable lets clients cache an answer for ever.
type immutable struct{ http.ResponseWriter }

func (w immutable) WriteHeader(status int) {
	if status == http.StatusOK {
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	w.ResponseWriter.WriteHeader(status)
}
