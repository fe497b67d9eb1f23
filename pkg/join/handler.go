package join

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/pkg/pki"
	"github.com/kedge-k8s/kedge/pkg/token"
	"github.com/kedge-k8s/kedge/pkg/version"
)

const (
	maxBody = 1 << 20
	// storeLimit is how long the apiserver may take to look up a token or node.
	storeLimit = 10 * time.Second
)

// ErrUnknownToken says that a token is not, or no longer, one of the cluster's.
var ErrUnknownToken = errors.New("the token is not, or no longer, one of this cluster")

// ErrNameTaken says that the name of a node belongs to another machine.
var ErrNameTaken = errors.New("the node's name belongs to another machine")

// ErrUnclaimed says that the name of a node is nobody's: the node was deleted.
var ErrUnclaimed = errors.New("this node was deleted from the cluster, so its certificate is not enough: give it a token with which it joins again")

// Tokens knows the tokens of the cluster.
type Tokens interface {
	// Check returns nil if machines may join as nodes with the token, an error
	// that wraps ErrUnknownToken if not, or that it can't be found out now.
	Check(ctx context.Context, t token.Token) error
	// IsServer says whether machines may join as servers with the token.
	IsServer(t token.Token) bool
}

// Machines knows which machine each node's name belongs to.
type Machines interface {
	// Claim returns nil if the name is free, and from now on the secret's, or is
	// the secret's already; an error that wraps ErrNameTaken if it is another's.
	Claim(ctx context.Context, node, secret string) error
	// Confirm returns nil if the name is the secret's already; an error that wraps
	// ErrNameTaken if it is another's, or ErrUnclaimed if it is nobody's.
	Confirm(ctx context.Context, node, secret string) error
}

// Config is what the handler works with.
type Config struct {
	Cluster  func() Cluster
	ServerCA *pki.CA
	ClientCA *pki.CA
	// Apiserver is its serving certificate, whose names no node may get.
	Apiserver *x509.Certificate
	Tokens    Tokens
	Machines  Machines
	// Servers lets further servers join; nil: this is the only one for ever.
	Servers Servers
	// Tunnel takes the connections of nodes; see NodeOf. It may be nil.
	Tunnel http.Handler
	Log    *slog.Logger
}

// Handler serves the protocol.
type Handler struct {
	Config
	clients *x509.CertPool
	mux     *http.ServeMux
}

// NewHandler makes the handler.
func NewHandler(c Config) *Handler {
	h := &Handler{Config: c, clients: x509.NewCertPool(), mux: http.NewServeMux()}
	h.clients.AppendCertsFromPEM(c.ClientCA.Bundle)
	h.mux.HandleFunc("GET "+caPath, h.serveCA)
	h.mux.HandleFunc("GET "+clusterPath, h.serveCluster)
	h.mux.HandleFunc("POST "+certificatesPath, h.serveCertificates)
	h.handleServers()
	if c.Tunnel != nil {
		h.mux.Handle("GET "+connectPath, c.Tunnel)
	}
	return h
}

// InFrontOf returns a handler that serves the protocol, and leaves every other
// request to next.
func (h *Handler) InFrontOf(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, Prefix) {
			h.mux.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// NodeOf returns the node that a request comes from, by its certificate of
// identity Agent.
func (h *Handler) NodeOf(r *http.Request) (node string, ok bool) {
	cert := h.clientOf(r)
	if cert == nil || !slices.Contains(cert.Subject.Organization, AgentGroup) {
		return "", false
	}
	return strings.CutPrefix(cert.Subject.CommonName, agentUserPrefix)
}

// clientOf returns the client's certificate if it is one of this cluster.
func (h *Handler) clientOf(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	cert := r.TLS.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	_, err := cert.Verify(x509.VerifyOptions{Roots: h.clients, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil
	}
	return cert
}

func (h *Handler) serveCA(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(h.ServerCA.Bundle)
}

func (h *Handler) serveCluster(w http.ResponseWriter, r *http.Request) {
	if _, ok := h.NodeOf(r); !ok && !h.authenticate(w, r) {
		return
	}
	if !h.checkVersion(w, r) {
		return
	}
	h.answer(w, h.Cluster())
}

// authenticate answers a request that shows no valid token.
func (h *Handler) authenticate(w http.ResponseWriter, r *http.Request) bool {
	user, password, given := r.BasicAuth()
	if !given {
		h.fail(w, r, http.StatusUnauthorized, errors.New("neither a token nor a valid certificate of a node was shown"))
		return false
	}
	t, err := token.FromBasicAuth(user, password)
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), storeLimit)
		defer cancel()
		err = h.Tokens.Check(ctx, t)
	} else {
		err = ErrUnknownToken
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, ErrUnknownToken):
		h.fail(w, r, http.StatusUnauthorized, err)
	default:
		h.fail(w, r, http.StatusServiceUnavailable, fmt.Errorf("check the token: %w", err))
	}
	return false
}

// checkVersion answers a request of an agent that may not join: kubelets may be
// older than the apiserver, not newer.
// https://kubernetes.io/releases/version-skew-policy/
func (h *Handler) checkVersion(w http.ResponseWriter, r *http.Request) bool {
	if agent := r.Header.Get(versionHeader); version.NewerMinor(agent, version.Version) {
		h.fail(w, r, http.StatusConflict, fmt.Errorf("the agent is Kedge %s and newer than this server, %s: upgrade the servers first, or install %s on the agent", agent, version.Version, version.Version))
		return false
	}
	return true
}

