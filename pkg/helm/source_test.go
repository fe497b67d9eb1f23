package helm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func archive(t *testing.T, name string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	zip := gzip.NewWriter(&buffer)
	out := tar.NewWriter(zip)
	text := fmt.Sprintf("apiVersion: v2\nname: %s\nversion: 1.0.0\n", name)
	if err := out.WriteHeader(&tar.Header{Name: name + "/Chart.yaml", Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func TestLoad(t *testing.T) {
	good := archive(t, "good")
	static := t.TempDir()
	file := filepath.Join(static, "good.tgz")
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	// The repository wants a login, the other host must not hear of it.
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok && r.URL.Path != "/open.tgz" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		_, _ = w.Write(good)
	}))
	defer other.Close()
	repo := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "ann" || password != "pass" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/charts/index.yaml":
			_, _ = fmt.Fprintf(w, `apiVersion: v1
entries:
  good:
  - {apiVersion: v2, name: good, version: 1.0.0, urls: [good.tgz]}
  - {apiVersion: v2, name: good, version: 1.1.0, urls: [missing.tgz]}
  wrong: [{apiVersion: v2, name: wrong, version: 1.0.0, urls: [good.tgz], digest: %q}]
  other: [{apiVersion: v2, name: other, version: 1.0.0, urls: [%q]}]
  open: [{apiVersion: v2, name: open, version: 1.0.0, urls: [%q]}]
`, strings.Repeat("0", 64), other.URL+"/other.tgz", other.URL+"/open.tgz")
		case "/charts/good.tgz", "/good.tgz":
			_, _ = w.Write(good)
		case "/page":
			_, _ = w.Write([]byte("<html>"))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer repo.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: repo.Certificate().Raw})
	ann := credentials{"ann", "pass"}
	url := repo.URL + "/charts"

	for _, test := range []struct {
		name   string
		source source
		want   string // in the error; empty: none
	}{
		{"content", source{content: base64.StdEncoding.EncodeToString(good)}, ""},
		{"no base64", source{content: "%"}, "spec.chartContent: "},
		{"no archive", source{content: "YWJj"}, "spec.chartContent: "},
		{"path", source{chart: file}, ""},
		{"file URL", source{chart: "file://" + file}, ""},
		{"no file", source{chart: file + "x"}, "is not on this server"},
		{"static", source{chart: staticURL + "good.tgz", staticDir: static}, ""},
		{"out of static", source{chart: staticURL + "../good.tgz", staticDir: static}, "leads out of"},
		{"not static", source{chart: "https://" + apiAddress + "/api", staticDir: static}, "/static/"},
		{"name alone", source{chart: "good"}, "spec.repo"},
		{"repository", source{chart: "good", version: "1.0.0", repo: url, authorities: authority, credentials: ann}, ""},
		{"range", source{chart: "good", version: "<1.1", repo: url, skipVerify: true, credentials: ann}, ""},
		{"newest is not there", source{chart: "good", repo: url, authorities: authority, credentials: ann}, "404"},
		{"no such version", source{chart: "good", version: "3.0.0", repo: url, authorities: authority, credentials: ann}, "good 3.0.0 is not in the repository"},
		{"another digest", source{chart: "wrong", repo: url, authorities: authority, credentials: ann}, "digests differ"},
		{"another host", source{chart: "other", repo: url, authorities: authority, credentials: ann}, ""},
		{"another host that is to be told", source{chart: "open", repo: url, authorities: authority, credentials: ann, everywhere: true}, ""},
		{"another host that is told too much", source{chart: "other", repo: url, authorities: authority, credentials: ann, everywhere: true}, "418"},
		{"no login", source{chart: "good", repo: url, authorities: authority}, "401 Unauthorized; user and password are taken from spec.authSecret"},
		{"no trust", source{chart: "good", repo: url, credentials: ann}, "spec.repoCA"},
		{"no certificate", source{chart: "good", repo: url, authorities: []byte("x")}, "hold no certificate"},
		{"URL", source{chart: repo.URL + "/good.tgz", authorities: authority, credentials: ann}, ""},
		{"page", source{chart: repo.URL + "/page", authorities: authority, credentials: ann}, repo.URL + "/page"},
		{"no index", source{chart: "good", repo: repo.URL + "/page", authorities: authority, credentials: ann}, "404"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := test.source.load(t.Context())
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want == "" && c.Name() != "good":
				t.Errorf("got chart %s", c.Name())
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

// TestBoundTransport ends a request that hangs when the operation ends, and
// refuses later ones.
func TestBoundTransport(t *testing.T) {
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		arrived <- struct{}{}
		<-release
	}))
	defer server.Close()
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	client := &http.Client{Transport: &boundTransport{ctx: ctx, next: http.DefaultTransport}}
	response, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	<-arrived
	cancel()
	if _, err := readAll(response.Body, 10); err == nil {
		t.Error("the request outlived the operation")
	}
	if response, err := client.Get(server.URL); err == nil {
		_ = response.Body.Close()
		t.Error("a request was made after the operation")
	}
}

func TestDockerConfig(t *testing.T) {
	var d dockerConfig
	d.Auths = map[string]struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"`
	}{
		"https://a.example.com/v1/": {Auth: base64.StdEncoding.EncodeToString([]byte("ann:p:w"))},
		"b.example.com:5000":        {Username: "bob", Password: "x"},
	}
	for host, want := range map[string]credentials{
		"a.example.com":      {"ann", "p:w"},
		"b.example.com:5000": {"bob", "x"},
		"b.example.com":      {},
	} {
		if got, ok := d.find(host); got != want || ok != (want.user != "") {
			t.Errorf("%s: got %v, %v", host, got, ok)
		}
	}
}
