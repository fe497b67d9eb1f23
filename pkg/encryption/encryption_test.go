package encryption

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func load(t *testing.T, f Files) State {
	t.Helper()
	s, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// names are the keys of a state, in their order.
func names(s State) string { return fmt.Sprint(s.Keys) }

func TestEnsure(t *testing.T) {
	f := NewFiles(filepath.Join(t.TempDir(), "cred"))
	if _, err := f.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without a file: %v", err)
	}
	if err := f.Ensure(Secretbox, now); err != nil {
		t.Fatal(err)
	}
	first := load(t, f)
	if !first.Enabled || len(first.Keys) != 1 || first.Keys[0].Provider != Secretbox || first.Stage != Start {
		t.Errorf("a new state is %+v", first)
	}
	for _, file := range []string{f.Config, f.Stage} {
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	if err := f.Ensure(AESCBC, now); err != nil || names(load(t, f)) != names(first) {
		t.Errorf("the second time: %v, %v", err, load(t, f))
	}
	plain := NewFiles(t.TempDir())
	if err := plain.Ensure("", now); err != nil {
		t.Fatal(err)
	}
	if s := load(t, plain); s.Enabled || len(s.Keys) != 0 {
		t.Errorf("without encryption: %+v", s)
	}
}

// TestFile wants the form that the apiserver documents.
func TestFile(t *testing.T) {
	f := NewFiles(t.TempDir())
	if err := f.Ensure(Secretbox, now); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.Config)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Kind, APIVersion string
		Resources        []struct {
			Resources []string
			Providers []map[string]struct {
				Keys []struct{ Name, Secret string }
			}
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if file.Kind != "EncryptionConfiguration" || file.APIVersion != "apiserver.config.k8s.io/v1" || file.Resources[0].Resources[0] != "secrets" {
		t.Errorf("the file is %s", data)
	}
	providers := file.Resources[0].Providers
	if len(providers) != 2 || len(providers[0]["secretbox"].Keys[0].Secret) != 44 {
		t.Errorf("the providers are %s", data)
	}
	if _, plain := providers[1]["identity"]; !plain {
		t.Errorf("what is not encrypted can't be read: %s", data)
	}
}

func TestChanges(t *testing.T) {
	f := NewFiles(t.TempDir())
	if err := f.Ensure("", now); err != nil {
		t.Fatal(err)
	}
	// step makes a change, keeps it, and reads it back.
	step := func(change string, do func(State) (State, error), enabled bool, keys int, stage Stage) State {
		t.Helper()
		next, err := do(load(t, f))
		if err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		if err := f.Save(next); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		s := load(t, f)
		if s.Enabled != enabled || len(s.Keys) != keys || s.Stage != stage || names(s) != names(next) {
			t.Fatalf("after %s: %+v", change, s)
		}
		return s
	}
	finish := func(s State) (State, error) { return s.Finish(), nil }
	refused := func(change string, do func(State) (State, error)) {
		t.Helper()
		if _, err := do(load(t, f)); err == nil {
			t.Errorf("%s is not refused", change)
		}
	}
	enable := func(s State) (State, error) { return s.Enable(Secretbox, now) }
	prepare := func(s State) (State, error) { return s.Prepare(AESCBC, now) }

	refused("disable", State.Disable)
	refused("prepare", prepare)
	refused("rotate", State.Rotate)
	step("enable", enable, true, 1, Rotated)
	refused("enable", enable)
	refused("disable", State.Disable)
	first := step("finish", finish, true, 1, Done)
	refused("enable again", enable)
	prepared := step("prepare", prepare, true, 2, Prepared)
	if prepared.Keys[0].Name != first.Keys[0].Name {
		t.Errorf("a prepared key writes: %v", prepared)
	}
	refused("prepare", prepare)
	rotated := step("rotate", State.Rotate, true, 2, Rotated)
	if rotated.Keys[0].Name != prepared.Keys[1].Name || rotated.Keys[0].Provider != AESCBC {
		t.Errorf("the prepared key does not write: %v", rotated)
	}
	second := step("finish", finish, true, 1, Done)
	if second.Keys[0].secret == first.Keys[0].secret {
		t.Error("the old key is still there")
	}
	step("disable", State.Disable, false, 1, Rotated)
	step("finish", finish, false, 0, Done)
}

// TestPowerCut leaves the files as a power cut between the two does.
func TestPowerCut(t *testing.T) {
	f := NewFiles(t.TempDir())
	if err := f.Ensure(Secretbox, now); err != nil {
		t.Fatal(err)
	}
	state := load(t, f)
	next, err := state.Prepare(Secretbox, now)
	if err != nil {
		t.Fatal(err)
	}
	if next, err = next.Rotate(); err != nil {
		t.Fatal(err)
	}
	next.Stage = Active
	if err := f.Save(next); err != nil {
		t.Fatal(err)
	}
	stage, err := os.ReadFile(f.Stage)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Save(load(t, f).Finish()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Stage, stage, 0o600); err != nil {
		t.Fatal(err)
	}
	if s := load(t, f); !s.Stage.Pending() {
		t.Errorf("what is left to do is forgotten: %+v", s)
	}
}

func TestForeign(t *testing.T) {
	for name, content := range map[string]string{
		"no JSON":         "apiVersion: x",
		"other resources": `{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets","configmaps"],"providers":[{"identity":{}}]}]}`,
		"KMS":             `{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[{"kms":{}}]}]}`,
	} {
		f := NewFiles(t.TempDir())
		if err := os.WriteFile(f.Config, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Load(); !errors.Is(err, errForeign) || !strings.Contains(err.Error(), f.Config) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := NewFiles(t.TempDir())
	if err := os.WriteFile(f.Config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Ensure(Secretbox, now); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("an empty file: %v", err)
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	key := NewKey(Secretbox, now)
	state := State{Enabled: true, Keys: []Key{key}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, value := range []any{key, &key, state, []Key{key}} {
			if text := fmt.Sprintf(verb, value); strings.Contains(text, key.secret) {
				t.Errorf("%s prints the secret: %s", verb, text)
			}
		}
	}
}
