package sysctl

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestSaveAndChanged(t *testing.T) {
	h := Host{Root: t.TempDir()}
	write := func(name, value string) {
		t.Helper()
		path := filepath.Join(h.Root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("vm/panic_on_oom", "1")
	write("net/ipv4/ip_forward", "0")
	write("kernel/panic", "0")
	file := filepath.Join(t.TempDir(), "sysctls.json")
	check := func(when string, want Settings) {
		t.Helper()
		got, err := h.Changed(file)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s, changed is %v (error %v), want %v", when, got, err, want)
		}
	}
	check("with no file", nil)
	if err := h.Save(file); err != nil {
		t.Fatal(err)
	}
	check("at first", Settings{})
	write("net/ipv4/ip_forward", "1")
	write("kernel/panic", "10")
	if err := h.Save(file); err != nil { // a second start
		t.Fatal(err)
	}
	want := Settings{"net/ipv4/ip_forward": "0", "kernel/panic": "0"}
	check("after changes", want)
	for name, value := range want {
		if err := h.Set(name, value); err != nil {
			t.Error(err)
		}
	}
	check("once they are put back", Settings{})
	if err := os.WriteFile(file, []byte(`{"../../etc/passwd": "x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	check("with names that nobody changes", Settings{})
	if err := h.Set("no/such", "1"); err == nil {
		t.Error("a setting that isn't there was set")
	}
}
