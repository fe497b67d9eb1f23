package registries

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
)

// write makes a file, in which DIR stands for the directory it is in.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(content, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writePair makes a certificate with its key.
func writePair(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
	write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})))
}

func load(t *testing.T, dir, content string) Config {
	t.Helper()
	c, err := Load(write(t, dir, "registries.yaml", content))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRefused looks at the one line that each mistake gives.
func TestRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writePair(t, dir)
	write(t, dir, "text", "no certificate")
	for _, test := range []struct{ name, content, want string }{
		{"malformed", "mirrors:\n  a.example:\n    endpoint: [\"http://b\n", "3: malformed YAML: "},
		{"star without quotes", "mirrors:\n  *:\n    endpoint: [http://b]\n", `2: malformed YAML: a name or value that begins with * or & needs quotes, such as "*"`},
		{"secret taken for an alias", "configs:\n  a.example:\n    auth: {username: a, password: *secret}\n", `1: malformed YAML: a name or value that begins with * or & needs quotes, such as "*"`},
		{"second document", "mirrors: {}\n---\nmirrors: {}\n", "2: a second document begins; give everything in the first one"},
		{"a list", "- mirrors\n", `1: want entries of the form "key: value"`},
		{"unknown key", "mirror: {}\n", `1: unknown key "mirror"; known are configs, mirrors`},
		{"unknown key of a mirror", "mirrors:\n  a.example:\n    endpoints: []\n", `3: mirrors: a.example: unknown key "endpoints"; known are endpoint, rewrite`},
		{"unknown key of a login", "configs:\n  a.example:\n    auth:\n      user: a\n", `4: configs: a.example: auth: unknown key "user"; known are auth, identity_token, password, username`},
		{"unknown key of certificates", "configs:\n  a.example:\n    tls: {ca: a}\n", `3: configs: a.example: tls: unknown key "ca"; known are ca_file, cert_file, insecure_skip_verify, key_file`},
		{"registry given twice", "mirrors:\n  a.example: {}\n  a.example: {}\n", `3: mirrors: "a.example" is given on line 2 already`},
		{"registry with a scheme", "mirrors:\n  https://a.example: {}\n", `2: mirrors: "https://a.example" is not a registry; write its host, with a port if need be, and neither scheme nor path, or "*" for all`},
		{"registry with a path", "configs:\n  ../a: {}\n", `2: configs: "../a" is not a registry; write its host, with a port if need be, and neither scheme nor path, or "*" for all`},
		{"rewrite that is no pattern", "mirrors:\n  a.example:\n    rewrite:\n      '(': b\n", "4: mirrors: a.example: rewrite: \"(\" is not a regular expression: error parsing regexp: missing closing ): `(`"},
		{"rewrite that is a list", "mirrors:\n  a.example:\n    rewrite: [a]\n", `3: mirrors: a.example: rewrite: want entries of the form "key: value"`},
		{"endpoint that is no list", "mirrors:\n  a.example:\n    endpoint: http://b\n", "3: mirrors: a.example: endpoint: want a list of URLs"},
		{"endpoint that is no URL", "mirrors:\n  a.example:\n    endpoint: ['http://b:x']\n", "3: mirrors: a.example: endpoint: is not a URL"},
		{"endpoint without a host", "mirrors:\n  a.example:\n    endpoint: ['http:///v2']\n", "3: mirrors: a.example: endpoint: http:///v2: has no host"},
		{"endpoint that is empty", "mirrors:\n  a.example:\n    endpoint:\n    -\n", "4: mirrors: a.example: endpoint: https://: has no host"},
		{"endpoint of another kind", "mirrors:\n  a.example:\n    endpoint: [ftp://b]\n", "3: mirrors: a.example: endpoint: ftp://b: want a URL with http or https"},
		{"endpoint with a password", "mirrors:\n  a.example:\n    endpoint: ['http://a:secret@b']\n", "3: mirrors: a.example: endpoint: has credentials in it; they belong in configs"},
		{"endpoint with a query", "mirrors:\n  a.example:\n    endpoint: ['http://b?c']\n", "3: mirrors: a.example: endpoint: http://b?c: want a URL without ? and #"},
		{"endpoint given twice", "mirrors:\n  a.example:\n    endpoint:\n    - b\n    - https://b/v2\n", "5: mirrors: a.example: endpoint: https://b is given twice"},
		{"login for all", "configs:\n  '*':\n    auth: {username: a, password: secret}\n", "3: configs: *: auth: credentials are for one registry; name it instead of *"},
		{"username alone", "configs:\n  a.example:\n    auth: {username: a}\n", "3: configs: a.example: auth: a username and a password belong together; give both or neither"},
		{"password alone", "configs:\n  a.example:\n    auth: {password: secret}\n", "3: configs: a.example: auth: a username and a password belong together; give both or neither"},
		{"auth that is not encoded", "configs:\n  a.example:\n    auth: {auth: 'a:secret'}\n", "3: configs: a.example: auth: auth: want NAME:PASSWORD in base64"},
		{"password of two lines", "configs:\n  a.example:\n    auth:\n      username: a\n      password: |\n        secret\n", "5: configs: a.example: auth: password: has a control character or a line break in it"},
		{"password that is a list", "configs:\n  a.example:\n    auth: {username: a, password: [secret]}\n", "3: configs: a.example: auth: password: want a single value"},
		{"neither true nor false", "configs:\n  a.example:\n    tls: {insecure_skip_verify: perhaps}\n", "3: configs: a.example: tls: insecure_skip_verify: want true or false"},
		{"CA that is not there", "configs:\n  a.example:\n    tls:\n      ca_file: DIR/none\n", "4: configs: a.example: tls: ca_file: open DIR/none: no such file or directory"},
		{"CA that is no certificate", "configs:\n  a.example:\n    tls: {ca_file: DIR/text}\n", "3: configs: a.example: tls: ca_file: DIR/text holds no certificate in PEM form"},
		{"CA beside", "configs:\n  a.example:\n    tls: {ca_file: cert.pem}\n", "3: configs: a.example: tls: ca_file: cert.pem: want a path that begins with /"},
		{"certificate alone", "configs:\n  a.example:\n    tls: {cert_file: DIR/cert.pem}\n", "3: configs: a.example: tls: cert_file and key_file belong together; give both or neither"},
		{"key that is not there", "configs:\n  a.example:\n    tls: {cert_file: DIR/cert.pem, key_file: DIR/none}\n", "3: configs: a.example: tls: cert_file DIR/cert.pem with key_file DIR/none: open DIR/none: no such file or directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, dir, "registries.yaml", test.content)
			_, err := Load(path)
			if err == nil {
				t.Fatal("is accepted")
			}
			if errors.Is(err, fs.ErrNotExist) {
				t.Error("is taken for a file that does not exist")
			}
			want := path + ":" + strings.ReplaceAll(test.want, "DIR", dir)
			if got := err.Error(); got != want && (!strings.HasSuffix(want, ": ") || !strings.HasPrefix(got, want)) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
				t.Errorf("a secret or a second line is in: %s", err)
			}
		})
	}
}

