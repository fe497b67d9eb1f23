//go:build e2e

package e2e

import (
	"archive/tar"
	"context"
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
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// registry serves one image, under every name and tag, to those who log in.
type registry struct {
	user, password string
	image          v1.Descriptor
	blobs          map[string][]byte // by digest

	mu     sync.Mutex
	served []string // what was asked for by those who had logged in
}

// newRegistry makes a registry of an archive in the OCI image layout.
func newRegistry(t *testing.T, archive, user, password string) *registry {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	r := &registry{user: user, password: password, blobs: map[string][]byte{}}
	for in := tar.NewReader(file); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		r.blobs["sha256:"+path.Base(header.Name)] = content
		if header.Name == v1.ImageIndexFile {
			var index v1.Index
			if err := json.Unmarshal(content, &index); err != nil || len(index.Manifests) == 0 {
				t.Fatalf("%s of %s: %v", header.Name, archive, err)
			}
			r.image = index.Manifests[0]
		}
	}
}

func (r *registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if user, password, _ := request.BasicAuth(); user != r.user || password != r.password {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.mu.Lock()
	r.served = append(r.served, request.URL.String())
	r.mu.Unlock()
	kind, reference := path.Base(path.Dir(request.URL.Path)), path.Base(request.URL.Path)
	contentType := "application/octet-stream"
	if kind == "manifests" {
		contentType = r.image.MediaType
		if !strings.HasPrefix(reference, "sha256:") {
			reference = r.image.Digest.String()
		}
	}
	blob, ok := r.blobs[reference]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Docker-Content-Digest", reference)
	w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
	_, _ = w.Write(blob)
}

// serve serves on a port of a host until the test ends, with TLS if there is a
// certificate. It returns the address.
func (r *registry) serve(t *testing.T, host *testbed.Host, port int, certificates ...tls.Certificate) string {
	t.Helper()
	address := net.JoinHostPort(host.Address.String(), strconv.Itoa(port))
	listener, err := listen(host, address)
	if err != nil {
		t.Fatal(err)
	}
	if len(certificates) > 0 {
		listener = tls.NewListener(listener, &tls.Config{Certificates: certificates})
	}
	server := &http.Server{Handler: r}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return address
}

// listen listens on an address of a host.
func listen(host *testbed.Host, address string) (net.Listener, error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer func() { _ = own.Close() }()
	other, err := os.Open(filepath.Join(filepath.Dir(host.Path("/")), "ns", "net"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = other.Close() }()

	runtime.LockOSThread()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	listener, err := net.Listen("tcp4", address)
	// A thread that does not find back stays locked, and ends with the test.
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return nil, back
	}
	runtime.UnlockOSThread()
	return listener, err
}

func (r *registry) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.served)
}

// newAuthority makes a certificate for a host that signs itself.
func newAuthority(t *testing.T, host *testbed.Host) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{host.Address.AsSlice()},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
}

