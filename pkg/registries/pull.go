package registries

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	hosts "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/http/httpproxy"
)

// Peers are the cluster's other nodes as a registry.
type Peers interface {
	// Resolve finds what a tag or digest of a repository stands for.
	Resolve(ctx context.Context, registry, repository, object string) (ocispec.Descriptor, error)
	// Open returns content that a node has.
	Open(ctx context.Context, registry, repository string, content ocispec.Descriptor) (io.ReadCloser, error)
}

// puller pulls images as the file says at the time: containerd itself reads
// logins once, and knows nothing of rewrites and peers.
type puller struct {
	transfer.Transferrer
	live  *Live
	peers Peers // nil: none
}

// Pulls has images that are pulled come from where the file says, and their content
// from peers first if it names their registry.
func Pulls(inner transfer.Transferrer, live *Live, peers Peers) transfer.Transferrer {
	return puller{inner, live, peers}
}

func (p puller) Transfer(ctx context.Context, from, to any, opts ...transfer.Opt) error {
	origin, fromRegistry := from.(*registry.OCIRegistry)
	if _, pull := to.(transfer.ImageStorer); !fromRegistry || !pull {
		return p.Transferrer.Transfer(ctx, from, to, opts...)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source, err := p.source(ctx, origin)
	if err != nil {
		return err
	}
	return p.Transferrer.Transfer(ctx, source, to, opts...)
}

// source makes where an image comes from. It works until ctx ends.
func (p puller) source(ctx context.Context, origin *registry.OCIRegistry) (*source, error) {
	login := newLogin(ctx)
	encoded, err := origin.MarshalAny(ctx, login)
	if err != nil {
		return nil, err
	}
	var settings transfertypes.OCIRegistry
	if err := typeurl.UnmarshalTo(encoded, &settings); err != nil {
		return nil, err
	}
	image, err := reference.Parse(settings.Reference)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", settings.Reference, err)
	}
	login.image = settings.Reference
	config := p.live.Config()
	s := &source{name: settings.Reference, image: image, repository: strings.TrimPrefix(image.Locator, image.Hostname()+"/")}
	if p.peers != nil && config.shares(image.Hostname()) {
		s.peers = p.peers
	}
	resolver, proxy := settings.Resolver, pullProxy()
	options := hosts.HostOptions{
		HostDir:       hosts.HostDirFromRoot(p.live.dir),
		DefaultScheme: resolver.GetDefaultScheme(),
		Credentials: func(host string) (user, secret string, err error) {
			if user, secret, err = login.ask(host); err != nil || user != "" || secret != "" {
				return user, secret, err
			}
			return config.login(host)
		},
		UpdateClient: func(client *http.Client) error {
			if t, ok := client.Transport.(*http.Transport); ok && proxy != nil {
				t.Proxy = proxy
			}
			client.Transport = config.rewriting(image.Hostname(), s.repository, client.Transport)
			return nil
		},
	}
	if dir := resolver.GetHostDir(); dir != "" {
		options.HostDir = hosts.HostDirFromRoot(dir)
	}
	header := http.Header{}
	for key, value := range resolver.GetHeaders() {
		header.Set(key, value)
	}
	registryHosts := hosts.ConfigureHosts(ctx, options)
	if p.live.MirrorsOnly && !config.asksItself(image.Hostname()) {
		registryHosts = withoutLast(registryHosts)
	}
	s.registry = docker.NewResolver(docker.ResolverOptions{Hosts: registryHosts, Headers: header})
	return s, nil
}

// pullProxy chooses among proxies that the environment has for images alone; nil: it
// has none.
func pullProxy() func(*http.Request) (*url.URL, error) {
	c := httpproxy.FromEnvironment()
	plain, secure := os.Getenv("CONTAINERD_HTTP_PROXY"), os.Getenv("CONTAINERD_HTTPS_PROXY")
	without := os.Getenv("CONTAINERD_NO_PROXY")
	if plain+secure+without == "" {
		return nil
	}
	c.HTTPProxy, c.HTTPSProxy = cmp.Or(plain, c.HTTPProxy), cmp.Or(secure, c.HTTPSProxy)
	c.NoProxy = without + "," + c.NoProxy // which has the cluster's own
	choose := c.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}

