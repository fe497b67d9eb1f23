// Package mirror has the nodes of a cluster give each other the images they have,
// so that an image comes into the cluster once.
//
// Each node serves what is in its containerd by the part of the OCI distribution
// protocol that reads, over TLS with the nodes' own certificates on both sides,
// and says so in an annotation of its Node object. A node that pulls asks all
// others at once whether they have a tag or a digest, takes it from the first
// that has, and goes to the registry when nobody answers in time.
package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/client"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/pki"
)

// Port is where nodes serve.
const Port = 5001

// Annotation of a node that serves: the port.
const Annotation = "kedge.io/embedded-registry"

const (
	// containerdNamespace is that of the images which Kubernetes sees.
	containerdNamespace = "k8s.io"
	headerLimit         = 10 * time.Second
	stopLimit           = time.Second
)

// Config is who a node is, and what it serves to whom.
type Config struct {
	NodeName   string
	Kubeconfig string // with a client certificate that peers accept
	Serving    pki.KeyPair
	ClientCA   string // bundle that signs the peers' client certificates
	Group      string // that they name
	Socket     string // containerd's
	// Shares says whether images of a registry are shared.
	Shares func(registry string) bool
	Log    *slog.Logger
}

// Mirror is a node's share in it, as a component.
type Mirror struct {
	config Config
	peers  *Peers
	run    component.Runner
}

// New makes the component. It tells peers who the others are.
func New(c Config, peers *Peers) *Mirror {
	c.Log = c.Log.With("component", "embedded-registry")
	return &Mirror{config: c, peers: peers}
}

func (*Mirror) Name() string                     { return "embedded-registry" }
func (*Mirror) Needs() []string                  { return []string{"apiserver", "containerd"} }
func (m *Mirror) Stop(ctx context.Context) error { return m.run.Stop(ctx) }
func (m *Mirror) Failed() <-chan error           { return m.run.Failed() }

// Start listens, and watches the nodes.
func (m *Mirror) Start(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", m.config.Kubeconfig)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	nodes, err := corev1.NewForConfig(config)
	if err != nil {
		return err
	}
	clientTLS, err := clientTLS(config.TLSClientConfig)
	if err != nil {
		return err
	}
	serverTLS, err := serverTLS(m.config.Serving, m.config.ClientCA)
	if err != nil {
		return err
	}
	containerd, err := client.New(m.config.Socket, client.WithDefaultNamespace(containerdNamespace))
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+strconv.Itoa(Port))
	if err != nil {
		_ = containerd.Close()
		return err
	}
	server := &http.Server{
		Handler: onlyGroup(m.config.Group, newHandler(containerd.ImageService(), containerd.ContentStore(), m.config.Shares)),
		// A reader that doesn't read is cut off by the kernel's keep-alive, at worst.
		ReadHeaderTimeout: headerLimit,
		TLSConfig:         serverTLS,
		ErrorLog:          slog.NewLogLogger(m.config.Log.Handler(), slog.LevelDebug),
	}
	m.run.Run(func(ctx context.Context) error {
		defer func() { _ = containerd.Close() }()
		m.peers.connect(m.config.NodeName, clientTLS)
		go func() {
			list := cache.NewListWatchFromClient(nodes.RESTClient(), "nodes", "", fields.Everything())
			cache.NewReflectorWithOptions(list, &v1.Node{}, m.peers, cache.ReflectorOptions{Name: "embedded registry"}).RunWithContext(ctx)
		}()
		end := context.AfterFunc(ctx, func() {
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
			defer cancel()
			if server.Shutdown(limited) != nil {
				_ = server.Close()
			}
		})
		defer end()
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// onlyGroup refuses those whose certificate is not of the group.
func onlyGroup(group string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(r.TLS.PeerCertificates[0].Subject.Organization, group) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// serverTLS reads the certificate for each connection: it is renewed meanwhile.
func serverTLS(serving pki.KeyPair, clientCA string) (*tls.Config, error) {
	clients, err := pool(clientCA)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  clients,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return load(serving.Cert, serving.Key)
		},
	}, nil
}

func clientTLS(files rest.TLSClientConfig) (*tls.Config, error) {
	servers, err := pool(files.CAFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    servers,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return load(files.CertFile, files.KeyFile)
		},
	}, nil
}

func load(cert, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	return &pair, err
}

func pool(file string) (*x509.CertPool, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}