func TestNothing(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "# nothing\n", "mirrors:\nconfigs:\n", "configs:\n  a.example:\n    auth:\n    tls:\n"} {
		dir := t.TempDir()
		c := load(t, dir, content)
		if err := c.Write(filepath.Join(dir, "certs.d")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "certs.d")); !os.IsNotExist(err) {
			t.Errorf("%q gives a directory (%v)", content, err)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there gives %v", err)
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	c := load(t, t.TempDir(), `
configs:
  z.example:5000:
    auth: {username: me, password: 0123}
  a.example:
    auth: {identity_token: '"token"'}
  b.example:
    auth: {auth: bWU6c2VjcmV0}
  c.example:
    tls: {insecure_skip_verify: true}
  docker.io: &hub
    auth: {username: hub, password: secret}
  d.example: *hub
`)
	for host, want := range map[string][2]string{
		"a.example":            {"", `"token"`},
		"b.example":            {"me", "secret"},
		"c.example":            {"", ""},
		"d.example":            {"hub", "secret"},
		"docker.io":            {"hub", "secret"},
		"registry-1.docker.io": {"hub", "secret"}, // containerd asks for this one
		"z.example:5000":       {"me", "0123"},
		"z.example":            {"", ""},
	} {
		user, secret, err := c.login(host)
		if got := [2]string{user, secret}; got != want || err != nil {
			t.Errorf("%s is shown %q, error %v; want %q", host, got, err, want)
		}
	}
}

