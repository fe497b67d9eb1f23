// Package registries reads registries.yaml: the mirrors of image registries, and
// the credentials and certificates for them. It writes what containerd reads of
// these.
//
// The format is that of k3s:
//
//	mirrors:
//	  docker.io:
//	    endpoint: [https://mirror.example.com]
//	configs:
//	  mirror.example.com:
//	    auth: {username: NAME, password: PASSWORD}
//	    tls: {ca_file: /etc/ssl/mirror.pem}
package registries

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// all stands for every registry that has no entry of its own.
const all = "*"

// dockerHub are the names of one and the same registry. Images have the second
// in their names, and containerd asks the first for them.
var dockerHub = []string{"registry-1.docker.io", "docker.io", "index.docker.io"}

// Config is what a file says. The zero value says nothing.
type Config struct {
	path    string
	content []byte            // of the file
	mirrors map[string]mirror // by registry
	hosts   map[string]host   // by registry
}

// mirror is where a registry's images are asked for.
type mirror struct {
	endpoints []endpoint
	rewrites  []rewrite // in their order
}

// mirrorOf is where the images of a registry are asked for before itself.
func (c Config) mirrorOf(registry string) mirror {
	if m, ok := c.mirrors[registry]; ok {
		return m
	}
	return c.mirrors[all]
}

// shares says that the file names the registry in mirrors, so that nodes give
// each other its images.
func (c Config) shares(registry string) bool {
	_, named := c.mirrors[registry]
	_, wildcard := c.mirrors[all]
	return named || wildcard
}

// asksItself says that the file leaves the registry out of mirrors, or names it as
// the last endpoint of its own.
func (c Config) asksItself(registry string) bool {
	endpoints := c.mirrorOf(registry).endpoints
	if last := len(endpoints) - 1; last >= 0 {
		return isRegistry(endpoints[last].host, registry)
	}
	return !c.shares(registry)
}

// host is how to talk to a registry.
type host struct {
	auth *auth
	tls  tlsFiles
}

// auth is a login. The registry is shown the first that is there.
type auth struct {
	username, password string
	identityToken      string
	basic              string // NAME:PASSWORD in base64
}

// host is how to talk to the registry of that name.
func (c Config) host(name string) host {
	names := []string{name}
	if slices.Contains(dockerHub, name) {
		names = dockerHub
	}
	for _, name := range names {
		if h, ok := c.hosts[name]; ok {
			return h
		}
	}
	return c.hosts[all]
}

// Load reads a file. What can't be used is refused with the line it is on. The
// error is fs.ErrNotExist only if the file itself does not exist.
func Load(path string) (Config, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read registries: %w", err)
	}
	r := reader{path: path, config: Config{path: path, content: content, mirrors: map[string]mirror{}, hosts: map[string]host{}}}
	root, err := r.parse(content)
	if err != nil {
		return Config{}, err
	}
	if root == nil {
		return r.config, nil
	}
	err = r.fields(root, "", fields{
		"mirrors": func(n *yaml.Node, at string) error { return r.registries(n, at, r.mirror) },
		"configs": func(n *yaml.Node, at string) error { return r.registries(n, at, r.host) },
	})
	if err != nil {
		return Config{}, err
	}
	return r.config, nil
}

// reader takes a file apart.
type reader struct {
	path   string
	config Config
}

// refuse says what is wrong with a node. It wraps no error: that a file named
// there does not exist must not look as if this one did not.
func (r *reader) refuse(n *yaml.Node, at, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s%s", r.path, n.Line, at, fmt.Sprintf(format, args...))
}

// parse returns the root of the only YAML document, nil if that is empty.
func (r *reader) parse(content []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		err = decoder.Decode(&second)
		if err == nil {
			return nil, r.refuse(&second, "", "a second document begins; give everything in the first one")
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, r.malformed(err)
	}
	return document.Content[0], nil
}

var yamlProblem = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// malformed retells an error of the YAML library.
func (r *reader) malformed(err error) error {
	line, problem := 1, err.Error()
	if m := yamlProblem.FindStringSubmatch(problem); m != nil {
		line, _ = strconv.Atoi(m[1])
		problem = m[2]
	}
	// A * where a name or a value begins. The library may repeat what follows,
	// which may be a secret.
	if strings.Contains(problem, "anchor") || strings.Contains(problem, "alphabetic or numeric character") {
		problem = `a name or value that begins with * or & needs quotes, such as "*"`
	}
	return fmt.Errorf("%s:%d: malformed YAML: %s", r.path, max(line, 1), problem)
}

// fields are the keys that a mapping may have.
type fields map[string]func(n *yaml.Node, at string) error

