package snapshot

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrWrongToken says that secrets are encrypted with another token.
var ErrWrongToken = errors.New("the token is not the one that the server had when the snapshot was taken")

const (
	kdf = "pbkdf2-sha256"
	// iterations are what OWASP asks for: a token of the user's own may be weak.
	iterations = 600_000
	maxRounds  = 100 * iterations
	keySize    = 32
	saltSize   = 16
)

// sealed is how secrets are stored.
type sealed struct {
	KDF        string `json:"kdf"`
	Iterations int    `json:"iterations"`
	Salt       []byte `json:"salt"`
	Nonce      []byte `json:"nonce"`
	Data       []byte `json:"data"` // AES-256-GCM
}

// seal encrypts secrets, and binds them to what they belong to.
func seal(secrets []byte, token, belongsTo string, rounds int) ([]byte, error) {
	s := sealed{KDF: kdf, Iterations: rounds, Salt: make([]byte, saltSize)}
	_, _ = rand.Read(s.Salt) // never fails
	gcm, err := s.cipher(token)
	if err != nil {
		return nil, err
	}
	s.Nonce = make([]byte, gcm.NonceSize())
	_, _ = rand.Read(s.Nonce)
	s.Data = gcm.Seal(nil, s.Nonce, secrets, []byte(belongsTo))
	return json.Marshal(s)
}

// unseal is the reverse of seal.
func unseal(text []byte, token, belongsTo string) ([]byte, error) {
	var s sealed
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%w: its secrets can't be read: %w", errDamaged, err)
	}
	if s.KDF != kdf || s.Iterations < 1 || s.Iterations > maxRounds {
		return nil, fmt.Errorf("%w: its secrets are encrypted in an unknown way", errDamaged)
	}
	gcm, err := s.cipher(token)
	if err != nil {
		return nil, err
	}
	if len(s.Nonce) != gcm.NonceSize() {
		return nil, fmt.Errorf("%w: its secrets can't be read", errDamaged)
	}
	secrets, err := gcm.Open(nil, s.Nonce, s.Data, []byte(belongsTo))
	if err != nil {
		return nil, ErrWrongToken
	}
	return secrets, nil
}

func (s sealed) cipher(token string) (cipher.AEAD, error) {
	key, err := pbkdf2.Key(sha256.New, token, s.Salt, s.Iterations, keySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
