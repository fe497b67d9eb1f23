// Package bootstrap is what all servers of a cluster have in common: its
// authorities, keys and tokens. A server that joins gets it from another one,
// and it lies in the datastore, encrypted with the cluster's token, for servers
// that have nothing but the datastore and the token.
package bootstrap

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// Key is where the encrypted data lies in the datastore. It is the same for every
// token: a hash of the token in it would let others try tokens at the hash's speed.
const Key = "/bootstrap/data"

const (
	// rounds make guessing a token that a person chose slow: the recommendation of
	// OWASP for PBKDF2 with SHA-256.
	rounds  = 600_000
	saltLen = 16
	keyLen  = 32 // AES-256
	version = 1
)

// ErrWrongToken says that data was not encrypted with the token it was to be
// opened with, or is damaged.
var ErrWrongToken = errors.New("the bootstrap data can't be decrypted with this token")

// Data is the content of files by their path below the directory of servers.
type Data map[string][]byte

// Collect reads the named files below dir. One that does not exist is left out.
func Collect(dir string, names []string) (Data, error) {
	data := Data{}
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("collect the cluster's keys: %w", err)
		}
		data[name] = content
	}
	return data, nil
}

// Install writes the files below dir, each 0600. It refuses names that it was not
// told to expect, so that whoever made the data writes nowhere else.
func (d Data) Install(dir string, names []string) error {
	expected := map[string]bool{}
	for _, name := range names {
		expected[name] = true
	}
	for name := range d {
		if !expected[name] {
			return fmt.Errorf("the bootstrap data holds %q, which no server of this version knows: upgrade this server first", name)
		}
	}
	for name, content := range d {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if _, err := atomicfile.Update(path, content, 0o600); err != nil {
			return fmt.Errorf("keep the cluster's keys: %w", err)
		}
	}
	return nil
}

// sealed is encrypted data as it lies in the datastore.
type sealed struct {
	Version int    `json:"version"`
	Rounds  int    `json:"rounds"` // of PBKDF2 with SHA-256
	Salt    []byte `json:"salt"`
	Nonce   []byte `json:"nonce"`
	Data    []byte `json:"data"` // JSON, encrypted with AES-256-GCM
}

// Seal encrypts the data with the secret of the cluster's token.
func (d Data) Seal(secret string) ([]byte, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	s := sealed{Version: version, Rounds: rounds, Salt: make([]byte, saltLen)}
	_, _ = rand.Read(s.Salt) // never fails
	gcm, err := s.cipher(secret)
	if err != nil {
		return nil, err
	}
	s.Nonce = make([]byte, gcm.NonceSize())
	_, _ = rand.Read(s.Nonce) // never fails
	s.Data = gcm.Seal(nil, s.Nonce, text, nil)
	return json.Marshal(s)
}

// Open decrypts what Seal made.
func Open(secret string, content []byte) (Data, error) {
	var s sealed
	if err := json.Unmarshal(content, &s); err != nil {
		return nil, fmt.Errorf("read the bootstrap data: %w", err)
	}
	if s.Version != version {
		return nil, fmt.Errorf("the bootstrap data has the form %d, and this Kedge knows %d: use the version of the other servers", s.Version, version)
	}
	gcm, err := s.cipher(secret)
	if err != nil {
		return nil, err
	}
	if len(s.Nonce) != gcm.NonceSize() {
		return nil, ErrWrongToken
	}
	text, err := gcm.Open(nil, s.Nonce, s.Data, nil)
	if err != nil {
		return nil, ErrWrongToken
	}
	var d Data
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("read the bootstrap data: %w", err)
	}
	return d, nil
}

// maxRounds keeps data that somebody made up from costing minutes.
const maxRounds = 10 * rounds

func (s sealed) cipher(secret string) (cipher.AEAD, error) {
	if secret == "" || s.Rounds <= 0 || s.Rounds > maxRounds {
		return nil, ErrWrongToken
	}
	key, err := pbkdf2.Key(sha256.New, secret, s.Salt, s.Rounds, keyLen)
	if err != nil {
		return nil, fmt.Errorf("make a key from the token: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
