package ingress

import (
	"bytes"
	"crypto/md5"  //nolint:gosec // as htpasswd writes it unless told otherwise
	"crypto/sha1" //nolint:gosec // as htpasswd -s writes it
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
)

// basicAuth checks names and passwords.
type basicAuth struct {
	realm string
	users map[string]string // hashes by name; in htpasswd's forms, or plain: and the password

	// Hashes are slow on purpose: the digest of what was right once is kept.
	known sync.Map
}

// plainPassword marks a password that is stored as it is, as in Secrets of type
// kubernetes.io/basic-auth.
const plainPassword = "plain:"

// newBasicAuth reads a Secret: of type kubernetes.io/basic-auth; or with a file of
// htpasswd in the key auth or users; or else with a hash for each user as key.
func newBasicAuth(secret *corev1.Secret, realm string) (*basicAuth, error) {
	a := &basicAuth{realm: realm, users: make(map[string]string)}
	file, ok := secret.Data["auth"]
	if !ok {
		file, ok = secret.Data["users"]
	}
	switch {
	case secret.Type == corev1.SecretTypeBasicAuth:
		name, password := string(secret.Data[corev1.BasicAuthUsernameKey]), string(secret.Data[corev1.BasicAuthPasswordKey])
		if password == "" {
			return nil, errors.New("it has no password")
		}
		a.users[name] = plainPassword + password
	case ok:
		for i, line := range strings.Split(string(file), "\n") {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			name, hash, found := strings.Cut(line, ":")
			if !found {
				return nil, fmt.Errorf("line %d is not NAME:HASH", i+1)
			}
			a.users[name] = hash
		}
	default:
		for name, hash := range secret.Data {
			a.users[name] = strings.TrimSpace(string(hash))
		}
	}
	for name, hash := range a.users {
		if !knownHash(hash) {
			return nil, fmt.Errorf("the hash of user %q is of no form that is understood; make it with htpasswd -B", name)
		}
	}
	if len(a.users) == 0 {
		return nil, errors.New("it has no users")
	}
	return a, nil
}

func knownHash(hash string) bool {
	for _, form := range []string{plainPassword, "$2a$", "$2b$", "$2y$", "$apr1$", "{SHA}"} {
		if strings.HasPrefix(hash, form) {
			return true
		}
	}
	return false
}

// permits says whether a request has the name and password of a user.
func (a *basicAuth) permits(r *http.Request) bool {
	name, password, ok := r.BasicAuth()
	if !ok {
		return false
	}
	hash, ok := a.users[name]
	if !ok {
		return false
	}
	digest := sha256.Sum256([]byte(name + "\x00" + password))
	if _, ok := a.known.Load(digest); ok {
		return true
	}
	if !samePassword(hash, password) {
		return false
	}
	a.known.Store(digest, true)
	return true
}

func samePassword(hash, password string) bool {
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	switch {
	case strings.HasPrefix(hash, plainPassword):
		return same(hash[len(plainPassword):], password)
	case strings.HasPrefix(hash, "{SHA}"):
		sum := sha1.Sum([]byte(password)) //nolint:gosec // see above
		return same(hash[len("{SHA}"):], base64.StdEncoding.EncodeToString(sum[:]))
	case strings.HasPrefix(hash, "$apr1$"):
		salt, _, _ := strings.Cut(hash[len("$apr1$"):], "$")
		return same(hash, apr1(password, salt))
	default:
		return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
	}
}

// apr1 is Apache's variant of the MD5 password hash.
func apr1(password, salt string) string {
	pw := []byte(password)
	salt = salt[:min(len(salt), 8)]
	inner := md5.Sum([]byte(password + salt + password)) //nolint:gosec // see above

	var first bytes.Buffer
	first.WriteString(password + "$apr1$" + salt)
	for left := len(pw); left > 0; left -= md5.Size {
		first.Write(inner[:min(left, md5.Size)])
	}
	for n := len(pw); n > 0; n >>= 1 {
		if n&1 == 1 {
			first.WriteByte(0)
		} else {
			first.WriteByte(pw[0])
		}
	}
	sum := md5.Sum(first.Bytes()) //nolint:gosec // see above
	for i := range 1000 {
		var round bytes.Buffer
		if i%2 == 1 {
			round.Write(pw)
		} else {
			round.Write(sum[:])
		}
		if i%3 != 0 {
			round.WriteString(salt)
		}
		if i%7 != 0 {
			round.Write(pw)
		}
		if i%2 == 1 {
			round.Write(sum[:])
		} else {
			round.Write(pw)
		}
		sum = md5.Sum(round.Bytes()) //nolint:gosec // see above
	}

	const digits = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var out strings.Builder
	out.WriteString("$apr1$" + salt + "$")
	write := func(a, b, c byte, n int) {
		for v := uint(a)<<16 | uint(b)<<8 | uint(c); n > 0; n-- {
			out.WriteByte(digits[v&0x3f])
			v >>= 6
		}
	}
	for _, i := range []int{0, 1, 2, 3} {
		write(sum[i], sum[i+6], sum[i+12], 4)
	}
	write(sum[4], sum[10], sum[5], 4)
	write(0, 0, sum[11], 2)
	return out.String()
}
