package mirror

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	// askLimit is how long peers have to say what they have: nodes are near each
	// other, and the registry is waiting.
	askLimit = time.Second
	// askMost is how many peers are asked.
	askMost = 64
	// silence is how long a peer is left alone that can't be reached.
	silence = time.Minute
	// stallLimit is how long a peer may send nothing.
	stallLimit = 10 * time.Second
)

var errNobody = errors.New("no node of the cluster has it")

// Peers are the other nodes that serve. It is the store of a reflector.
type Peers struct {
	log *slog.Logger

	mu     sync.Mutex
	self   string
	client *http.Client // nil before connect
	nodes  map[string]netip.AddrPort
	silent map[netip.AddrPort]time.Time // until when they aren't asked
}

var _ cache.ReflectorStore = (*Peers)(nil)

// NewPeers knows nobody; a Mirror tells it.
func NewPeers(log *slog.Logger) *Peers {
	return &Peers{
		log:    log.With("component", "embedded-registry"),
		nodes:  map[string]netip.AddrPort{},
		silent: map[netip.AddrPort]time.Time{},
	}
}

// connect makes the peers known as nodes come to be asked.
func (p *Peers) connect(self string, config *tls.Config) {
	dialer := net.Dialer{Timeout: askLimit}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.self = self
	p.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: config,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return stallConn{conn}, nil
		},
		DisableCompression:    true,
		ResponseHeaderTimeout: stallLimit,
		IdleConnTimeout:       stallLimit,
	}}
}

// stallConn fails when nothing comes for too long.
type stallConn struct{ net.Conn }

func (c stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Resolve finds what a tag or digest of a repository stands for.
func (p *Peers) Resolve(ctx context.Context, registry, repository, object string) (ocispec.Descriptor, error) {
	_, found, err := p.ask(ctx, location(registry, repository, "manifests", object))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := found.Digest.Validate(); err != nil {
		return ocispec.Descriptor{}, err
	}
	if wanted := digest.Digest(object); wanted.Validate() == nil && wanted != found.Digest {
		return ocispec.Descriptor{}, fmt.Errorf("asked for %s and told of %s", wanted, found.Digest)
	}
	return found, nil
}

// Open returns content that a node has.
func (p *Peers) Open(ctx context.Context, registry, repository string, content ocispec.Descriptor) (io.ReadCloser, error) {
	path := location(registry, repository, "blobs", content.Digest.String())
	peer, _, err := p.ask(ctx, path)
	if err != nil {
		return nil, err
	}
	response, err := p.request(ctx, http.MethodGet, peer, path)
	if err != nil {
		return nil, err
	}
	p.log.Debug("taking content from a node", "node", peer, "repository", registry+"/"+repository, "digest", content.Digest)
	return response.Body, nil
}

func location(registry, repository, kind, object string) string {
	return "/v2/" + repository + "/" + kind + "/" + object + "?" + url.Values{"ns": {registry}}.Encode()
}

// ask asks all peers at once, and returns the first that has it.
func (p *Peers) ask(ctx context.Context, path string) (peer netip.AddrPort, found ocispec.Descriptor, err error) {
	peers := p.askable()
	if len(peers) == 0 {
		return netip.AddrPort{}, found, errNobody
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	type answer struct {
		peer  netip.AddrPort
		found ocispec.Descriptor
		err   error
	}
	answers := make(chan answer, len(peers))
	for _, peer := range peers {
		go func() {
			found, err := p.head(ctx, peer, path)
			if err != nil && (unreachable(err) || errors.Is(ctx.Err(), context.DeadlineExceeded)) {
				p.silence(peer, err)
			}
			answers <- answer{peer, found, err}
		}()
	}
	for range peers {
		if a := <-answers; a.err == nil {
			return a.peer, a.found, nil
		}
	}
	return netip.AddrPort{}, ocispec.Descriptor{}, errNobody
}

// head asks a peer what it has at a path.
func (p *Peers) head(ctx context.Context, peer netip.AddrPort, path string) (ocispec.Descriptor, error) {
	response, err := p.request(ctx, http.MethodHead, peer, path)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	_ = response.Body.Close()
	return ocispec.Descriptor{
		MediaType: response.Header.Get("Content-Type"),
		Digest:    digest.Digest(response.Header.Get("Docker-Content-Digest")),
		Size:      response.ContentLength,
	}, nil
}

func unreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !errors.Is(err, context.Canceled)
}

// request asks a peer. The body of an answer other than 200 is closed.
func (p *Peers) request(ctx context.Context, method string, peer netip.AddrPort, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "https://"+peer.String()+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := p.httpClient().Do(request) //nolint:bodyclose // the caller's, or closed here
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("%s answers %s", peer, response.Status)
	}
	return response, nil
}

func (p *Peers) httpClient() *http.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.client
}

// askable are some of the peers, in any order.
func (p *Peers) askable() []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	var peers []netip.AddrPort
	for _, peer := range p.nodes {
		if until, silent := p.silent[peer]; silent {
			if time.Now().Before(until) {
				continue
			}
			delete(p.silent, peer)
		}
		peers = append(peers, peer)
	}
	//nolint:gosec // no secret: the load is spread
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	return peers[:min(len(peers), askMost)]
}

func (p *Peers) silence(peer netip.AddrPort, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent[peer] = time.Now().Add(silence)
	p.log.Debug("a node can't be asked for images for a while", "node", peer, "for", silence, "err", why)
}

func (p *Peers) Add(obj any) error { return p.Update(obj) }

func (p *Peers) Update(obj any) error {
	node, ok := obj.(*v1.Node)
	if !ok {
		return fmt.Errorf("%T is not a Node", obj)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(node)
	return nil
}

func (p *Peers) Delete(obj any) error {
	node, ok := obj.(*v1.Node)
	if !ok {
		return fmt.Errorf("%T is not a Node", obj)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.nodes, node.Name)
	return nil
}

func (p *Peers) Replace(objects []any, _ string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.nodes)
	for _, obj := range objects {
		node, ok := obj.(*v1.Node)
		if !ok {
			return fmt.Errorf("%T is not a Node", obj)
		}
		p.set(node)
	}
	return nil
}

func (*Peers) Resync() error { return nil }

// set takes note of a node, if it serves. The lock is held.
func (p *Peers) set(node *v1.Node) {
	address, ok := addressOf(node)
	if !ok || node.Name == p.self {
		delete(p.nodes, node.Name)
		return
	}
	if p.nodes[node.Name] != address {
		delete(p.silent, address)
		p.nodes[node.Name] = address
	}
}

func addressOf(node *v1.Node) (netip.AddrPort, bool) {
	port, err := strconv.ParseUint(node.Annotations[Annotation], 10, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for _, address := range node.Status.Addresses {
		if address.Type != v1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(address.Address); err == nil {
			return netip.AddrPortFrom(ip, uint16(port)), true
		}
	}
	return netip.AddrPort{}, false
}
