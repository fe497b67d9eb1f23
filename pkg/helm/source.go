package helm

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
)

// source says where a chart is, and how to get it.
type source struct {
	chart     string
	content   string // the archive in base64
	version   string
	repo      string
	staticDir string // what the URL of this server's static files stands for

	authorities []byte // PEM
	credentials credentials
	everywhere  bool // the credentials are for other hosts than the repository's too
	docker      dockerConfig
	skipVerify  bool // of certificates
	plainHTTP   bool
	http        *http.Client
}

// credentials are a user's. Empty: nobody in particular.
type credentials struct{ user, password string }

// k3s's name for the address of the API in the URL of a chart.
const (
	apiAddress = "%{KUBERNETES_API}%"
	staticURL  = "https://" + apiAddress + "/static/"
)

// local returns the path of a chart on this machine; empty: it is elsewhere.
func (s source) local() (string, error) {
	if path, ok := strings.CutPrefix(s.chart, staticURL); ok {
		if !filepath.IsLocal(path) {
			return "", fmt.Errorf("chart %s leads out of the directory of static files", s.chart)
		}
		return filepath.Join(s.staticDir, path), nil
	}
	if path, ok := strings.CutPrefix(s.chart, "file://"); ok {
		return path, nil
	}
	if filepath.IsAbs(s.chart) {
		return s.chart, nil
	}
	return "", nil
}

// load gets the chart.
func (s source) load(ctx context.Context) (*chart.Chart, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	if s.content != "" {
		return s.loadContent()
	}
	path, err := s.local()
	switch {
	case err != nil:
		return nil, err
	case path != "":
		return loadPath(path)
	}
	archive, from, err := s.fetch(ctx)
	if err != nil {
		return nil, fmt.Errorf("get chart %s: %w", from, err)
	}
	c, err := loader.LoadArchive(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", from, err)
	}
	return c, nil
}

func (s source) loadContent() (*chart.Chart, error) {
	archive, err := base64.StdEncoding.DecodeString(s.content)
	if err != nil {
		return nil, fmt.Errorf("spec.chartContent: %w", err)
	}
	c, err := loader.LoadArchive(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("spec.chartContent: %w", err)
	}
	return c, nil
}

func loadPath(path string) (*chart.Chart, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("chart %s is not on this server: %w", path, err)
	}
	c, err := loader.Load(path)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", path, err)
	}
	return c, nil
}

// fetch gets the archive from where the chart is said to be, and returns where
// that was.
func (s source) fetch(ctx context.Context) (archive []byte, from string, err error) {
	client, err := s.client()
	if err != nil {
		return nil, s.chart, err
	}
	defer client.CloseIdleConnections()
	s.http = client
	switch scheme, _, _ := strings.Cut(s.chart, "://"); {
	case scheme == "oci":
		archive, err = s.fetchOCI(ctx, s.chart, s.version)
		return archive, s.chart, err
	case scheme == "http" || scheme == "https":
		if strings.Contains(s.chart, apiAddress) {
			return nil, s.chart, errors.New("of this server, only what is below /static/ can be a chart")
		}
		archive, err = s.get(ctx, s.chart, s.credentials, maxChart)
		return archive, s.chart, err
	case s.repo == "":
		return nil, s.chart, errors.New("spec.chart is no URL and no path: say in spec.repo where it is")
	case strings.HasPrefix(s.repo, "oci://"):
		from = strings.TrimSuffix(s.repo, "/") + "/" + s.chart
		archive, err = s.fetchOCI(ctx, from, s.version)
		return archive, from, err
	default:
		archive, err = s.fetchFromRepository(ctx)
		return archive, s.chart + " from " + s.repo, err
	}
}

// credentialsFor are those to send to a URL that the repository names.
func (s source) credentialsFor(target string) credentials {
	repo, err := url.Parse(s.repo)
	if err != nil {
		return credentials{}
	}
	to, err := url.Parse(target)
	if err != nil || !s.everywhere && (repo.Scheme != to.Scheme || repo.Host != to.Host) {
		return credentials{}
	}
	return s.credentials
}

// readAll reads up to max bytes, and refuses what is longer.
func readAll(from io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("longer than %d MiB", limit>>20)
	}
	return data, err
}
