package install

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "lock")
	release, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(path); !errors.Is(err, errUnderWay) {
		t.Errorf("a second upgrade: %v", err)
	}
	release()
	if release, err = lock(path); err != nil {
		t.Fatalf("after the end of the first: %v", err)
	}
	release()
}
