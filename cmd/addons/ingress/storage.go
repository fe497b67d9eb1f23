package ingress

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/retry"
)

// acmeSecret holds the account at the ACME server, certificates and their keys.
const acmeSecret = "ingress-acme"

// secretStorage keeps certmagic's files in one Secret, so that a role can name it.
// Its megabyte is enough for some 150 certificates.
type secretStorage struct {
	secrets typedcorev1.SecretInterface
	copied  func() *corev1.Secret // as an informer knows it; nil: none does
	locks   sync.Map              // name → chan struct{} of one place; one pod does all the work
}

// fromCopy in a context has files read from the informer's copy.
type fromCopy struct{}

// copyLimit is how long the copy is waited for: who makes a challenge has stored it
// just before somebody asks.
const (
	copyLimit    = time.Second
	copyInterval = 50 * time.Millisecond
)

// storedFile is the value of a key of the Secret; the key is a digest of the path,
// in which not all characters could stand.
type storedFile struct {
	Path     string    `json:"path"`
	Modified time.Time `json:"modified"`
	Content  []byte    `json:"content"`
}

func storageKey(path string) string {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:])
}

// storedFiles reads the Secret's files by path.
func storedFiles(secret *corev1.Secret) map[string][]byte {
	files := make(map[string][]byte)
	if secret == nil {
		return files
	}
	for _, raw := range secret.Data {
		var file storedFile
		if json.Unmarshal(raw, &file) == nil {
			files[file.Path] = file.Content
		}
	}
	return files
}

func (s *secretStorage) get(ctx context.Context) (*corev1.Secret, error) {
	secret, err := s.secrets.Get(ctx, acmeSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fs.ErrNotExist
	}
	return secret, err
}

// change updates the Secret, which is made if it isn't there.
func (s *secretStorage) change(ctx context.Context, change func(data map[string][]byte)) error {
	return retry.OnError(retry.DefaultBackoff, func(err error) bool {
		return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)
	}, func() error {
		secret, err := s.secrets.Get(ctx, acmeSecret, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			made := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: acmeSecret}, Data: map[string][]byte{}}
			change(made.Data)
			_, err = s.secrets.Create(ctx, made, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
		if secret.Data == nil {
			secret.Data = make(map[string][]byte)
		}
		before := maps.Clone(secret.Data)
		change(secret.Data)
		if maps.EqualFunc(before, secret.Data, slices.Equal[[]byte]) {
			return nil
		}
		_, err = s.secrets.Update(ctx, secret, metav1.UpdateOptions{})
		return err
	})
}

func (s *secretStorage) Store(ctx context.Context, path string, content []byte) error {
	value, err := json.Marshal(storedFile{path, time.Now().UTC().Truncate(time.Second), content})
	if err != nil {
		return err
	}
	if err := s.change(ctx, func(data map[string][]byte) { data[storageKey(path)] = value }); err != nil {
		return fmt.Errorf("store %s in the Secret %s: %w", path, acmeSecret, err)
	}
	return nil
}

// read gives the file at a path.
func (s *secretStorage) read(ctx context.Context, path string) (*storedFile, error) {
	secret, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	return fileIn(secret, path)
}

// readCopy does so without a request to the cluster.
func (s *secretStorage) readCopy(ctx context.Context, path string) (*storedFile, error) {
	limited, cancel := context.WithTimeout(ctx, copyLimit)
	defer cancel()
	for s.copied != nil {
		if secret := s.copied(); secret != nil {
			if file, err := fileIn(secret, path); !errors.Is(err, fs.ErrNotExist) {
				return file, err
			}
		}
		select {
		case <-time.After(copyInterval):
		case <-limited.Done():
			return nil, fs.ErrNotExist
		}
	}
	return nil, fs.ErrNotExist
}