// withoutLast leaves out the host that containerd adds to those of the file: the
// registry itself.
func withoutLast(inner docker.RegistryHosts) docker.RegistryHosts {
	return func(registry string) ([]docker.RegistryHost, error) {
		found, err := inner(registry)
		if err != nil || len(found) > 1 {
			return found[:max(len(found)-1, 0)], err
		}
		return nil, fmt.Errorf("registry %s: it has no endpoint in the file of registries, and is not asked itself (disable-default-registry-endpoint)", registry)
	}
}

// source is where one image comes from.
type source struct {
	name       string
	image      reference.Spec
	repository string
	registry   remotes.Resolver
	peers      Peers // nil: not asked
}

var (
	_ transfer.ImageFetcher              = (*source)(nil)
	_ transfer.ImageResolverOptionSetter = (*source)(nil)
)

func (s *source) String() string { return "registry of " + s.name }

func (s *source) SetResolverOptions(options ...transfer.ImageResolverOption) {
	if r, ok := s.registry.(remotes.ResolverWithOptions); ok {
		r.SetOptions(options...)
	}
}

// registryLimit is how long the registry is waited for before peers are asked what a
// tag stands for: without a network it may be silent for minutes.
const registryLimit = 10 * time.Second

// Resolve finds what the image's name stands for. For a digest peers come first. What
// a tag stands for is the registry's to say: no node is to decide it for the others
// unless the registry does not tell.
func (s *source) Resolve(ctx context.Context) (string, ocispec.Descriptor, error) {
	if s.peers == nil {
		return s.fromRegistry(ctx)
	}
	fromPeers := func(object string) (string, ocispec.Descriptor, error) {
		found, err := s.peers.Resolve(ctx, s.image.Hostname(), s.repository, object)
		return s.name, found, err
	}
	if digest := s.image.Digest(); digest != "" {
		if name, found, err := fromPeers(digest.String()); err == nil {
			return name, found, nil
		}
		return s.fromRegistry(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, registryLimit)
	defer cancel()
	name, found, err := s.fromRegistry(limited)
	if err == nil {
		return name, found, nil
	}
	if name, found, peerErr := fromPeers(s.image.Object); peerErr == nil {
		return name, found, nil
	}
	if limited.Err() != nil {
		return s.fromRegistry(ctx) // it may be slow, and nobody else knows
	}
	return name, found, err // of the two, what the user can do something about
}

// fromRegistry refuses what is told by a web page in the registry's place, such as
// that of a login or a proxy.
func (s *source) fromRegistry(ctx context.Context) (string, ocispec.Descriptor, error) {
	name, found, err := s.registry.Resolve(ctx, s.name)
	if err == nil && strings.HasPrefix(found.MediaType, "text/") {
		err = fmt.Errorf("%s: the registry, or what answers for it, sends %s instead of a manifest", s.name, found.MediaType)
	}
	return name, found, err
}

func (s *source) Fetcher(ctx context.Context, name string) (transfer.Fetcher, error) {
	fromRegistry, err := s.registry.Fetcher(ctx, name)
	if err != nil || s.peers == nil {
		return fromRegistry, err
	}
	return fetcher{s, fromRegistry}, nil
}

// fetcher fetches an image's content from peers, and what they don't have from
// the registry.
type fetcher struct {
	*source
	registry transfer.Fetcher
}

func (f fetcher) Fetch(ctx context.Context, content ocispec.Descriptor) (io.ReadCloser, error) {
	fromPeer, err := f.peers.Open(ctx, f.image.Hostname(), f.repository, content)
	if err != nil {
		return f.registry.Fetch(ctx, content)
	}
	return &failover{
		ReadCloser: fromPeer,
		left:       content.Size,
		other:      func() (io.ReadCloser, error) { return f.registry.Fetch(ctx, content) },
	}, nil
}

// failover goes on with another reader of the same content when the first one
// fails or ends too early.
type failover struct {
	io.ReadCloser
	offset, left int64
	other        func() (io.ReadCloser, error) // nil once it is in use
}

func (f *failover) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	f.offset += int64(n)
	f.left -= int64(n)
	if err == nil || f.left <= 0 || f.other == nil {
		return n, err
	}
	other, otherErr := f.other()
	f.other = nil
	if otherErr != nil {
		return n, otherErr
	}
	if seeker, ok := other.(io.Seeker); ok {
		_, otherErr = seeker.Seek(f.offset, io.SeekStart)
	} else {
		_, otherErr = io.CopyN(io.Discard, other, f.offset)
	}
	_ = f.Close()
	f.ReadCloser = other
	return n, otherErr
}
