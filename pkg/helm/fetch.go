package helm

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"helm.sh/helm/v4/pkg/registry"
	"helm.sh/helm/v4/pkg/repo/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Limits of what is fetched from others.
const (
	fetchLimit = 2 * time.Minute
	dialLimit  = 10 * time.Second
	replyLimit = 30 * time.Second

	maxChart    = 50 << 20
	maxIndex    = 64 << 20
	maxManifest = 4 << 20
)

func (s source) client() (*http.Client, error) {
	trust := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.skipVerify} //nolint:gosec // on request
	if len(s.authorities) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(s.authorities) {
			return nil, errors.New("spec.repoCA and spec.repoCAConfigMap hold no certificate")
		}
		trust.RootCAs = pool
	}
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialLimit}).DialContext,
		TLSHandshakeTimeout:   dialLimit,
		ResponseHeaderTimeout: replyLimit,
		TLSClientConfig:       trust,
		DisableCompression:    true, // an archive is compressed
	}}, nil
}

// get gets a file of up to limit bytes.
func (s source) get(ctx context.Context, url string, as credentials, limit int64) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "Helm/4")
	if as.user != "" {
		request.SetBasicAuth(as.user, as.password)
	}
	response, err := s.http.Do(request)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s%s", url, response.Status, adviceFor(response.StatusCode))
	}
	data, err := readAll(response.Body, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", url, explain(err))
	}
	return data, nil
}

func adviceFor(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "; user and password are taken from spec.authSecret or spec.dockerRegistrySecret"
	}
	return ""
}

// explain adds to an error what can be done about it.
func explain(err error) error {
	var unknown x509.UnknownAuthorityError
	var header tls.RecordHeaderError
	var reply *errcode.ErrorResponse
	switch {
	case err == nil:
		return nil
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; its authority's certificate can be given in spec.repoCA", err)
	case errors.As(err, &header), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w; spec.plainHTTP is for registries without TLS", err)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("%w%s", err, adviceFor(http.StatusUnauthorized))
	case errors.As(err, &reply):
		return fmt.Errorf("%w%s", err, adviceFor(reply.StatusCode))
	}
	return err
}

func (s source) fetchFromRepository(ctx context.Context) ([]byte, error) {
	index, err := s.index(ctx)
	if err != nil {
		return nil, err
	}
	found, err := index.Get(s.chart, s.version)
	if err != nil {
		wanted := s.chart
		if s.version != "" {
			wanted += " " + s.version
		}
		return nil, fmt.Errorf("%s is not in the repository: %w", wanted, err)
	}
	if len(found.URLs) == 0 {
		return nil, errors.New("the repository does not say where its archive is")
	}
	url, err := repo.ResolveReferenceURL(s.repo, found.URLs[0])
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(url, "oci://") {
		return s.fetchOCI(ctx, url, found.Version)
	}
	archive, err := s.get(ctx, url, s.credentialsFor(url), maxChart)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(archive)
	if want := strings.TrimPrefix(found.Digest, "sha256:"); want != "" && want != hex.EncodeToString(digest[:]) {
		return nil, fmt.Errorf("%s is not what the repository's index says it is: the digests differ", url)
	}
	return archive, nil
}

func (s source) index(ctx context.Context) (*repo.IndexFile, error) {
	url, err := repo.ResolveReferenceURL(s.repo, "index.yaml")
	if err != nil {
		return nil, fmt.Errorf("spec.repo: %w", err)
	}
	data, err := s.get(ctx, url, s.credentials, maxIndex)
	if err != nil {
		return nil, err
	}
	// Helm reads an index from a file only.
	file, err := os.CreateTemp("", "helm-index-*.yaml")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(data)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	index, err := repo.LoadIndexFile(file.Name())
	if err != nil {
		return nil, fmt.Errorf("%s is no index of a chart repository: %w", url, errors.Unwrap(err))
	}
	return index, nil
}

// fetchOCI gets the chart of an oci:// reference. A tag or digest in the
// reference wins over the version.
func (s source) fetchOCI(ctx context.Context, reference, version string) ([]byte, error) {
	repository, err := remote.NewRepository(strings.TrimPrefix(reference, "oci://"))
	if err != nil {
		return nil, err
	}
	repository.PlainHTTP = s.plainHTTP
	repository.Client = &auth.Client{Client: s.http, Cache: auth.NewCache(), Credential: s.registryCredential}
	tag := repository.Reference.Reference
	if tag == "" {
		if tag, err = tagOf(ctx, repository, version); err != nil {
			return nil, explain(err)
		}
	}
	described, reader, err := repository.Manifests().FetchReference(ctx, tag)
	if err != nil {
		return nil, explain(err)
	}
	defer func() { _ = reader.Close() }()
	if described.Size > maxManifest {
		return nil, errors.New("its manifest is too long")
	}
	raw, err := content.ReadAll(reader, described)
	if err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return nil, fmt.Errorf("its manifest: %w", err)
	}
	i := slices.IndexFunc(manifest.Layers, func(l ocispec.Descriptor) bool {
		return l.MediaType == registry.ChartLayerMediaType || l.MediaType == registry.LegacyChartLayerMediaType
	})
	if i < 0 {
		return nil, fmt.Errorf("what has the tag %s is no chart", tag)
	}
	if manifest.Layers[i].Size > maxChart {
		return nil, fmt.Errorf("longer than %d MiB", maxChart>>20)
	}
	blob, err := repository.Blobs().Fetch(ctx, manifest.Layers[i])
	if err != nil {
		return nil, explain(err)
	}
	defer func() { _ = blob.Close() }()
	return content.ReadAll(blob, manifest.Layers[i])
}

// tagOf returns the tag of the newest version in the range.
func tagOf(ctx context.Context, repository *remote.Repository, version string) (string, error) {
	// A tag has no plus sign: Helm writes an underscore.
	if _, err := semver.StrictNewVersion(version); err == nil {
		return strings.ReplaceAll(version, "+", "_"), nil
	}
	var versions []*semver.Version
	err := repository.Tags(ctx, "", func(tags []string) error {
		for _, tag := range tags {
			if v, err := semver.StrictNewVersion(strings.ReplaceAll(tag, "_", "+")); err == nil {
				versions = append(versions, v)
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	slices.SortFunc(versions, func(a, b *semver.Version) int { return b.Compare(a) })
	tags := make([]string, len(versions))
	for i, v := range versions {
		tags[i] = v.String()
	}
	found, err := registry.GetTagMatchingVersionOrConstraint(tags, version)
	return strings.ReplaceAll(found, "+", "_"), err
}

func (s source) registryCredential(_ context.Context, host string) (auth.Credential, error) {
	c := s.credentials
	if found, ok := s.docker.find(host); ok {
		c = found
	}
	if c.user == "" {
		return auth.EmptyCredential, nil
	}
	return auth.Credential{Username: c.user, Password: c.password}, nil
}

// dockerConfig is the content of a Secret of type kubernetes.io/dockerconfigjson.
type dockerConfig struct {
	Auths map[string]struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"` // user:password in base64
	} `json:"auths"`
}

func (d dockerConfig) find(host string) (credentials, bool) {
	for name, entry := range d.Auths {
		name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
		if at, _, _ := strings.Cut(name, "/"); at != host {
			continue
		}
		if entry.Username != "" {
			return credentials{entry.Username, entry.Password}, true
		}
		if raw, err := base64.StdEncoding.DecodeString(entry.Auth); err == nil {
			user, password, ok := strings.Cut(string(raw), ":")
			return credentials{user, password}, ok
		}
	}
	return credentials{}, false
}
