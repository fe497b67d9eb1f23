// Package encryption keeps the keys that Secrets are encrypted with in the
// datastore: the apiserver's own EncryptionConfiguration file, and beside it how
// far a change of keys has come.
// https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/
package encryption

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// Provider is the cipher of a key, as the apiserver names it.
type Provider string

// The providers that keys can be made for. Others are read, and written back.
const (
	// Secretbox is XSalsa20 and Poly1305. Its nonces of 192 bits may be random for
	// any number of writes, and it is fast on machines without AES instructions.
	Secretbox Provider = "secretbox"
	// AESCBC is AES-256 in CBC mode, which does not authenticate what it encrypts:
	// for clusters in which only FIPS 140's algorithms are allowed.
	AESCBC Provider = "aescbc"

	aesgcm   Provider = "aesgcm"
	identity Provider = "identity" // no encryption
)

// Providers are those that keys can be made for, the default first.
func Providers() []string { return []string{string(Secretbox), string(AESCBC)} }

const keySize = 32 // bytes, for each of the providers

// Key is a key with its name.
type Key struct {
	Provider Provider
	Name     string
	secret   string // base64
}

// Stage says how far a change of keys has come. The names are those of k3s.
type Stage string

// The stages, in their order. Done and Start both have nothing left to do.
const (
	Start    Stage = "start"
	Prepared Stage = "prepare" // a new key is known, and nothing is written with it
	Rotated  Stage = "rotate"  // new writes use the new key
	Active   Stage = "reencrypt_active"
	Done     Stage = "reencrypt_finished"
)

// Pending says whether there may be Secrets that are not written as the first
// provider writes them.
func (s Stage) Pending() bool { return s == Rotated || s == Active }

// State is which keys there are and what is done with them.
type State struct {
	// Enabled says whether new writes are encrypted.
	Enabled bool
	// Keys are tried one after the other to read; the first of an Enabled state
	// writes.
	Keys  []Key
	Stage Stage
}

// Files are where the state is kept.
type Files struct {
	Config string // EncryptionConfiguration, as the apiserver reads it
	Stage  string
}

// NewFiles are the files in a directory, named as k3s names them.
func NewFiles(dir string) Files {
	return Files{Config: filepath.Join(dir, "encryption-config.json"), Stage: filepath.Join(dir, "encryption-state.json")}
}

// NewKey makes a key that can't be guessed.
func NewKey(p Provider, now time.Time) Key {
	var b [keySize]byte
	_, _ = rand.Read(b[:]) // never fails
	return Key{Provider: p, Name: string(p) + "key-" + now.UTC().Format("20060102-150405.000"), secret: base64.StdEncoding.EncodeToString(b[:])}
}

// String is the key without its secret.
func (k Key) String() string { return k.Name }

// GoString is String.
func (k Key) GoString() string { return k.Name }

// The form of the file.
// https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/
type (
	configFile struct {
		Kind       string           `json:"kind"`
		APIVersion string           `json:"apiVersion"`
		Resources  []resourceConfig `json:"resources"`
	}
	resourceConfig struct {
		Resources []string         `json:"resources"`
		Providers []providerConfig `json:"providers"`
	}
	providerConfig map[Provider]keysConfig
	keysConfig     struct {
		Keys []keyConfig `json:"keys,omitempty"`
	}
	keyConfig struct {
		Name   string `json:"name"`
		Secret string `json:"secret"` //nolint:gosec // the file is for keys
	}
	stageFile struct {
		Stage Stage `json:"stage"`
		// Hash is of the configuration that the stage is about.
		Hash string `json:"hash"`
	}
)

const (
	kind       = "EncryptionConfiguration"
	apiVersion = "apiserver.config.k8s.io/v1"
	resource   = "secrets"
)

var errForeign = errors.New("it was changed by hand to a form that Kedge's commands do not know: secrets with secretbox, aescbc, aesgcm and identity alone; change its keys by hand too")

// Load reads the state. Its error is fs.ErrNotExist when there is none.
func (f Files) Load() (State, error) {
	data, err := os.ReadFile(f.Config)
	if err != nil {
		return State{}, err
	}
	state, err := decode(data)
	if err != nil {
		return State{}, fmt.Errorf("%s: %w", f.Config, err)
	}
	state.Stage = Start
	text, err := os.ReadFile(f.Stage)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return State{}, err
	}
	var stage stageFile
	if err := json.Unmarshal(text, &stage); err != nil {
		return State{}, fmt.Errorf("%s: %w", f.Stage, err)
	}
	state.Stage = stage.Stage
	if stage.Hash != hash(data) && !stage.Stage.Pending() {
		// The power went between the two files, before anything was written with
		// other keys; or somebody else wrote the configuration.
		state.Stage = Start
		if len(state.Keys) > 1 || !state.Enabled && len(state.Keys) > 0 {
			state.Stage = Rotated
		}
	}
	return state, nil
}

