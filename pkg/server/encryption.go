package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/kedge-k8s/kedge/pkg/component"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/controlplane"
	"github.com/kedge-k8s/kedge/pkg/datastore"
	"github.com/kedge-k8s/kedge/pkg/encryption"
)

func (s *Server) encryptionFiles() encryption.Files {
	return encryption.NewFiles(s.config.Paths.Cred())
}

// ensureEncryption makes the keys of Secrets before a new cluster has any. A
// cluster that has been there without keys stays as it is.
func (s *Server) ensureEncryption() error {
	provider := encryption.Provider("")
	if s.config.Security.EncryptSecrets && s.newCluster() {
		provider = encryption.Provider(s.config.Security.EncryptionProvider)
	}
	if err := s.encryptionFiles().Ensure(provider, time.Now()); err != nil {
		return fmt.Errorf("the keys of Secrets: %w", err)
	}
	return nil
}

// newCluster says whether nothing has been kept here yet, nor by other servers.
func (s *Server) newCluster() bool {
	if s.peers != nil || datastore.UsesEtcd(s.config.Paths) {
		return false
	}
	info, err := os.Stat(filepath.Join(s.config.Paths.DB(), "state.db"))
	return errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0
}

// secretsEncryption changes the keys of Secrets while the server runs, as a
// component.
type secretsEncryption struct {
	files     encryption.Files
	provider  encryption.Provider // of new keys
	apiserver *controlplane.APIServer
	others    func() int // how many other servers there are; nil: there can't be any
	log       *slog.Logger
	run       component.Runner
	begin     chan struct{} // holds a token when Secrets are to be written again

	mu      sync.Mutex // one at a time changes the state
	running bool
	done    int
	total   int
	failure string
}

func newSecretsEncryption(files encryption.Files, provider string, apiserver *controlplane.APIServer, log *slog.Logger) *secretsEncryption {
	return &secretsEncryption{
		files: files, provider: encryption.Provider(provider), apiserver: apiserver, log: log,
		begin: make(chan struct{}, 1),
	}
}

func (*secretsEncryption) Name() string                     { return "secrets-encryption" }
func (*secretsEncryption) Needs() []string                  { return []string{"apiserver"} }
func (e *secretsEncryption) Stop(ctx context.Context) error { return e.run.Stop(ctx) }
func (e *secretsEncryption) Failed() <-chan error           { return e.run.Failed() }

// Start goes on with what the end of an earlier process has interrupted.
func (e *secretsEncryption) Start(context.Context) error {
	if state, err := e.files.Load(); err == nil && state.Stage == encryption.Active {
		e.mu.Lock()
		e.rewriteSoon()
		e.mu.Unlock()
	}
	e.run.Run(func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-e.begin:
			}
			err := e.rewrite(ctx)
			e.mu.Lock()
			e.running, e.failure = false, ""
			if err != nil && ctx.Err() == nil {
				e.failure = err.Error()
				e.log.Error("Secrets could not all be written again with the new key; the old keys are kept: run kedge secrets-encrypt reencrypt", "component", e.Name(), "err", err)
			}
			e.mu.Unlock()
		}
	})
	return nil
}

// rewriteSoon has the component write all Secrets again. The caller holds mu.
func (e *secretsEncryption) rewriteSoon() {
	e.running, e.done, e.total, e.failure = true, 0, 0, ""
	e.begin <- struct{}{}
}

// rewrite writes all Secrets with the first provider of the configuration, and
// drops the keys that are not needed any more.
func (e *secretsEncryption) rewrite(ctx context.Context) error {
	began := time.Now()
	err := e.apiserver.RewriteSecrets(ctx, func(done, total int) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.done, e.total = done, total
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	state, err := e.files.Load()
	if err != nil {
		return err
	}
	if err := e.put(state.Finish()); err != nil {
		return err
	}
	e.log.Info("all Secrets are written with the key of now", "component", e.Name(), "secrets", e.done, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// put keeps a state and has the apiserver use it.
func (e *secretsEncryption) put(s encryption.State) error {
	if err := e.files.Save(s); err != nil {
		return fmt.Errorf("keep the keys of Secrets: %w", err)
	}
	return e.apiserver.ReloadKeys()
}

// change begins a change of keys. It returns before Secrets are written again.
func (e *secretsEncryption) change(_ context.Context, ask control.Encrypt) (control.Encryption, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.apiserver.OwnsKeys() {
		return control.Encryption{}, controlplane.ErrOwnEncryption
	}
	if e.others != nil && e.others() > 0 {
		return control.Encryption{}, fmt.Errorf("the cluster has %d other servers, which could not read Secrets written with a new key: keys are changed only while a server is alone", e.others())
	}
	if e.running {
		return control.Encryption{}, errors.New("Secrets are being written again just now: wait, and look with kedge secrets-encrypt status") //nolint:staticcheck // the kind
	}
	state, err := e.files.Load()
	if err != nil {
		return control.Encryption{}, err
	}
	rewrite := true
	switch now := time.Now(); ask.Change {
	case "enable":
		state, err = state.Enable(e.provider, now)
	case "disable":
		state, err = state.Disable()
	case "prepare":
		state, err = state.Prepare(e.provider, now)
		rewrite = false
	case "rotate":
		state, err = state.Rotate()
		rewrite = false
	case "rotate-keys":
		if state, err = state.Prepare(e.provider, now); err == nil {
			state, err = state.Rotate()
		}
	case "reencrypt":
		if state.Stage == encryption.Prepared {
			err = errors.New("the new key is not in use yet: run kedge secrets-encrypt rotate first")
		}
	default:
		err = fmt.Errorf("there is no change %q", ask.Change)
	}
	if err != nil {
		return control.Encryption{}, err
	}
	if rewrite {
		state.Stage = encryption.Active
	}
	if err := e.put(state); err != nil {
		return control.Encryption{}, err
	}
	e.log.Info("the keys of Secrets have changed", "component", e.Name(), "change", ask.Change, "keys", state.Keys)
	if rewrite {
		e.rewriteSoon()
	}
	return e.describe(state), nil
}

// status says how Secrets are encrypted.
func (e *secretsEncryption) status(context.Context, control.None) (control.Encryption, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.apiserver.OwnsKeys() {
		return control.Encryption{}, controlplane.ErrOwnEncryption
	}
	state, err := e.files.Load()
	if err != nil {
		return control.Encryption{}, err
	}
	return e.describe(state), nil
}

func (e *secretsEncryption) describe(s encryption.State) control.Encryption {
	out := control.Encryption{
		Enabled: s.Enabled, Stage: string(s.Stage), Keys: []control.EncryptionKey{},
		Running: e.running, Done: e.done, Total: e.total, Error: e.failure,
	}
	for i, key := range s.Keys {
		out.Keys = append(out.Keys, control.EncryptionKey{Name: key.Name, Type: string(key.Provider), Active: s.Enabled && i == 0})
	}
	return out
}
