package ingress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// acmeClient has certificates made by an ACME server and renews them. One pod does
// so for all; all answer the server's HTTP challenges and serve the certificates
// from the storage.
type acmeClient struct {
	storage  certmagic.Storage
	httpPort int
	failed   func(name string, err error) // is told when a certificate can't be had

	mu       sync.Mutex
	settings acmeSettings
	issuer   *certmagic.ACMEIssuer
	config   *certmagic.Config
	cache    *certmagic.Cache
	managed  map[string]context.CancelFunc
	wanted   map[string]bool // the names that certificates are for
	cleaned  time.Time
}

// cleanInterval is how often certificates are looked for that nobody needs any more.
const cleanInterval = time.Hour

// configure takes the settings over.
func (a *acmeClient) configure(to acmeSettings) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if to == a.settings && (a.config != nil || to.server == "") {
		return nil
	}
	a.stop()
	a.settings = to
	if to.server == "" {
		return nil
	}
	var roots *x509.CertPool
	if to.ca != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(to.ca)) {
			a.settings = acmeSettings{}
			return errors.New("acme-ca has no certificate in PEM form")
		}
	}
	var config *certmagic.Config
	logger := zap.NewNop() // failures are told by events
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return config, nil },
		Logger:           logger,
	})
	config = certmagic.New(a.cache, certmagic.Config{
		Storage: a.storage, Logger: logger, OnEvent: a.event,
		OCSP: certmagic.OCSPConfig{DisableStapling: true},
	})
	a.issuer = certmagic.NewACMEIssuer(config, certmagic.ACMEIssuer{
		CA: to.server, Email: to.email, Agreed: true, TrustedRoots: roots,
		DisableTLSALPNChallenge: true, AltHTTPPort: a.httpPort, Logger: logger,
	})
	config.Issuers = []certmagic.Issuer{a.issuer}
	a.config = config
	a.managed = make(map[string]context.CancelFunc)
	return nil
}

// stop ends all work; a.mu is held.
func (a *acmeClient) stop() {
	for _, cancel := range a.managed {
		cancel()
	}
	if a.cache != nil {
		a.cache.Stop()
	}
	a.issuer, a.config, a.cache, a.managed = nil, nil, nil, nil
}

// manage keeps certificates for these names, and for no others. The pod that leads
// asks for them.
func (a *acmeClient) manage(ctx context.Context, names []string, leads bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wanted = make(map[string]bool, len(names))
	for _, name := range names {
		a.wanted[name] = true
	}
	if a.config == nil {
		return
	}
	if !leads {
		names = nil
	}
	for name, cancel := range a.managed {
		if !slices.Contains(names, name) {
			cancel()
			delete(a.managed, name)
			a.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: name}})
		}
	}
	for _, name := range names {
		if a.managed[name] != nil {
			continue
		}
		own, cancel := context.WithCancel(ctx)
		a.managed[name] = cancel
		if err := a.config.ManageAsync(own, []string{name}); err != nil {
			a.failed(name, err)
		}
	}
}

// clean deletes, of what is stored, the certificates that have ended and that nobody
// wants, with their keys: the Secret has no room for all of all times.
func (a *acmeClient) clean(ctx context.Context, stored map[string][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.issuer == nil || time.Since(a.cleaned) < cleanInterval {
		return
	}
	a.cleaned = time.Now()
	keep := make(map[string]bool, len(a.wanted))
	for name := range a.wanted {
		keep[certmagic.StorageKeys.CertsSitePrefix(a.issuer.IssuerKey(), name)] = true
	}
	old := endedSites(stored, keep)
	if len(old) == 0 {
		return
	}
	go func() { // not for long, and the same again after the next interval
		for _, site := range old {
			if err := a.storage.Delete(ctx, site); err != nil {
				slog.Warn("an old certificate can't be deleted", "path", site, "err", err)
				continue
			}
			slog.Info("deleted an old certificate", "path", site)
		}
	}()
}

// endedSites are the directories of certificates that have ended, but for those to
// keep.
func endedSites(stored map[string][]byte, keep map[string]bool) []string {
	var ended []string
	for _, file := range sortedKeys(stored) {
		site := path.Dir(file)
		if !strings.HasPrefix(file, "certificates/") || path.Ext(file) != ".crt" || keep[site] {
			continue
		}
		block, _ := pem.Decode(stored[file])
		if block == nil {
			continue
		}
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil && time.Now().After(leaf.NotAfter) {
			ended = append(ended, site)
		}
	}
	return ended
}

// event is told what certmagic does.
func (a *acmeClient) event(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	switch event {
	case "cert_failed":
		err, _ := data["error"].(error)
		a.failed(name, err)
	case "cert_obtained":
		slog.Info("certificate obtained", "name", name)
	}
	return nil
}

// answer answers an HTTP challenge of the server's. Anybody can ask: it costs no
// request to the cluster.
func (a *acmeClient) answer(w http.ResponseWriter, r *http.Request) bool {
	a.mu.Lock()
	issuer, wanted := a.issuer, a.wanted[hostOf(r)]
	a.mu.Unlock()
	if issuer == nil || !wanted {
		return false
	}
	return issuer.HandleHTTPChallenge(w, r.WithContext(context.WithValue(r.Context(), fromCopy{}, true)))
}

// certificate gives the certificate of a name from what is stored.
func (a *acmeClient) certificate(stored map[string][]byte, name string) (*tls.Certificate, error) {
	a.mu.Lock()
	issuer := a.issuer
	a.mu.Unlock()
	if issuer == nil {
		return nil, nil
	}
	key := issuer.IssuerKey()
	chain, ok := stored[certmagic.StorageKeys.SiteCert(key, name)]
	if !ok {
		return nil, nil
	}
	pair, err := parsePair(chain, stored[certmagic.StorageKeys.SitePrivateKey(key, name)])
	if err != nil {
		return nil, fmt.Errorf("stored certificate of %s: %w", name, err)
	}
	return pair, nil
}

// acmeProblem is one line of what an ACME server or certmagic says.
func acmeProblem(name, server string, err error) string {
	text := "unknown reason"
	if err != nil {
		text = strings.Join(strings.Fields(err.Error()), " ")
	}
	return fmt.Sprintf("no certificate for %s from %s, it is tried again: %s", name, server, text)
}
