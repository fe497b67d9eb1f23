package registries

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// endpoint is where a registry's images are asked for.
type endpoint struct {
	url     string
	host    string // the URL's, with its port
	ownPath bool   // the URL has the path of the API, which is /v2 otherwise
}

func parseEndpoint(text string) (endpoint, error) {
	if !strings.Contains(text, "://") {
		text = defaultScheme(text) + "://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return endpoint{}, errors.New("is not a URL") // the URL may hold a password
	case u.User != nil:
		return endpoint{}, errors.New("has credentials in it; they belong in configs")
	case u.Scheme != "http" && u.Scheme != "https":
		return endpoint{}, fmt.Errorf("%s: want a URL with http or https", text)
	case !registryName.MatchString(u.Host):
		return endpoint{}, fmt.Errorf("%s: has no host", text)
	case u.RawQuery != "" || u.Fragment != "":
		return endpoint{}, fmt.Errorf("%s: want a URL without ? and #", text)
	}
	e := endpoint{url: u.Scheme + "://" + u.Host, host: u.Host}
	if path := strings.TrimRight(u.EscapedPath(), "/"); path != "" && path != "/v2" {
		e.url += path
		e.ownPath = true
	}
	return e, nil
}

// defaultScheme is containerd's: a registry on the machine itself with an
// unusual port is one for development, without TLS.
func defaultScheme(address string) string {
	host, _, _ := strings.Cut(address, "/")
	u := url.URL{Host: host}
	ip, err := netip.ParseAddr(u.Hostname())
	local := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	if local && u.Port() != "" && u.Port() != "443" {
		return "http"
	}
	return "https"
}

// isBasicAuth says whether a value is as containerd takes it: NAME:PASSWORD in
// base64, or nothing.
func isBasicAuth(value string) bool {
	decoded, err := base64.StdEncoding.DecodeString(value)
	return value == "" || err == nil && strings.Contains(string(decoded), ":")
}

// tlsFiles are how a registry is told from others, and shown who asks.
type tlsFiles struct {
	ca         string
	cert, key  string
	skipVerify bool
}

func (f tlsFiles) checkCA() error {
	if f.ca == "" {
		return nil
	}
	if err := checkAbsolute(f.ca); err != nil {
		return err
	}
	content, err := os.ReadFile(f.ca)
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(content) {
		return fmt.Errorf("%s holds no certificate in PEM form", f.ca)
	}
	return nil
}

func (f tlsFiles) checkPair() error {
	if (f.cert == "") != (f.key == "") {
		return errors.New("cert_file and key_file belong together; give both or neither")
	}
	if f.cert == "" {
		return nil
	}
	if err := errors.Join(checkAbsolute(f.cert), checkAbsolute(f.key)); err != nil {
		return err
	}
	if _, err := tls.LoadX509KeyPair(f.cert, f.key); err != nil {
		return fmt.Errorf("cert_file %s with key_file %s: %w", f.cert, f.key, err)
	}
	return nil
}

func checkAbsolute(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s: want a path that begins with /", path)
	}
	return nil
}
