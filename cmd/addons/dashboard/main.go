// Package dashboard serves the dashboard's page and passes what it asks on to the
// API server with the rights of who is logged in. It has no rights of its own.
package dashboard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// built is the page as make has built it, each file compressed; see pkg/dashboard/web.
//
//go:embed all:page
var built embed.FS

// options are those of the command line.
type options struct {
	listen       string
	apiServer    string
	authority    string
	certificates string
	settings     string
	issuer       string
	clientID     string
}

// Main is the dashboard add-on's program.
func Main() {
	var o options
	f := flag.NewFlagSet("dashboard", flag.ExitOnError)
	f.StringVar(&o.listen, "listen", ":8443", "`address` for HTTPS")
	f.StringVar(&o.apiServer, "api-server", inCluster(), "`URL` of the API server")
	f.StringVar(&o.authority, "ca-file", "/etc/kubernetes/ca.crt", "`file` with the CA of the API server")
	f.StringVar(&o.certificates, "certificates", "/certs", "`directory` that may hold tls.crt and tls.key to serve with")
	f.StringVar(&o.settings, "settings", "/settings", "`directory` that may hold an administrator's settings")
	f.StringVar(&o.issuer, "oidc-issuer-url", os.Getenv("OIDC_ISSUER_URL"), "`URL` of the identity provider that the API server knows")
	f.StringVar(&o.clientID, "oidc-client-id", os.Getenv("OIDC_CLIENT_ID"), "`name` of the cluster there")
	_ = f.Parse(os.Args[1:]) // exits by itself

	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		slog.Error("the dashboard ends", "err", err)
		os.Exit(1)
	}
}

// inCluster is where pods find the API server.
func inCluster() string {
	host := os.Getenv("KUBERNETES_SERVICE_HOST")
	if host == "" {
		return ""
	}
	return "https://" + net.JoinHostPort(host, os.Getenv("KUBERNETES_SERVICE_PORT"))
}

// run serves until ctx ends.
func run(ctx context.Context, o options) error {
	upstream, err := newUpstream(o.apiServer, o.authority)
	if err != nil {
		return err
	}
	files, err := fs.Sub(built, "page")
	if err != nil {
		return err
	}
	p, err := newPage(files)
	if err != nil {
		return err
	}
	certificate, err := serverCertificate(o.certificates)
	if err != nil {
		return err
	}
	provider, err := settings(o.settings).provider(o.issuer, o.clientID)
	if err != nil {
		return err
	}
	networks, err := settings(o.settings).networks()
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr:              o.listen,
		Handler:           newHandler(p, upstream, provider, newFetcher(networks)),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug), // what clients do to connections
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServeTLS("", "") }() // ends with Shutdown or Close
	slog.Info("the dashboard serves", "address", o.listen, "api-server", o.apiServer)
	select {
	case err := <-failed:
		return fmt.Errorf("serve at %s: %w", o.listen, err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(end); err != nil {
		return server.Close() // watches don't end by themselves
	}
	return nil
}

func newUpstream(address, authority string) (*upstream, error) {
	if address == "" {
		return nil, errors.New("not in a pod: say where the API server is, with --api-server")
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("--api-server: %q is no https URL", address)
	}
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, fmt.Errorf("read the CA of the API server: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", authority)
	}
	return &upstream{
		server: u,
		// HTTP/1.1: a websocket has no place in an HTTP/2 connection.
		transport: &http.Transport{
			TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			MaxIdleConns:          16,
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       time.Minute,
			ResponseHeaderTimeout: time.Minute,
			DisableCompression:    true, // browsers unpack
		},
	}, nil
}

// serverCertificate loads the pair in the directory or, without one, makes one
// that lasts as long as the process.
func serverCertificate(dir string) (tls.Certificate, error) {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return certificate, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "kubernetes-dashboard"},
		DNSNames:     []string{"kubernetes-dashboard", "kubernetes-dashboard.kubernetes-dashboard.svc", "localhost"},
		NotBefore:    time.Now().AddDate(-1, 0, 0), // the clock may be wrong
		NotAfter:     time.Now().AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