// put writes a file on a host.
func put(t *testing.T, host *testbed.Host, path, content string, mode os.FileMode) {
	t.Helper()
	path = host.Path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

const containerdEtc = "/var/lib/kedge/agent/etc/containerd"

// TestRegistry gives a node all that the container runtime can be told, and
// pulls images from registries that ask for logins.
func TestRegistry(t *testing.T) {
	t.Parallel()
	bed := testbed.New(t)
	c := &cluster{node: newHost(t, bed, "node"), beside: newHost(t, bed, "beside"), images: buildImages(t)}
	certificate, authority := newAuthority(t, c.beside)
	archive := c.images.Busybox.Archive
	mirror := newRegistry(t, archive, "mirror", `pass"word\1`)
	secure := newRegistry(t, archive, "secure", "password 2")
	strict := newRegistry(t, archive, "strict", "password 3")
	provided := newRegistry(t, archive, "provided", "password 4")
	names := strings.NewReplacer(
		"MIRROR", mirror.serve(t, c.beside, 5000),
		"SECURE", secure.serve(t, c.beside, 5001, certificate),
		"STRICT", strict.serve(t, c.beside, 5002),
		"PROVIDED", provided.serve(t, c.beside, 5003),
	)
	put(t, c.node, "/etc/kedge/authority.pem", string(authority), 0o644)
	// The password of SECURE is "secure:password 2" in base64.
	put(t, c.node, "/etc/kedge/registries.yaml", names.Replace(`
mirrors:
  docker.io:
    endpoint: ["http://MIRROR"]
  STRICT:
    endpoint: ["http://STRICT"]
  PROVIDED:
    endpoint: ["http://PROVIDED"]
configs:
  MIRROR:
    auth: {username: mirror, password: 'pass"word\1'}
  SECURE:
    auth: {auth: c2VjdXJlOnBhc3N3b3JkIDI=}
    tls: {ca_file: /etc/kedge/authority.pem}
  STRICT:
    auth: {username: strict, password: password 4}
`), 0o600)
	put(t, c.node, "/etc/kedge/providers.yaml", names.Replace(`
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: test-provider
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: [PROVIDED]
  defaultCacheDuration: 0s
`), 0o644)
	put(t, c.node, "/opt/providers/test-provider", names.Replace(`#!/bin/sh
cat <<END
{"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse", "cacheKeyType": "Image",
 "auth": {"PROVIDED": {"username": "provided", "password": "password 4"}}}
END
`), 0o755)
	put(t, c.node, containerdEtc+"/config-v3.toml.tmpl", `{{ template "base" . }}

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.own]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.own.options]
  BinaryName = {{ printf "%q" .Runc }}
  SystemdCgroup = {{ .SystemdCgroups }}
`, 0o644)
	put(t, c.node, "/usr/local/bin/crun", `#!/bin/sh
echo "$*" >> /run/crun.log
exec /var/lib/kedge/data/*/bin/runc "$@"
`, 0o755)
	for _, program := range []string{
		"/usr/local/nvidia/toolkit/nvidia-container-runtime", "/usr/local/sbin/nvidia-container-runtime.cdi",
		"/usr/local/bin/containerd-shim-runsc-v1", "/opt/kata/bin/containerd-shim-kata-v2",
		"/opt/kwasm/bin/containerd-shim-lunatic-v1", "/opt/kwasm/bin/containerd-shim-slight-v1", "/opt/kwasm/bin/containerd-shim-spin-v2",
		"/opt/kwasm/bin/containerd-shim-spin-v1", "/opt/kwasm/bin/containerd-shim-wasmedge-v1", "/opt/kwasm/bin/containerd-shim-wasmer-v1",
		"/opt/kwasm/bin/containerd-shim-wasmtime-v1", "/opt/kwasm/bin/containerd-shim-wws-v1",
	} {
		put(t, c.node, program, "#!/bin/sh\nexit 1\n", 0o755)
	}
	c.start(t, "--image-credential-provider-bin-dir=/opt/providers", "--image-credential-provider-config=/etc/kedge/providers.yaml")

	for _, test := range []struct {
		name string
		run  func(*sandbox)
	}{
		{"MirrorWithLogin", func(s *sandbox) {
			s.pull(s.images.Busybox.Name, "")
			requests := mirror.requests()
			if len(requests) < 4 || requests[0] != "/v2/library/busybox/manifests/1?ns=docker.io" {
				s.t.Errorf("the mirror was asked for %q", requests)
			}
		}},
		{"OwnAuthority", func(s *sandbox) { s.pull(names.Replace("SECURE/team/app:2"), "") }},
		{"CredentialProvider", func(s *sandbox) { s.pull(names.Replace("PROVIDED/team/app:2"), "") }},
		{"WrongPassword", func(s *sandbox) {
			s.pod(names.Replace("STRICT/team/app:2"), "")
			eventually(s.t, "an event that tells of the login", func() (bool, string) {
				events := s.kubectl("get", "events", "-o", "jsonpath={.items[*].message}")
				return strings.Contains(events, "401 Unauthorized"), events
			})
		}},
		{"PullSecret", func(s *sandbox) {
			s.kubectl("create", "secret", "docker-registry", "login", names.Replace("--docker-server=STRICT"), "--docker-username=strict", "--docker-password=password 3")
			s.kubectl("patch", "serviceaccount/default", "-p", `{"imagePullSecrets": [{"name": "login"}]}`)
			s.pull(names.Replace("STRICT/team/app:2"), "")
		}},
		{"Template", func(s *sandbox) {
			content, err := os.ReadFile(s.node.Path(containerdEtc + "/config.toml"))
			if err != nil {
				s.t.Fatal(err)
			}
			if !strings.Contains(string(content), "runtimes.own]") {
				s.t.Errorf("containerd's configuration lacks the template's lines:\n%s", content)
			}
			s.apply("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: own-class}\nhandler: own\n")
			s.pull(s.images.Busybox.Name, "own-class")
		}},
		{"RuntimeClass", func(s *sandbox) {
			s.pull(s.images.Busybox.Name, "crun")
			log, err := os.ReadFile(s.node.Path("/run/crun.log"))
			if err != nil || !strings.Contains(string(log), " create ") {
				s.t.Errorf("crun was called with %q, error %v", log, err)
			}
		}},
		{"RuntimeClasses", func(s *sandbox) {
			handlers := strings.Fields(s.field("node/"+s.node.Name, ".status.runtimeHandlers[*].name"))
			handlers = slices.DeleteFunc(handlers, func(name string) bool { return name == "runc" || name == "own" })
			slices.Sort(handlers)
			eventually(s.t, "a RuntimeClass for each of "+strings.Join(handlers, " "), func() (bool, string) {
				classes := strings.Fields(s.kubectl("get", "runtimeclasses", "-o", "jsonpath={.items[*].metadata.name}"))
				classes = slices.DeleteFunc(classes, func(name string) bool { return name == "own-class" })
				slices.Sort(classes)
				return len(classes) == 12 && slices.Equal(classes, handlers), strings.Join(classes, " ")
			})
		}},
		{"Modes", func(s *sandbox) {
			out, err := s.node.Exec(s.t.Context(), "find", containerdEtc, "-type", "f", "-name", "*.toml", "-printf", "%P %m\n")
			if err != nil {
				s.t.Fatal(err)
			}
			lines := strings.Fields(strings.ReplaceAll(out, " ", "="))
			slices.Sort(lines)
			var want []string
			for _, dir := range []string{"_5001_", "_5002_", "_5003_"} {
				want = append(want, "certs.d/"+s.beside.Address.String()+dir+"/hosts.toml=600")
			}
			want = append(want, "certs.d/docker.io/hosts.toml=600", "config.toml=600")
			s.check("the files of containerd and their modes", strings.Join(lines, " "), strings.Join(want, " "))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(c.sandbox(t))
		})
	}
}

// pod makes a pod that ends at once. The registry is asked for its image, also
// when another test has pulled it.
func (s *sandbox) pod(image, runtimeClass string) {
	s.t.Helper()
	if runtimeClass != "" {
		runtimeClass = "runtimeClassName: " + runtimeClass
	}
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: main}
spec:
	restartPolicy: Never
	` + runtimeClass + `
	containers: [{name: main, image: "` + image + `", imagePullPolicy: Always, command: [echo, hello]}]
`)
}

// pull runs such a pod.
func (s *sandbox) pull(image, runtimeClass string) {
	s.t.Helper()
	s.pod(image, runtimeClass)
	s.wait("jsonpath={.status.phase}=Succeeded", "pod/main")
	s.check("what the pod wrote", s.kubectl("logs", "main"), "hello")
}

// TestRegistryRefused gives a server runtime options that it can't work with. It
// must say so in one line, and leave the disk as it was.
func TestRegistryRefused(t *testing.T) {
	t.Parallel()
	host := newHost(t, testbed.New(t), "node")
	// What it unpacks is unpacked.
	if _, err := host.Kedge(t.Context(), "version"); err != nil {
		t.Fatal(err)
	}
	const (
		registries = "/etc/kedge/registries.yaml"
		template   = containerdEtc + "/config-v3.toml.tmpl"
		providers  = "/etc/kedge/providers.yaml"
	)
	provider := "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders: [{name: none, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [a.example], defaultCacheDuration: 0s}]\n"
	for _, test := range []struct {
		name  string
		files map[string]string
		args  []string
		want  []string
	}{
		{"unknown key", map[string]string{registries: "mirrors:\n  docker.io: {endpoints: []}\n"}, nil, []string{registries + ":2", `"endpoints"`, "endpoint"}},
		{"malformed", map[string]string{registries: "mirrors:\n  *:\n"}, nil, []string{registries + ":2", "YAML", "quotes"}},
		{"rewrite", map[string]string{registries: "mirrors:\n  docker.io:\n    rewrite: {'(': b}\n"}, nil, []string{registries + ":3", "docker.io", "rewrite", "regular expression"}},
		{"missing CA", map[string]string{registries: "configs:\n  a.example:\n    tls:\n      ca_file: /no/such/place.pem\n"}, nil, []string{registries + ":4", "ca_file", "/no/such/place.pem"}},
		{"missing file", nil, []string{"--private-registry=/no/such/place.yaml"}, []string{"--private-registry", "/no/such/place.yaml"}},
		{"own settings", map[string]string{registries: "mirrors:\n  a.example: {endpoint: [b]}\n", containerdEtc + "/certs.d/a.example/hosts.toml": ""}, nil,
			[]string{registries, "a.example", containerdEtc + "/certs.d/a.example"}},
		{"template with an unknown field", map[string]string{template: "{{ template \"base\" . }}\n{{ .NodeConfig.SELinux }}\n"}, nil, []string{template + ":2", "NodeConfig"}},
		{"template that does not end", map[string]string{template: "\n{{ if }}\n"}, nil, []string{template + ":2"}},
		{"template that gives no TOML", map[string]string{template: "{{ template \"base\" . }}\nroot: /elsewhere\n"}, nil, []string{template + ":2", "toml"}},
		{"no directory of providers", map[string]string{providers: provider}, []string{"--image-credential-provider-bin-dir=/no/such/place", "--image-credential-provider-config=" + providers},
			[]string{"--image-credential-provider-bin-dir", "/no/such/place"}},
		{"no configuration of providers", nil, []string{"--image-credential-provider-bin-dir=/usr/bin", "--image-credential-provider-config=/no/such/place"},
			[]string{"--image-credential-provider-config", "/no/such/place"}},
		{"missing provider", map[string]string{providers: provider}, []string{"--image-credential-provider-bin-dir=/usr/local/bin", "--image-credential-provider-config=" + providers},
			[]string{"--image-credential-provider-config", providers, "/usr/local/bin/none"}},
		{"no SELinux", nil, []string{"--selinux"}, []string{"--selinux", "/sys/fs/selinux"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil && slices.Contains(test.args, "--selinux") {
				t.Skip("this machine has SELinux")
			}
			for path, content := range test.files {
				put(t, host, path, content, 0o600)
			}
			before, err := host.Disk()
			if err != nil {
				t.Fatal(err)
			}
			// A server that starts after all must not run for ever.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			result, err := host.Run(ctx, nil, host.Binary, append([]string{"server"}, test.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, result, test.want...)
			after, err := host.Disk()
			if err != nil {
				t.Fatal(err)
			}
			if err := after.Compare(before); err != nil {
				t.Errorf("the disk has changed:\n%v", err)
			}
			if _, err := host.Exec(t.Context(), "rm", "-rf", "/etc/kedge", "/var/lib/kedge/agent"); err != nil {
				t.Fatal(err)
			}
		})
	}
}
