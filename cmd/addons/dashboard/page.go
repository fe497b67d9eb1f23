package dashboard

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

const (
	index  = "index.html"
	hashed = "assets/" // names here change with the content
)

// page is the built page: compressed files by name.
type page struct {
	files map[string]file
}

type file struct {
	compressed []byte
	kind, tag  string
}

// newPage reads the files NAME.gz of a built page.
func newPage(from fs.FS) (*page, error) {
	p := &page{files: map[string]file{}}
	err := fs.WalkDir(from, ".", func(name string, entry fs.DirEntry, err error) error {
		plain, compressed := strings.CutSuffix(name, ".gz")
		if err != nil || entry.IsDir() || !compressed {
			return err
		}
		content, err := fs.ReadFile(from, name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		p.files[plain] = file{
			compressed: content,
			kind:       contentType(plain),
			tag:        `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`,
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the page: %w", err)
	}
	if _, ok := p.files[index]; !ok {
		return nil, errors.New("this program was built without the page: build it with make")
	}
	return p, nil
}

// contentType does not depend on the machine's tables for what the page has.
func contentType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".woff2":
		return "font/woff2"
	default:
		return mime.TypeByExtension(ext)
	}
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	if name == "" {
		name = index
	}
	f, ok := p.files[name]
	if !ok {
		fail(w, http.StatusNotFound, "there is no such page")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		fail(w, http.StatusMethodNotAllowed, "pages are only read")
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Vary", "Accept-Encoding")
	h.Set("ETag", f.tag)
	if strings.HasPrefix(name, hashed) {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	var body io.Reader = bytes.NewReader(f.compressed)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		h.Set("Content-Length", strconv.Itoa(len(f.compressed)))
	} else {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			fail(w, http.StatusInternalServerError, "the page is damaged")
			return
		}
		body = unpacked
	}
	if r.Method == http.MethodGet {
		_, _ = io.Copy(w, body) //nolint:gosec // G110: the files are our own
	}
}
