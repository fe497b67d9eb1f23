// Package redact takes secrets out of what is shown to others: the ones that are
// known, wherever they stand, and what looks like one.
package redact

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Removed stands where a secret stood.
const Removed = "<removed>"

// minSecret is the length below which a text is not taken for a secret: it would
// be found, and removed, everywhere.
const minSecret = 8

// Redactor removes secrets.
type Redactor struct {
	known []string // the longest first
}

// New makes a Redactor that knows the secrets in files, such as tokens. Files that
// are not there hold none.
func New(files ...string) (*Redactor, error) {
	r := &Redactor{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read a secret, to be able to remove it: %w", err)
		}
		r.Know(string(content))
	}
	return r, nil
}

// Know adds a secret. Of a token, the part that is the secret is one, too.
func (r *Redactor) Know(secret string) {
	secret = strings.TrimSpace(secret)
	add := func(s string) {
		if len(s) >= minSecret && !slices.Contains(r.known, s) {
			r.known = append(r.known, s)
		}
	}
	add(secret)
	if i := strings.LastIndexByte(secret, ':'); i >= 0 {
		add(secret[i+1:])
	}
	slices.SortFunc(r.known, func(a, b string) int { return len(b) - len(a) })
}

// What secrets look like, wherever they stand.
var looks = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----`), Removed},
	{regexp.MustCompile(`\bK10[0-9a-f]{64}::[^\s"',]+`), "K10" + Removed},
	{regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`), Removed},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+`), Removed},
	{regexp.MustCompile(`(://[^/\s:@"']*):[^/\s@"']+@`), "$1:" + Removed + "@"},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_=.~-]{8,}`), "$1 " + Removed},
	{regexp.MustCompile(`(?i)(client-key-data["']?\s*:\s*)\S+`), "$1" + Removed},
}

// named finds values that their names call secret, in configuration, command lines
// and logs.
var named = regexp.MustCompile(`(?i)([\w.-]*(?:` + secretWords + `)[\w.-]*["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,;})\]"']+)`)

const secretWords = `password|passwd|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|datastore-endpoint|datastore_endpoint`

// Values removes secrets from a value of an object of the cluster, whose field
// names say "token" and "secret" of many things that are none.
func (r *Redactor) Values(text []byte) []byte {
	for _, secret := range r.known {
		text = bytes.ReplaceAll(text, []byte(secret), []byte(Removed))
	}
	for _, look := range looks {
		text = look.pattern.ReplaceAll(text, []byte(look.with))
	}
	return text
}

// Text removes secrets from a text such as a log, and values whose names say that
// they are secret.
func (r *Redactor) Text(text []byte) []byte {
	return named.ReplaceAll(r.Values(text), []byte("${1}"+Removed))
}

var secretKey = regexp.MustCompile(`(?i)` + secretWords + `|^auth$|identity`)

// YAML removes secrets from a YAML file: values of keys that name one, whatever
// form they have, and all comments.
func (r *Redactor) YAML(content []byte) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return nil, fmt.Errorf("it is no YAML, and so may hold secrets that are not found: %w", err)
	}
	if document.Kind == 0 {
		return nil, nil
	}
	r.cleanNode(&document, false)
	return yaml.Marshal(&document)
}

// cleanNode removes comments, and all scalars if secret.
func (r *Redactor) cleanNode(n *yaml.Node, secret bool) {
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			r.cleanNode(key, false)
			// auth holds a login: a mapping of which the user's name may be seen.
			hidden := secretKey.MatchString(key.Value) && !strings.HasSuffix(key.Value, "-file")
			r.cleanNode(value, secret || hidden && (value.Kind != yaml.MappingNode || key.Value != "auth"))
		}
	case yaml.ScalarNode:
		if secret && n.Value != "" {
			n.SetString(Removed)
		} else if clean := string(r.Text([]byte(n.Value))); clean != n.Value {
			n.SetString(clean)
		}
	default:
		for _, c := range n.Content {
			r.cleanNode(c, secret)
		}
	}
}

// File reads a YAML file and removes secrets. A file that is not there is
// fs.ErrNotExist.
func (r *Redactor) File(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return r.YAML(content)
}
