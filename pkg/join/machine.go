package join

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// minSecret is the least length of a machine's secret.
const minSecret = 32

// MachineSecret reads the machine's secret from the file, and makes it if it is
// not there yet. It is kept apart from the data directory, so that the machine
// stays itself when that is wiped.
func MachineSecret(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err == nil {
		secret := strings.TrimSpace(string(content))
		if len(secret) < minSecret {
			return "", fmt.Errorf("%s does not hold this machine's secret: put it back from a backup, or remove it and delete the node from the cluster", path)
		}
		return secret, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read this machine's secret: %w", err)
	}
	secret := rand.Text() + rand.Text()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("keep this machine's secret: %w", err)
	}
	return secret, atomicfile.Write(path, []byte(secret+"\n"), 0o600)
}

// HashSecret is what a cluster keeps of a machine's secret. The secret is random
// and long: one round of SHA-256 with a salt gives nothing away.
func HashSecret(secret string) string {
	salt := rand.Text()
	return salt + ":" + hashSecret(salt, secret)
}

// SecretMatches tells in constant time whether hash was made of the secret.
func SecretMatches(hash, secret string) bool {
	salt, sum, _ := strings.Cut(hash, ":")
	return subtle.ConstantTimeCompare([]byte(sum), []byte(hashSecret(salt, secret))) == 1
}

func hashSecret(salt, secret string) string {
	sum := sha256.Sum256([]byte(salt + ":" + secret))
	return hex.EncodeToString(sum[:])
}
