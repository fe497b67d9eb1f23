// Package token is the form of the tokens with which machines join a cluster:
//
//	K10<hash>::<user>:<secret>                 the cluster's own; user is "server" or "node"
//	K10<hash>::<id>.<secret>                   a bootstrap token, in kubeadm's form
//	<user>:<secret>, <id>.<secret>, <secret>   the same without a hash
//
// The hash is the SHA-256 of the cluster's CA bundle, of its PEM bytes as they
// are served. A machine that joins has no other way to know the CA: with the
// hash it recognizes the right server, without it trusts whoever answers first.
//
// A token gives control of a cluster, and configurations and errors end up in
// logs. So a [Token] prints without its secret however it is printed, errors
// are fixed texts that repeat nothing of what was parsed, and the one way to
// the full text has a name that shows in a review: [Token.Reveal].
package token

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
)

// The users of the cluster's own tokens: what a machine joins as.
const (
	Server = "server"
	Node   = "node"
)

const (
	prefix   = "K10"
	redacted = "[redacted]"

	// maxSecret is far above any real secret and far below what an HTTP server
	// takes as a header.
	maxSecret = 1024
)

var (
	bootstrapID     = regexp.MustCompile(`^[a-z0-9]{6}$`)
	bootstrapSecret = regexp.MustCompile(`^[a-z0-9]{16}$`)
	caHash          = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ErrNoCAHash says that a token can't tell the right server from a wrong one.
var ErrNoCAHash = errors.New("the token has no CA hash to recognize the server by; the full token begins with K10 and is found on a server")

// What can be wrong with a token. The texts are fixed, so that none can repeat
// a part of a secret.
var (
	errEmpty      = errors.New("the token is empty")
	errLong       = errors.New("the secret of the token is longer than 1024 characters")
	errCharacters = errors.New("the token contains white space or characters other than printable ASCII")
	errForm       = errors.New("the token begins with K10 but has no '::'; its form is K10<64 hexadecimal digits>::<user>:<secret> or K10<64 hexadecimal digits>::<id>.<secret>")
	errHash       = errors.New("the part of the token between K10 and '::' must be 64 hexadecimal digits, the SHA-256 of the cluster's CA; a part of the token may be missing")
	errCredential = errors.New("the part of the token after '::' must be <user>:<secret>, or a bootstrap token <id>.<secret> of 6 and 16 characters of a-z and 0-9")
	errUser       = errors.New(`the user of the token, the part before ':', must be "server" or "node"; a token with a CA hash begins with K10`)
	errSecret     = errors.New("the token has no secret after the user")
	errColon      = errors.New("the secret of the token contains a ':'")
	errReserved   = errors.New(`"server" can't be the ID of a bootstrap token: it is the user of the cluster's own token`)
	errBootstrap  = errors.New("the secret of a bootstrap token must be 16 characters of a-z and 0-9")
)

// Token is a join token. Its zero value is no token and equals none.
type Token struct {
	// CAHash is the SHA-256 of the cluster's CA bundle in hexadecimal digits,
	// or empty.
	CAHash string
	// User is [Server] or [Node]; empty for a bootstrap token and a bare secret.
	User string
	// BootstrapID is the public part of a bootstrap token, or empty.
	BootstrapID string

	// secret is a pointer because fmt calls no method of a value in another
	// struct's unexported field: it prints an address there.
	secret *string
	// == would compare addresses, and not in constant time: use Equal.
	_ [0]func()
}

// Parse reads any form of a token.
func Parse(text string) (Token, error) {
	if text == "" {
		return Token{}, errEmpty
	}
	if !printable(text) {
		return Token{}, errCharacters
	}
	var hash string
	credential, secure := strings.CutPrefix(text, prefix)
	if secure {
		var ok bool
		if hash, credential, ok = strings.Cut(credential, "::"); !ok {
			return Token{}, errForm
		}
		hash = strings.ToLower(hash)
		if !caHash.MatchString(hash) {
			return Token{}, errHash
		}
	}
	if user, secret, ok := strings.Cut(credential, ":"); ok {
		if user != Server && user != Node {
			return Token{}, errUser
		}
		return newToken(hash, user, secret)
	}
	if id, secret, ok := strings.Cut(credential, "."); ok && bootstrapID.MatchString(id) && bootstrapSecret.MatchString(secret) {
		// HTTP basic authentication couldn't tell it from the cluster's own.
		if id == Server {
			return Token{}, errReserved
		}
		return newToken(hash, id, secret)
	}
	if secure {
		return Token{}, errCredential
	}
	if len(credential) > maxSecret {
		return Token{}, errLong
	}
	return Token{secret: &credential}, nil
}

// New makes a token for the cluster with the given CA bundle, or one without a
// hash if there is none. user is [Server], [Node] or the ID of a bootstrap token.
func New(caBundle []byte, user, secret string) (Token, error) {
	var hash string
	if len(caBundle) > 0 {
		hash = HashCA(caBundle)
	}
	return newToken(hash, user, secret)
}

// Format is the full text of the token that [New] makes.
func Format(caBundle []byte, user, secret string) (string, error) {
	t, err := New(caBundle, user, secret)
	return t.Reveal(), err
}

// FromBasicAuth is the token of a request that was made with [Token.BasicAuth].
// It has the form of a token; whether it is one that is valid, the caller finds
// out with [Token.Equal].
func FromBasicAuth(user, password string) (Token, error) {
	return newToken("", user, password)
}

func newToken(hash, user, secret string) (Token, error) {
	t := Token{CAHash: hash, secret: &secret}
	switch {
	case secret == "":
		return Token{}, errSecret
	case len(secret) > maxSecret:
		return Token{}, errLong
	case !printable(secret):
		return Token{}, errCharacters
	case strings.Contains(secret, ":"):
		return Token{}, errColon
	case user == Server || user == Node:
		t.User = user
	case !bootstrapID.MatchString(user):
		return Token{}, errUser
	case !bootstrapSecret.MatchString(secret):
		return Token{}, errBootstrap
	default:
		t.BootstrapID = user
	}
	return t, nil
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// HashCA is the hash that tokens pin a CA bundle with.
func HashCA(caBundle []byte) string {
	sum := sha256.Sum256(caBundle)
	return hex.EncodeToString(sum[:])
}

// VerifyCA returns nil if the bundle, as a server served it, is that of the
// cluster the token was made for, or a successor of it; [ErrNoCAHash] if the token
// can't tell.
func (t Token) VerifyCA(bundle []byte) error {
	if t.CAHash == "" {
		return ErrNoCAHash
	}
	got := HashCA(bundle)
	if subtle.ConstantTimeCompare([]byte(got), []byte(t.CAHash)) != 1 && !succeeds(bundle, t.CAHash) {
		return fmt.Errorf("the CA of the server has the hash %s, the token was made for %s: either this is not a server of the cluster the token was made for, or somebody impersonates it", got, t.CAHash)
	}
	return nil
}

// Equal reports whether both are the same credential: user or bootstrap ID, and
// secret. The CA hash is no part of it, requests don't carry it. The time it
// takes tells nothing of the secrets, not even their lengths.
func (t Token) Equal(other Token) bool {
	if t.secret == nil || other.secret == nil {
		return false
	}
	a, b := t.sum(), other.sum()
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (t Token) sum() [sha256.Size]byte {
	return sha256.Sum256([]byte(t.User + "\x00" + t.BootstrapID + "\x00" + *t.secret))
}

// BasicAuth is what a request to join authenticates with: user and secret, for
// a bootstrap token its ID and secret. A bare secret names no user; bareUser
// says what to join as. Basic authentication fits all forms, and needs nothing
// but TLS, which the CA hash secures.
func (t Token) BasicAuth(bareUser string) (user, password string) {
	switch {
	case t.BootstrapID != "":
		user = t.BootstrapID
	case t.User != "":
		user = t.User
	default:
		user = bareUser
	}
	return user, t.Secret()
}

// Secret is the secret alone.
func (t Token) Secret() string {
	if t.secret == nil {
		return ""
	}
	return *t.secret
}

// Reveal is the full text, secret included: what [Parse] reads.
func (t Token) Reveal() string {
	return t.text(t.Secret())
}

func (t Token) text(secret string) string {
	if t.secret == nil {
		return ""
	}
	text := secret
	switch {
	case t.BootstrapID != "":
		text = t.BootstrapID + "." + secret
	case t.User != "":
		text = t.User + ":" + secret
	}
	if t.CAHash != "" {
		text = prefix + t.CAHash + "::" + text
	}
	return text
}

// String is the token without its secret.
func (t Token) String() string { return t.text(redacted) }

// GoString is String.
func (t Token) GoString() string { return t.String() }

// LogValue is String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText is String: an encoded configuration holds no secret. For the same
// reason there is no way back.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// NewSecret makes a secret that can't be guessed: 128 random bits.
func NewSecret() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// NewBootstrap makes the two parts of a bootstrap token.
func NewBootstrap() (id, secret string) {
	for id == "" || id == Server {
		id = randomText(6)
	}
	return id, randomText(16)
}

func randomText(length int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	// Bytes beyond the last whole alphabet would favour its first letters.
	const limit = 256 - 256%len(alphabet)
	text := make([]byte, 0, length)
	for len(text) < length {
		var b [1]byte
		_, _ = rand.Read(b[:]) // never fails
		if int(b[0]) < limit {
			text = append(text, alphabet[int(b[0])%len(alphabet)])
		}
	}
	return string(text)
}