func fileIn(secret *corev1.Secret, path string) (*storedFile, error) {
	raw, ok := secret.Data[storageKey(path)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	var file storedFile
	return &file, json.Unmarshal(raw, &file)
}

func (s *secretStorage) Load(ctx context.Context, path string) ([]byte, error) {
	read := s.read
	if ctx.Value(fromCopy{}) != nil {
		read = s.readCopy
	}
	file, err := read(ctx, path)
	if err != nil {
		return nil, err
	}
	return file.Content, nil
}

func (s *secretStorage) Delete(ctx context.Context, path string) error {
	return s.change(ctx, func(data map[string][]byte) {
		for key, raw := range data {
			var file storedFile
			if json.Unmarshal(raw, &file) == nil && (file.Path == path || strings.HasPrefix(file.Path, path+"/")) {
				delete(data, key)
			}
		}
	})
}

func (s *secretStorage) Exists(ctx context.Context, path string) bool {
	_, err := s.Stat(ctx, path)
	return err == nil
}

func (s *secretStorage) List(ctx context.Context, directory string, recursive bool) ([]string, error) {
	secret, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	for _, file := range sortedKeys(storedFiles(secret)) {
		rest, ok := strings.CutPrefix(file, strings.TrimSuffix(directory, "/")+"/")
		if directory == "" {
			rest, ok = file, true
		}
		if !ok {
			continue
		}
		parts := strings.Split(rest, "/")
		if !recursive {
			parts = parts[:1]
		}
		for i := range parts {
			found[path.Join(directory, path.Join(parts[:i+1]...))] = true
		}
	}
	if len(found) == 0 {
		return nil, fs.ErrNotExist
	}
	return sortedKeys(found), nil
}

func (s *secretStorage) Stat(ctx context.Context, path string) (certmagic.KeyInfo, error) {
	file, err := s.read(ctx, path)
	if err == nil {
		return certmagic.KeyInfo{Key: path, Modified: file.Modified, Size: int64(len(file.Content)), IsTerminal: true}, nil
	}
	if _, listed := s.List(ctx, path, false); listed == nil {
		return certmagic.KeyInfo{Key: path}, nil
	}
	return certmagic.KeyInfo{}, err
}

func (s *secretStorage) Lock(ctx context.Context, name string) error {
	place, _ := s.locks.LoadOrStore(name, make(chan struct{}, 1))
	select {
	case place.(chan struct{}) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *secretStorage) Unlock(_ context.Context, name string) error {
	place, ok := s.locks.Load(name)
	if !ok {
		return fmt.Errorf("%s is not locked", name)
	}
	select {
	case <-place.(chan struct{}):
		return nil
	default:
		return fmt.Errorf("%s is not locked", name)
	}
}

func init() {
	caddy.RegisterModule(NoStorage{})
}

// NoStorage is the Caddy module that keeps Caddy from writing files: it manages no
// certificates itself.
type NoStorage struct{}

// CaddyModule says how Caddy makes the module.
func (NoStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.kedge_none", New: func() caddy.Module { return new(NoStorage) }}
}

// CertMagicStorage gives Caddy the storage.
func (n *NoStorage) CertMagicStorage() (certmagic.Storage, error) { return n, nil }

func (*NoStorage) Lock(context.Context, string) error          { return nil }
func (*NoStorage) Unlock(context.Context, string) error        { return nil }
func (*NoStorage) Store(context.Context, string, []byte) error { return nil }
func (*NoStorage) Delete(context.Context, string) error        { return nil }
func (*NoStorage) Exists(context.Context, string) bool         { return false }

func (*NoStorage) Load(context.Context, string) ([]byte, error) { return nil, fs.ErrNotExist }

func (*NoStorage) List(context.Context, string, bool) ([]string, error) {
	return nil, fs.ErrNotExist
}

func (*NoStorage) Stat(context.Context, string) (certmagic.KeyInfo, error) {
	return certmagic.KeyInfo{}, fs.ErrNotExist
}
