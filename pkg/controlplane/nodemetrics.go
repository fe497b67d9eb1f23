package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
)

// nodeMetricsPrefix begins the paths at which the apiserver serves
// NODE/metrics/resource: what the node's kubelet says of the processor and memory
// in use. Who may get it, RBAC says by the path.
//
// It is the apiserver's own proxy to the kubelet and goes where that goes, through
// the tunnel too, but is open to those without the right to nodes/proxy, which is
// the right to run commands in every pod. The metrics-server asks here.
const nodeMetricsPrefix = "/kedge/nodes/"

// nodeMetricsLimit is how long a kubelet may take. It is below what the
// metrics-server waits: the apiserver complains of clients that give up.
const nodeMetricsLimit = 6 * time.Second

var errNoAnswer = fmt.Errorf("no answer within %s", nodeMetricsLimit)

// newNodeMetrics makes the handler, which asks with the apiserver's own rights.
func newNodeMetrics(loopback *rest.Config) (http.Handler, error) {
	apiserver, err := url.Parse(loopback.Host + "/")
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(loopback)
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			http.Error(w, "ask node "+r.PathValue("node")+" for its metrics: "+err.Error(), http.StatusGatewayTimeout)
		},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = apiserver.JoinPath("/api/v1/nodes", r.In.PathValue("node"), "proxy/metrics/resource")
			r.Out.Host = ""
			// Nothing of the client's identity goes on.
			r.Out.Header = http.Header{"Accept": r.In.Header["Accept"], "Accept-Encoding": r.In.Header["Accept-Encoding"]}
		},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+nodeMetricsPrefix+"{node}/metrics/resource", func(w http.ResponseWriter, r *http.Request) {
		if len(validation.IsDNS1123Subdomain(r.PathValue("node"))) > 0 {
			http.NotFound(w, r)
			return
		}
		ctx, cancel := context.WithTimeoutCause(r.Context(), nodeMetricsLimit, errNoAnswer)
		defer cancel()
		proxy.ServeHTTP(w, r.WithContext(ctx))
	})
	return mux, nil
}
