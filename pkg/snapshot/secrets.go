package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// kept is a file of the server's directory.
type kept struct {
	Path string      `json:"path"` // below the directory, with slashes
	Mode fs.FileMode `json:"mode"`
	Data []byte      `json:"data"`
}

// maxKept is how much of the user's own files a snapshot holds.
const maxKept = 64 << 20

// collect reads what a server can't make anew. The user's files that are too
// much are left out and named.
func collect(serverDir string) (files []kept, tooMuch []string, err error) {
	root, err := os.OpenRoot(serverDir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = root.Close() }()
	size := 0
	err = walkKept(serverDir, func(name string, info fs.FileInfo) error {
		if isUsers(name) && size+int(info.Size()) > maxKept {
			tooMuch = append(tooMuch, name)
			return nil
		}
		data, err := root.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		size += len(data)
		files = append(files, kept{name, info.Mode().Perm(), data})
		return nil
	})
	return files, tooMuch, err
}

// keptSince says whether a file that is kept was written since a time.
func keptSince(serverDir string, since time.Time) (bool, error) {
	written := false
	err := walkKept(serverDir, func(_ string, info fs.FileInfo) error {
		written = written || info.ModTime().After(since)
		return nil
	})
	return written, err
}

// walkKept visits the files that a server can't make anew, by their names below
// its directory.
func walkKept(serverDir string, visit func(name string, info fs.FileInfo) error) error {
	return filepath.WalkDir(serverDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(serverDir, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if entry.IsDir() {
			if top, _, _ := strings.Cut(name, "/"); name != "." && !isKeptDir(top) {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || !isKept(name) {
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // replaced meanwhile
		}
		if err != nil {
			return err
		}
		return visit(name, info)
	})
}

func isKeptDir(top string) bool {
	switch top {
	case "tls", "cred", "manifests", "static":
		return true
	}
	return false
}

// isKept tells what can't be made anew: authorities and the keys of service
// accounts and of encryption, tokens, and what the user has put there.
func isKept(name string) bool {
	dir, base := filepath.Split(name)
	switch {
	case strings.HasPrefix(base, "."), strings.HasSuffix(base, ".new"):
		return false
	case dir == "":
		return base == "token" || base == "agent-token"
	case strings.HasPrefix(name, "tls/"):
		return strings.Contains(base, "-ca.") || strings.HasPrefix(base, "service.")
	case strings.HasPrefix(name, "cred/"):
		return filepath.Ext(base) != ".kubeconfig"
	}
	return isUsers(name)
}

// isUsers tells what the user puts there. It is there once for all: a restore
// leaves a newer one alone.
func isUsers(name string) bool {
	return strings.HasPrefix(name, "manifests/") || strings.HasPrefix(name, "static/")
}

func encode(files []kept) ([]byte, error) { return json.Marshal(files) }

func decode(text []byte) ([]kept, error) {
	var files []kept
	if err := json.Unmarshal(text, &files); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	for _, f := range files {
		if !filepath.IsLocal(f.Path) {
			return nil, fmt.Errorf("%w: it has a file %q", errDamaged, f.Path)
		}
	}
	return files, nil
}

// put writes the files into the server's directory, and moves those that were
// others into aside.
func put(files []kept, serverDir, aside string) error {
	for _, f := range files {
		path := filepath.Join(serverDir, filepath.FromSlash(f.Path))
		old, err := os.ReadFile(path)
		switch {
		case err == nil && (bytes.Equal(old, f.Data) || isUsers(f.Path)):
			continue
		case err == nil:
			if err := keepAside(path, filepath.Join(aside, filepath.FromSlash(f.Path))); err != nil {
				return err
			}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := atomicfile.Write(path, f.Data, f.Mode.Perm()); err != nil {
			return err
		}
	}
	return nil
}

// keepAside gives a file a second name, so that there is one at any time.
func keepAside(path, aside string) error {
	if err := os.MkdirAll(filepath.Dir(aside), 0o700); err != nil {
		return err
	}
	if err := os.Link(path, aside); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep %s aside: %w", path, err)
	}
	return nil
}
