package loadbalancer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// state is the file that keeps the learned servers.
type state struct {
	path  string
	saved []string
}

type stateFile struct {
	Servers []string `json:"servers"`
}

// Known returns the servers that a state file keeps; none if there is no file.
func Known(path string) ([]string, error) { return (&state{path: path}).load() }

// load returns the kept servers; none if there is no file.
func (s *state) load() ([]string, error) {
	if s.path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var content stateFile
	if err := json.Unmarshal(data, &content); err != nil {
		return nil, err
	}
	s.saved, err = addresses(content.Servers)
	return s.saved, err
}

// save keeps a sorted list. What is kept already is not written again.
func (s *state) save(list []string) error {
	if s.path == "" || slices.Equal(list, s.saved) {
		return nil
	}
	data, err := json.Marshal(stateFile{Servers: list})
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.path, append(data, '\n'), 0o600); err != nil {
		return err
	}
	s.saved = list
	return nil
}
