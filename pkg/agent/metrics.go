package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/cel"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/join"
)

const (
	// metricsPort is used where the port of the cluster's servers is not known.
	metricsPort = "6443"
	// decisionLife is how long the apiserver's decision about a reader is kept.
	decisionLife  = 10 * time.Second
	reviewLimit   = 10 * time.Second
	headerLimit   = 10 * time.Second
	metricsEnding = time.Second
)

// metricsServer serves an agent's metrics on the port that servers have, to those
// whom the apiserver lets read its own, as a component.
type metricsServer struct {
	member *member
	log    *slog.Logger
	run    component.Runner
}

func (*metricsServer) Name() string                     { return "metrics" }
func (*metricsServer) Needs() []string                  { return []string{"apiserver"} }
func (s *metricsServer) Stop(ctx context.Context) error { return s.run.Stop(ctx) }
func (s *metricsServer) Failed() <-chan error           { return s.run.Failed() }

// Start listens. A port that is taken is no reason for a node to stay away.
func (s *metricsServer) Start(ctx context.Context) error {
	readers, err := s.readers()
	if err != nil {
		return err
	}
	port := metricsPort
	if servers := s.member.cluster.Servers; len(servers) > 0 {
		if _, p, err := net.SplitHostPort(servers[0]); err == nil {
			port = p
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+port)
	if err != nil {
		s.log.Warn("the metrics of this node are not served: free the port, or take supervisor-metrics from the servers", "component", s.Name(), "err", err)
		return nil
	}
	s.run.Run(func(ctx context.Context) error {
		go readers.ca.Run(ctx, 1)
		server := &http.Server{
			Handler:           readers,
			ReadHeaderTimeout: headerLimit,
			ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
			TLSConfig: &tls.Config{
				MinVersion: tls.VersionTLS12,
				ClientAuth: tls.RequestClientCert,
				// Read each time: it is renewed while this runs, and seldom asked for.
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
					files := s.member.pair(join.Serving)
					cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
					return &cert, err
				},
			},
		}
		ended := make(chan error, 1)
		go func() { ended <- server.ServeTLS(listener, "", "") }()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), metricsEnding)
		defer cancel()
		_ = server.Shutdown(limited)
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// readers lets those read the metrics whom the apiserver allows to get the path.
type readers struct {
	ca            *dynamiccertificates.DynamicFileCAContent
	authenticator authenticator.Request
	authorizer    authorizer.Authorizer
	metrics       http.Handler
}

// readers asks the apiserver with the kubelet's rights, which it has for its own
// readers.
func (s *metricsServer) readers() (*readers, error) {
	config, err := clientcmd.BuildConfigFromFlags("", s.member.kubeconfig(join.Kubelet))
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	r := &readers{metrics: legacyregistry.Handler()}
	if r.ca, err = dynamiccertificates.NewDynamicCAContentFromFile("metrics-client-ca", s.member.clientCA()); err != nil {
		return nil, err
	}
	r.authenticator, _, err = authenticatorfactory.DelegatingAuthenticatorConfig{
		TokenAccessReviewClient:            client.AuthenticationV1(),
		TokenAccessReviewTimeout:           reviewLimit,
		WebhookRetryBackoff:                options.DefaultAuthWebhookRetryBackoff(),
		CacheTTL:                           decisionLife,
		ClientCertificateCAContentProvider: r.ca,
	}.New()
	if err != nil {
		return nil, err
	}
	r.authorizer, err = authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(),
		Compiler:                  cel.NewDefaultCompiler(),
		AllowCacheTTL:             decisionLife,
		DenyCacheTTL:              decisionLife,
		WebhookRetryBackoff:       options.DefaultAuthWebhookRetryBackoff(),
	}.New()
	return r, err
}

// ServeHTTP implements http.Handler.
func (r *readers) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if request.URL.Path != "/metrics" || request.Method != http.MethodGet {
		http.NotFound(w, request)
		return
	}
	who, known, err := r.authenticator.AuthenticateRequest(request)
	if err != nil || !known {
		http.Error(w, "show a client certificate or a token of the cluster", http.StatusUnauthorized)
		return
	}
	decision, _, err := r.authorizer.Authorize(request.Context(), authorizer.AttributesRecord{User: who.User, Verb: "get", Path: "/metrics"})
	switch {
	case err != nil:
		http.Error(w, "the cluster can't be asked whether you may read this", http.StatusServiceUnavailable)
	case decision != authorizer.DecisionAllow:
		http.Error(w, "you may not get /metrics", http.StatusForbidden)
	default:
		r.metrics.ServeHTTP(w, request)
	}
}