func decode(data []byte) (State, error) {
	var file configFile
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return State{}, fmt.Errorf("it can't be read (%w): %w", err, errForeign)
	}
	if file.Kind != kind || len(file.Resources) != 1 || !slices.Equal(file.Resources[0].Resources, []string{resource}) {
		return State{}, errForeign
	}
	var state State
	plain := -1
	for i, provider := range file.Resources[0].Providers {
		if len(provider) != 1 {
			return State{}, errForeign
		}
		for name, keys := range provider {
			switch name {
			case identity:
				plain = i
			case Secretbox, AESCBC, aesgcm:
				for _, key := range keys.Keys {
					state.Keys = append(state.Keys, Key{Provider: name, Name: key.Name, secret: key.Secret})
				}
			default:
				return State{}, errForeign
			}
		}
	}
	state.Enabled = len(state.Keys) > 0 && plain != 0
	return state, nil
}

// encode writes one provider for each run of keys of one kind. What is not
// encrypted can always be read.
func encode(s State) ([]byte, error) {
	var providers []providerConfig
	var last Provider
	for _, key := range s.Keys {
		item := keyConfig{Name: key.Name, Secret: key.secret}
		if key.Provider == last {
			providers[len(providers)-1] = providerConfig{last: {Keys: append(providers[len(providers)-1][last].Keys, item)}}
			continue
		}
		last = key.Provider
		providers = append(providers, providerConfig{last: {Keys: []keyConfig{item}}})
	}
	plain := providerConfig{identity: {}}
	if s.Enabled {
		providers = append(providers, plain)
	} else {
		providers = append([]providerConfig{plain}, providers...)
	}
	return json.MarshalIndent(configFile{
		Kind: kind, APIVersion: apiVersion,
		Resources: []resourceConfig{{Resources: []string{resource}, Providers: providers}},
	}, "", "  ")
}

// Save writes the state. A pending stage is on disk before the keys it is about,
// one that is not only after them, so that a power cut never hides what is left
// to do.
func (f Files) Save(s State) error {
	config, err := encode(s)
	if err != nil {
		return err
	}
	stage, err := json.Marshal(stageFile{Stage: s.Stage, Hash: hash(config)})
	if err != nil {
		return err
	}
	writeStage := func() error {
		_, err := atomicfile.Update(f.Stage, stage, 0o600)
		return err
	}
	if s.Stage.Pending() {
		if err := writeStage(); err != nil {
			return err
		}
	}
	if _, err := atomicfile.Update(f.Config, config, 0o600); err != nil {
		return err
	}
	return writeStage()
}

// Ensure makes the files if there are none: with a key of the provider, or, for an
// empty provider, without encryption.
func (f Files) Ensure(p Provider, now time.Time) error {
	if _, err := os.Stat(f.Config); err == nil {
		return f.check()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.Config), 0o700); err != nil {
		return err
	}
	state := State{Stage: Start}
	if p != "" {
		state.Enabled, state.Keys = true, []Key{NewKey(p, now)}
	}
	return f.Save(state)
}

// check refuses a file that the apiserver can't read at all; what its forms are is
// the apiserver's to say.
func (f Files) check() error {
	data, err := os.ReadFile(f.Config)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return fmt.Errorf("%s is empty: put a backup of it in its place; without its keys, Secrets in the datastore can't be read", f.Config)
	}
	if err := os.Chmod(f.Config, 0o600); err != nil {
		return err
	}
	return nil
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// The changes of a state. Each returns the next one, or why there is none.

// ErrPending says that Secrets must be written again first.
var ErrPending = errors.New("an earlier change of keys has not been finished: run kedge secrets-encrypt reencrypt first")

// Enable begins to encrypt, with a key of the provider.
func (s State) Enable(p Provider, now time.Time) (State, error) {
	switch {
	case s.Stage.Pending() || s.Stage == Prepared:
		return s, ErrPending
	case s.Enabled:
		return s, errors.New("secrets encryption is enabled already")
	}
	return State{Enabled: true, Keys: append([]Key{NewKey(p, now)}, s.Keys...), Stage: Rotated}, nil
}

// Disable begins to write without encryption.
func (s State) Disable() (State, error) {
	switch {
	case s.Stage.Pending() || s.Stage == Prepared:
		return s, ErrPending
	case !s.Enabled:
		return s, errDisabled
	}
	return State{Keys: s.Keys, Stage: Rotated}, nil
}

var errDisabled = errors.New("secrets encryption is disabled: run kedge secrets-encrypt enable first")

// Prepare adds a new key that only reads.
func (s State) Prepare(p Provider, now time.Time) (State, error) {
	switch {
	case s.Stage.Pending() || s.Stage == Prepared:
		return s, ErrPending
	case !s.Enabled:
		return s, errDisabled
	}
	return State{Enabled: true, Keys: append(slices.Clone(s.Keys), NewKey(p, now)), Stage: Prepared}, nil
}

// Rotate makes the key that Prepare added the one that writes.
func (s State) Rotate() (State, error) {
	if s.Stage != Prepared || len(s.Keys) < 2 {
		return s, errors.New("there is no new key: run kedge secrets-encrypt prepare first, or rotate-keys for all of it")
	}
	last := len(s.Keys) - 1
	return State{Enabled: true, Keys: append([]Key{s.Keys[last]}, s.Keys[:last]...), Stage: Rotated}, nil
}

// Finish drops the keys that nothing is written with any more, once every Secret
// has been written again.
func (s State) Finish() State {
	s.Stage = Done
	if s.Enabled {
		s.Keys = s.Keys[:1]
	} else {
		s.Keys = nil
	}
	return s
}