// fields reads a mapping with known keys.
func (r *reader) fields(n *yaml.Node, at string, known fields) error {
	return r.mapping(n, at, func(key, value *yaml.Node) error {
		read, ok := known[key.Value]
		if !ok {
			return r.refuse(key, at, "unknown key %q; known are %s", key.Value, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		return read(value, at+key.Value+": ")
	})
}

// mapping reads each entry of a mapping, of which nothing may be left out.
func (r *reader) mapping(n *yaml.Node, at string, read func(key, value *yaml.Node) error) error {
	n = follow(n)
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return r.refuse(n, at, `want entries of the form "key: value"`)
	}
	first := map[string]int{}
	for pair := range slices.Chunk(n.Content, 2) {
		key := follow(pair[0])
		if line, again := first[key.Value]; again {
			return r.refuse(pair[0], at, "%q is given on line %d already", key.Value, line)
		}
		first[key.Value] = pair[0].Line
		if err := read(key, pair[1]); err != nil {
			return err
		}
	}
	return nil
}

var registryName = regexp.MustCompile(`^([a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]+)?$`)

// registries reads a mapping whose keys are registries.
func (r *reader) registries(n *yaml.Node, at string, read func(name string, n *yaml.Node, at string) error) error {
	return r.mapping(n, at, func(key, value *yaml.Node) error {
		if key.Value != all && !registryName.MatchString(key.Value) {
			return r.refuse(key, at, `%q is not a registry; write its host, with a port if need be, and neither scheme nor path, or "*" for all`, key.Value)
		}
		return read(key.Value, value, at+key.Value+": ")
	})
}

func (r *reader) mirror(name string, n *yaml.Node, at string) error {
	var m mirror
	err := r.fields(n, at, fields{
		"endpoint": func(n *yaml.Node, at string) (err error) {
			m.endpoints, err = r.endpoints(n, at)
			return err
		},
		"rewrite": func(n *yaml.Node, at string) (err error) {
			m.rewrites, err = r.rewrites(n, at)
			return err
		},
	})
	r.config.mirrors[name] = m
	return err
}

func (r *reader) rewrites(n *yaml.Node, at string) (rewrites []rewrite, err error) {
	err = r.mapping(n, at, func(key, value *yaml.Node) error {
		pattern, err := regexp.Compile(key.Value)
		if err != nil {
			return r.refuse(key, at, "%q is not a regular expression: %v", key.Value, err)
		}
		var replacement string
		if err := r.text(&replacement)(value, at); err != nil {
			return err
		}
		rewrites = append(rewrites, rewrite{pattern, replacement})
		return nil
	})
	return rewrites, err
}

func (r *reader) endpoints(n *yaml.Node, at string) ([]endpoint, error) {
	n = follow(n)
	if isNull(n) {
		return nil, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, r.refuse(n, at, "want a list of URLs")
	}
	var endpoints []endpoint
	for _, item := range n.Content {
		var text string
		if err := r.text(&text)(item, at); err != nil {
			return nil, err
		}
		e, err := parseEndpoint(text)
		if err != nil {
			return nil, r.refuse(item, at, "%v", err)
		}
		if slices.Contains(endpoints, e) {
			return nil, r.refuse(item, at, "%s is given twice", e.url)
		}
		endpoints = append(endpoints, e)
	}
	return endpoints, nil
}

func (r *reader) host(name string, n *yaml.Node, at string) error {
	var h host
	err := r.fields(n, at, fields{
		"auth": func(n *yaml.Node, at string) (err error) {
			if name == all && !isNull(follow(n)) {
				return r.refuse(n, at, "credentials are for one registry; name it instead of *")
			}
			h.auth, err = r.auth(n, at)
			return err
		},
		"tls": func(n *yaml.Node, at string) (err error) {
			h.tls, err = r.tls(n, at)
			return err
		},
	})
	r.config.hosts[name] = h
	return err
}

func (r *reader) auth(n *yaml.Node, at string) (*auth, error) {
	var a auth
	err := r.fields(n, at, fields{
		"username":       r.text(&a.username),
		"password":       r.text(&a.password),
		"identity_token": r.text(&a.identityToken),
		"auth":           r.text(&a.basic),
	})
	switch {
	case err != nil:
		return nil, err
	case a == auth{}:
		return nil, nil
	case (a.username == "") != (a.password == ""):
		return nil, r.refuse(n, at, "a username and a password belong together; give both or neither")
	case !isBasicAuth(a.basic):
		return nil, r.refuse(n, at, "auth: want NAME:PASSWORD in base64")
	}
	return &a, nil
}

func (r *reader) tls(n *yaml.Node, at string) (tlsFiles, error) {
	var files tlsFiles
	var ca *yaml.Node
	err := r.fields(n, at, fields{
		"ca_file": func(n *yaml.Node, at string) error {
			ca = n
			return r.text(&files.ca)(n, at)
		},
		"cert_file":            r.text(&files.cert),
		"key_file":             r.text(&files.key),
		"insecure_skip_verify": r.boolean(&files.skipVerify),
	})
	if err != nil {
		return tlsFiles{}, err
	}
	if err := files.checkCA(); err != nil {
		return tlsFiles{}, r.refuse(ca, at, "ca_file: %v", err)
	}
	if err := files.checkPair(); err != nil {
		return tlsFiles{}, r.refuse(n, at, "%v", err)
	}
	return files, nil
}

// text reads a value of any form as it is written.
func (r *reader) text(to *string) func(n *yaml.Node, at string) error {
	return func(n *yaml.Node, at string) error {
		n = follow(n)
		if n.Kind != yaml.ScalarNode {
			return r.refuse(n, at, "want a single value")
		}
		if isNull(n) {
			return nil
		}
		// TOML, which containerd reads, has no other way to write some of them.
		if strings.ContainsFunc(n.Value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return r.refuse(n, at, "has a control character or a line break in it")
		}
		*to = n.Value
		return nil
	}
}

func (r *reader) boolean(to *bool) func(n *yaml.Node, at string) error {
	return func(n *yaml.Node, at string) error {
		if n.Decode(to) != nil {
			return r.refuse(n, at, "want true or false")
		}
		return nil
	}
}

// follow returns the node that a YAML alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }
