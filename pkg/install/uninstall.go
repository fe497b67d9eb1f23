package install

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// StopService returns what stops the installed service; nil: there is none.
func (r Record) StopService() func(context.Context) error {
	s, err := findService(r.Name, r.SystemdDir)
	if err != nil || r.Name == "" {
		return nil
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, stopLimit)
		defer cancel()
		return s.stop(ctx)
	}
}

// Disable has the service never start again.
func (r Record) Disable(ctx context.Context) error {
	s, err := findService(r.Name, r.SystemdDir)
	if err != nil || r.Name == "" {
		return nil //nolint:nilerr // there is none
	}
	ctx, cancel := context.WithTimeout(ctx, commandsLimit)
	defer cancel()
	for _, f := range s.files(Request{}) {
		if _, err := os.Stat(f.path); errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed before
		}
	}
	return s.disable(ctx)
}

// Forget has the service manager notice that the service's files are gone.
func (r Record) Forget(ctx context.Context) error {
	s, err := findService(r.Name, r.SystemdDir)
	if err != nil || r.Name == "" {
		return nil //nolint:nilerr // there is none
	}
	ctx, cancel := context.WithTimeout(ctx, commandsLimit)
	defer cancel()
	if sd, ok := s.(systemd); ok {
		_, _ = run(ctx, "systemctl", "reset-failed", sd.unit())
	}
	return s.reload(ctx)
}

// OwnFiles are the recorded files without those that somebody has put in the place
// of a link.
func (r Record) OwnFiles() []string {
	return slices.DeleteFunc(slices.Clone(r.Files), func(path string) bool {
		return slices.Contains(linked, filepath.Base(path)) && !isLink(path)
	})
}

// ProgramFile is the installed kedge file.
func (r Record) ProgramFile() string { return filepath.Join(r.BinDir, "kedge") }