// TestHosts lets containerd tell where it asks for images.
func TestHosts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writePair(t, dir)
	const mirrors = `
mirrors:
  docker.io:
    endpoint: [b.example, "http://a.example:5000/", "https://c.example/v2/hub/"]
  plain.example:5000:
    endpoint: [https://b.example, http://plain.example:5000]
  first.example:
    endpoint: [https://first.example/api, https://b.example/v2]
  none.example:
  local.example:
    endpoint: ["localhost:5000", "127.0.0.1:443", "[::1]:5000"]
`
	const wildcard = `  "*":
    endpoint: [https://all.example]
`
	const configs = `
configs:
  b.example:
    tls: {ca_file: DIR/cert.pem, cert_file: DIR/cert.pem, key_file: DIR/key.pem}
  registry-1.docker.io:
    tls: {insecure_skip_verify: true}
  own.example:
    tls: {ca_file: DIR/cert.pem}
  open.example:
    tls: {insecure_skip_verify: false}
`
	for _, test := range []struct {
		name, content, registry string
		want                    []string // URL of the API; +: with a CA, pair: with a certificate, -: not verified
	}{
		{"mirrors", mirrors + configs, "docker.io", []string{"https://b.example/v2 + pair", "http://a.example:5000/v2", "https://c.example/v2/hub", "https://registry-1.docker.io/v2 -"}},
		{"registry as the last endpoint", mirrors + configs, "plain.example:5000", []string{"https://b.example/v2 + pair", "http://plain.example:5000/v2"}},
		{"registry as the first endpoint", mirrors + configs, "first.example", []string{"https://first.example/api", "https://b.example/v2 + pair", "https://first.example/v2"}},
		{"no scheme", mirrors, "local.example", []string{"http://localhost:5000/v2", "https://127.0.0.1:443/v2", "http://[::1]:5000/v2", "https://local.example/v2"}},
		{"not in the file", mirrors + configs, "other.example", []string{"https://other.example/v2"}},
		{"only certificates", mirrors + configs, "own.example", []string{"https://own.example/v2 +"}},
		{"all", mirrors + wildcard + configs, "other.example:5000", []string{"https://all.example/v2", "https://other.example:5000/v2"}},
		{"all, and certificates", mirrors + wildcard + configs, "own.example", []string{"https://all.example/v2", "https://own.example/v2 +"}},
		{"all, but no endpoint", mirrors + wildcard + configs, "none.example", []string{"https://none.example/v2"}},
		{"certificates of all", mirrors + "configs:\n  '*':\n    tls: {insecure_skip_verify: true}\n", "first.example", []string{"https://first.example/api -", "https://b.example/v2 -", "https://first.example/v2 -"}},
		{"certificates of all alone", "configs:\n  '*':\n    tls: {insecure_skip_verify: true}\n", "other.example", []string{"https://other.example/v2 -"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			certs := filepath.Join(t.TempDir(), "certs.d")
			if err := load(t, dir, test.content).Write(certs); err != nil {
				t.Fatal(err)
			}
			hosts, err := config.ConfigureHosts(t.Context(), config.HostOptions{HostDir: config.HostDirFromRoot(certs)})(test.registry)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, host := range hosts {
				got = append(got, describe(t, host))
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func describe(t *testing.T, host docker.RegistryHost) string {
	t.Helper()
	text := host.Scheme + "://" + host.Host + host.Path
	if !host.Capabilities.Has(docker.HostCapabilityPull | docker.HostCapabilityResolve) {
		t.Errorf("nothing can be pulled from %s", text)
	}
	transport, ok := host.Client.Transport.(*http.Transport)
	if !ok {
		t.Fatalf("%s has a %T", text, host.Client.Transport)
	}
	if transport.TLSClientConfig.RootCAs != nil {
		text += " +"
	}
	if len(transport.TLSClientConfig.Certificates) > 0 {
		text += " pair"
	}
	if transport.TLSClientConfig.InsecureSkipVerify {
		text += " -"
	}
	return text
}

// TestWrite looks at what is left of earlier files and of the user's own.
func TestWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certs := filepath.Join(dir, "certs.d")
	files := func() map[string]string {
		t.Helper()
		found := map[string]string{}
		err := filepath.WalkDir(certs, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(certs, path)
			info, err := entry.Info()
			found[name] = info.Mode().String()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	check := func(want map[string]string) {
		t.Helper()
		want["."] = "drwx------"
		if got := files(); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}

	both := load(t, dir, "mirrors:\n  a.example: {endpoint: [http://c]}\n  b.example:5000: {endpoint: [http://c]}\n")
	for range 2 { // again
		if err := both.Write(certs); err != nil {
			t.Fatal(err)
		}
		check(map[string]string{
			"a.example":                  "drwx------",
			"a.example/hosts.toml":       "-rw-------",
			"b.example_5000_":            "drwx------",
			"b.example_5000_/hosts.toml": "-rw-------",
		})
	}

	write(t, certs, "a.example/note", "the user's")
	write(t, certs, "own.example/hosts.toml", "[host.'http://d']")
	write(t, certs, "ca.example/ca.crt", "")
	write(t, certs, "file", "")
	if err := load(t, dir, "mirrors:\n  new.example: {endpoint: [http://c]}\n").Write(certs); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{
		"a.example":              "drwx------",
		"a.example/note":         "-rw-------",
		"own.example":            "drwxr-xr-x",
		"own.example/hosts.toml": "-rw-------",
		"ca.example":             "drwxr-xr-x",
		"ca.example/ca.crt":      "-rw-------",
		"file":                   "-rw-------",
		"new.example":            "drwx------",
		"new.example/hosts.toml": "-rw-------",
	})
}

// TestOwnSettings refuses to overwrite, or to shadow, what the user has made.
func TestOwnSettings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		file, content string
		refused       bool
	}{
		{"a.example:5000/hosts.toml", "", true},
		{"a.example_5000_/hosts.toml", "server = 'http://b'\n", true},
		{"a.example_5000_/ca.crt", "", true},
		{"a.example_5000_/hosts.toml", mark + "server = 'http://b'\n", false},
		{"a.example_5000_/.hosts.toml.123", "", false}, // of a write that a power cut ended
		{"a.example/hosts.toml", "", false},
		{"_default/hosts.toml", "", false},
	} {
		t.Run(test.file, func(t *testing.T) {
			dir := t.TempDir()
			c := load(t, dir, "mirrors:\n  a.example:5000: {endpoint: [http://c]}\n")
			path := write(t, dir, filepath.Join("certs.d", test.file), test.content)
			err := c.Write(filepath.Join(dir, "certs.d"))
			if !test.refused {
				if err != nil {
					t.Error(err)
				}
				return
			}
			for _, want := range []string{filepath.Join(dir, "registries.yaml"), "a.example:5000", filepath.Dir(path)} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want %q in it", err, want)
				}
			}
			if content, _ := os.ReadFile(path); string(content) != test.content {
				t.Errorf("the user's file holds %q", content)
			}
		})
	}
}
