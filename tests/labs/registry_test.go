//go:build labs

package labs

import (
	"archive/tar"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kedge-k8s/kedge/tests/images"
	"github.com/kedge-k8s/kedge/tests/images/debian"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

// store holds the images of all labs: a layout of Debian's, and archives.
type store struct {
	layout debian.Layout
	images map[string]v1.Descriptor            // by repository:tag
	blobs  map[digest.Digest]*io.SectionReader // of the archives
}

// newStore makes the images that aren't there yet.
func newStore(t *testing.T) *store {
	t.Helper()
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	set, err := images.Build(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	s := &store{blobs: map[digest.Digest]*io.SectionReader{}}
	if s.layout, err = debian.Build(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if s.images, err = s.layout.Images(); err != nil {
		t.Fatal(err)
	}
	s.add(t, set.Busybox.Archive, "library/busybox")
	s.add(t, set.Agnhost.Archive, "e2e-test-images/agnhost")
	return s
}

// add adds the image of an archive under a repository's tag latest and its own.
func (s *store) add(t *testing.T, archive, repository string) {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	for in := tar.NewReader(file); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Name == v1.ImageIndexFile {
			var index v1.Index
			if err := json.NewDecoder(in).Decode(&index); err != nil || len(index.Manifests) == 0 {
				t.Fatalf("%s of %s: %v", header.Name, archive, err)
			}
			for _, m := range index.Manifests {
				s.images[repository+":latest"] = m
				s.images[repository+":"+m.Annotations[v1.AnnotationRefName]] = m
			}
			continue
		}
		begin, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			t.Fatal(err)
		}
		s.blobs[digest.NewDigestFromEncoded(digest.SHA256, path.Base(header.Name))] = io.NewSectionReader(file, begin, header.Size)
	}
}

// registry serves the images of a store whose names begin with one of the prefixes.
type registry struct {
	*store
	prefixes       []string
	user, password string // who may pull; empty: everybody
}

func (r registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	user, password, _ := request.BasicAuth()
	if r.user != "" && (user != r.user || password != r.password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	// /v2/NAME/manifests/REFERENCE or /v2/NAME/blobs/DIGEST
	rest, ok := strings.CutPrefix(request.URL.Path, "/v2/")
	if rest == "" && ok {
		return
	}
	name, kind, reference := path.Dir(path.Dir(rest)), path.Base(path.Dir(rest)), path.Base(rest)
	served := false
	for _, prefix := range r.prefixes {
		served = served || strings.HasPrefix(name, prefix)
	}
	if !ok || !served {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	found, contentType := digest.Digest(reference), "application/octet-stream"
	if kind == "manifests" {
		contentType = v1.MediaTypeImageManifest
		if found.Validate() != nil {
			found = r.images[name+":"+reference].Digest
		}
	}
	var content io.ReadSeeker
	if section, ok := r.blobs[found]; ok {
		// Each request has a position of its own.
		content = io.NewSectionReader(section, 0, section.Size())
	} else {
		file, err := r.layout.Open(found)
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		defer func() { _ = file.Close() }()
		content = file
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Docker-Content-Digest", found.String())
	http.ServeContent(w, request, "", time.Time{}, content)
}

// serve serves on a port of a host until the test ends.
func (r registry) serve(t *testing.T, host *testbed.Host, port string, certificate tls.Certificate) {
	t.Helper()
	listener, err := host.Listen("tcp4", net.JoinHostPort(host.Address.String(), port))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: r}
	go func() {
		_ = server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}}))
	}()
	t.Cleanup(func() { _ = server.Close() })
}

// newAuthority makes a certificate for names that signs itself.
func newAuthority(t *testing.T, names ...string) (certificate tls.Certificate, encoded []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              names,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
