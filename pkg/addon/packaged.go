package addon

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// mark begins the first line of packaged manifests. A file without it is the
// user's, whatever its name.
const mark = "# Packaged with Kedge"

const firstLine = mark + ": changes here are overwritten at the next start.\n"

// packaged are the manifests that come with Kedge.
type packaged struct {
	files    map[string][]byte // by path below the directory of manifests
	disabled map[string]bool   // paths of those that are not deployed
}

// render fills the variables in.
func render(source fs.FS, disabled []string, variables map[string]string) (*packaged, error) {
	p := &packaged{files: map[string][]byte{}, disabled: map[string]bool{}}
	err := fs.WalkDir(source, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !isManifest(name) {
			return err
		}
		raw, err := fs.ReadFile(source, name)
		if err != nil {
			return err
		}
		text, err := expand(raw, variables)
		if err != nil {
			return fmt.Errorf("packaged manifest %s: %w", name, err)
		}
		if !bytes.HasPrefix(text, []byte(mark)) && path.Ext(name) != ".json" {
			text = append([]byte(firstLine), text...)
		}
		p.files[name] = text
		if slices.Contains(disabled, packagedName(name)) {
			p.disabled[name] = true
		}
		return nil
	})
	return p, err
}

// packagedName is the name by which a packaged file is disabled: its own, or that
// of the folder it is in.
func packagedName(file string) string {
	first, _, _ := strings.Cut(file, "/")
	return strings.TrimSuffix(first, path.Ext(first))
}

var variable = regexp.MustCompile(`\$\{([A-Z][A-Z0-9_]*)\}`)

// expand replaces ${NAME}. Nothing else that begins with $ has a meaning.
func expand(text []byte, variables map[string]string) ([]byte, error) {
	var err error
	text = variable.ReplaceAllFunc(text, func(match []byte) []byte {
		value, ok := variables[string(match[2:len(match)-1])]
		if !ok {
			err = errors.Join(err, fmt.Errorf("unknown variable %s", match))
		}
		return []byte(value)
	})
	return text, err
}

// write puts the files that are deployed into the directory, unless the user
// keeps them out.
func (p *packaged) write(dir string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, text := range p.files {
		file := filepath.Join(dir, name)
		if p.disabled[name] || isSkipped(file) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := p.backUp(name, file, log); err != nil {
			return err
		}
		if _, err := atomicfile.Update(file, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// backUp moves a file of the user's out of the way of a packaged one.
func (p *packaged) backUp(name, file string, log *slog.Logger) error {
	there, err := os.ReadFile(file)
	if err != nil || p.owns(name, there) || bytes.Equal(there, p.files[name]) {
		return ignoreNotExist(err)
	}
	log.Warn("a manifest has the name of one that comes with Kedge; it is kept under another name, and not deployed",
		"file", file, "kept", file+".bak")
	return os.Rename(file, file+".bak")
}

// owns reports whether a file with this path and content is Kedge's own.
func (p *packaged) owns(name string, content []byte) bool {
	_, known := p.files[name]
	return known && bytes.HasPrefix(content, []byte(mark))
}

// leavesAlone reports whether there is a file of the user's with a packaged name.
func (p *packaged) leavesAlone(name, file string) bool {
	content, err := os.ReadFile(file)
	return err == nil && !p.owns(name, content)
}

// remove removes Kedge's own file.
func (*packaged) remove(file string) error {
	content, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(content, []byte(mark)) {
		return ignoreNotExist(err)
	}
	return os.Remove(file)
}

// enabled are the paths of the files that write has written, in order.
func (p *packaged) enabled(dir string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(p.files)), func(name string) bool {
		return p.disabled[name] || isSkipped(filepath.Join(dir, name))
	})
}

// isSkipped reports whether the user keeps a file out with one that has the same
// name and .skip after it.
func isSkipped(file string) bool {
	_, err := os.Lstat(file + ".skip")
	return err == nil
}

func isManifest(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(path.Base(name), ".")
	}
	return false
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
