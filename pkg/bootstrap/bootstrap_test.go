package bootstrap

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSealAndOpen(t *testing.T) {
	data := Data{"tls/server-ca.key": []byte("a very secret key"), "token": []byte{0, 1, 255}}
	content, err := data.Seal("secret")
	if err != nil {
		t.Fatal(err)
	}
	again, err := data.Seal("secret")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(content, again) {
		t.Error("the same data gives the same text twice")
	}
	if bytes.Contains(content, []byte("server-ca")) || bytes.Contains(content, []byte("secret key")) {
		t.Errorf("the sealed data shows what is in it: %s", content)
	}
	got, err := Open("secret", content)
	if err != nil || !maps.EqualFunc(got, data, bytes.Equal) {
		t.Errorf("opened to %v, error %v", got, err)
	}
	for name, bad := range map[string]struct {
		secret  string
		content []byte
	}{
		"another token": {"Secret", content},
		"no token":      {"", content},
		"no rounds":     {"secret", bytes.Replace(content, []byte(`"rounds":600000`), []byte(`"rounds":0`), 1)},
		"too many":      {"secret", bytes.Replace(content, []byte(`"rounds":600000`), []byte(`"rounds":60000000`), 1)},
		"no nonce":      {"secret", []byte(`{"version":1,"rounds":1}`)},
	} {
		if _, err := Open(bad.secret, bad.content); !errors.Is(err, ErrWrongToken) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if _, err := Open("secret", []byte(`{"version":2}`)); err == nil || !strings.Contains(err.Error(), "form 2") {
		t.Errorf("another form: error is %v", err)
	}
	if _, err := Open("secret", []byte(`x`)); err == nil {
		t.Error("what is no JSON is opened")
	}
}

func TestCollectAndInstall(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(from, "tls"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"token": "t", "tls/ca.key": "k", "other": "o"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"token", "tls/ca.key", "tls/missing"}
	data, err := Collect(from, names)
	if err != nil || len(data) != 2 {
		t.Fatalf("collected %v, error %v", data, err)
	}
	if err := data.Install(to, names); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(to, "tls/ca.key")
	content, err := os.ReadFile(path)
	if err != nil || string(content) != "k" {
		t.Errorf("installed %q, error %v", content, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("installed with %v, error %v", info.Mode(), err)
	}
	if err := (Data{"../outside": nil}).Install(to, names); err == nil {
		t.Error("an unexpected file is written")
	}
}