func (h *Handler) serveCertificates(w http.ResponseWriter, r *http.Request) {
	var req certificatesRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
		h.fail(w, r, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return
	}
	node, known := h.NodeOf(r)
	known = known && node == req.Node
	if !known && !h.authenticate(w, r) {
		return
	}
	if !h.checkVersion(w, r) {
		return
	}
	if !validNode(req.Node) || len(req.Secret) < minSecret {
		h.fail(w, r, http.StatusBadRequest, fmt.Errorf("node name %q or the machine's secret has not the right form", req.Node))
		return
	}
	issue, err := h.requests(req)
	if err != nil {
		h.fail(w, r, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeLimit)
	defer cancel()
	// A certificate outlasts the node that it is of: once that is deleted, only a
	// token lets the machine in again.
	if known {
		err = h.Machines.Confirm(ctx, req.Node, req.Secret)
		if _, _, given := r.BasicAuth(); given && errors.Is(err, ErrUnclaimed) {
			if !h.authenticate(w, r) {
				return
			}
			known = false
		}
	}
	if !known {
		err = h.Machines.Claim(ctx, req.Node, req.Secret)
	}
	switch {
	case errors.Is(err, ErrUnclaimed):
		h.fail(w, r, http.StatusUnauthorized, err)
		return
	case errors.Is(err, ErrNameTaken):
		h.fail(w, r, http.StatusForbidden, nameTaken(req.Node))
		return
	case err != nil:
		h.fail(w, r, http.StatusServiceUnavailable, fmt.Errorf("check the node's name: %w", err))
		return
	}
	answer := Certificates{ServerCA: string(h.ServerCA.Bundle), ClientCA: string(h.ClientCA.Bundle), Issued: map[Identity]string{}}
	for identity, i := range issue {
		chain, err := i.ca.Sign(i.request, i.public)
		if err != nil {
			h.fail(w, r, http.StatusInternalServerError, err)
			return
		}
		answer.Issued[identity] = string(chain)
	}
	h.Log.Info("issued a node's certificates", "component", "join", "node", req.Node, "from", r.RemoteAddr)
	h.answer(w, answer)
}

func nameTaken(node string) error {
	return fmt.Errorf("node name %q belongs to another machine, or to this one before it was wiped: on a server run \"kedge kubectl delete node %s\" if the old one is gone, or join with another --node-name or with --with-node-id", node, node)
}

// issue is one certificate to sign.
type issue struct {
	ca      *pki.CA
	request pki.Request
	public  any
}

// requests checks what a node asks for and says what it gets.
func (h *Handler) requests(req certificatesRequest) (map[Identity]issue, error) {
	issues := map[Identity]issue{}
	for identity, text := range req.Requests {
		csr, err := parseRequest(text)
		if err != nil {
			return nil, fmt.Errorf("certificate request %q: %w", identity, err)
		}
		i := issue{ca: h.ClientCA, public: csr.PublicKey}
		switch identity {
		case Kubelet:
			i.request = pki.Request{CommonName: nodeUserPrefix + req.Node, Organization: []string{nodeGroup}}
		case KubeProxy:
			i.request = pki.Request{CommonName: "system:kube-proxy"}
		case Agent:
			i.request = pki.Request{CommonName: AgentUser(req.Node), Organization: []string{AgentGroup}}
		case Serving:
			i.ca = h.ServerCA
			i.request = pki.Request{CommonName: nodeUserPrefix + req.Node, DNSNames: csr.DNSNames, IPs: csr.IPAddresses}
			if err := h.checkNames(req.Node, csr); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("there is no identity %q", identity)
		}
		issues[identity] = i
	}
	return issues, nil
}

func parseRequest(text string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return csr, csr.CheckSignature()
}

// checkNames keeps a node from getting a serving certificate with which it could
// pass for the apiserver, whose CA is the same. The node's own name is no exception:
// the node chooses it.
func (h *Handler) checkNames(node string, csr *x509.CertificateRequest) error {
	if len(csr.DNSNames) == 0 && len(csr.IPAddresses) == 0 {
		return errors.New("the serving certificate has no names")
	}
	names := slices.Clone(csr.DNSNames)
	for _, name := range names {
		if !validNode(strings.ToLower(name)) {
			return fmt.Errorf("node %s may not have the name %q: it is no host name", node, name)
		}
	}
	for _, ip := range csr.IPAddresses {
		if !ip.IsGlobalUnicast() {
			return fmt.Errorf("node %s may not have the address %s", node, ip)
		}
		names = append(names, ip.String())
	}
	servers := h.Cluster().Servers
	for _, name := range names {
		known := slices.ContainsFunc(servers, func(server string) bool {
			host, _, err := net.SplitHostPort(server)
			return err == nil && strings.EqualFold(host, name)
		})
		switch taken := known || h.Apiserver.VerifyHostname(name) == nil; {
		case taken && name == node:
			return fmt.Errorf("node name %q is a server's: join with another --node-name", node)
		case taken:
			return fmt.Errorf("node %s may not have the name or address %s: it is a server's", node, name)
		}
	}
	return nil
}

func (h *Handler) answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

// fail answers with an error, and logs it: an administrator finds out why a node
// does not join on either machine.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, code int, err error) {
	h.Log.Warn("refused a node", "component", "join", "from", r.RemoteAddr, "agent", r.Header.Get(versionHeader), "err", err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(failure{Message: err.Error()})
}

// validNode says whether a name can be a node's: a DNS subdomain of RFC 1123 that
// is no IP address.
func validNode(name string) bool {
	if name == "" || len(name) > 253 || net.ParseIP(name) != nil {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		inner := strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-")
		if label == "" || len(label) > 63 || inner != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}
