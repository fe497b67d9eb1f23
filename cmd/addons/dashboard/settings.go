package dashboard

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// settings are a directory with what administrators may set, a file for each: that of
// the Secret kubernetes-dashboard-settings, which need not be there.
type settings string

// get reads one; what is not there is fallback.
func (s settings) get(name, fallback string) (string, error) {
	content, err := os.ReadFile(filepath.Join(string(s), name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fallback, nil
	case err != nil:
		return "", fmt.Errorf("read the setting %s: %w", name, err)
	}
	return strings.TrimSpace(string(content)), nil
}

// provider is the identity provider that logs people in, nil without one. issuer and
// client are those that the API server was told.
func (s settings) provider(issuer, client string) (*provider, error) {
	var err error
	read := func(name, fallback string) string {
		value, fault := s.get(name, fallback)
		err = errors.Join(err, fault)
		return value
	}
	issuer = read("oidc-issuer-url", issuer)
	client = read("oidc-client-id", client)
	secret := read("oidc-client-secret", "")
	scopes := read("oidc-scopes", "openid profile email")
	authority := read("oidc-ca.crt", "")
	if err != nil || issuer == "" || client == "" {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's authorities: %w", err)
	}
	if authority != "" && !roots.AppendCertsFromPEM([]byte(authority)) {
		return nil, errors.New("the setting oidc-ca.crt holds no certificate")
	}
	return newProvider(issuer, client, secret, strings.Fields(scopes), roots), nil
}

// networks are those, besides the public internet, that files may be fetched from.
func (s settings) networks() ([]netip.Prefix, error) {
	text, err := s.get("fetch-networks", "")
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, word := range strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(", \t\n", c) }) {
		prefix, err := netip.ParsePrefix(word)
		if err != nil {
			return nil, fmt.Errorf("the setting fetch-networks: %w: give networks such as 192.168.1.0/24", err)
		}
		all = append(all, prefix.Masked())
	}
	return all, nil
}
