package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/config"
)

// Record is what an installation has done, for those after it.
type Record struct {
	Name       string   `json:"name"` // of the service
	Role       string   `json:"role"`
	BinDir     string   `json:"binDir"`
	SystemdDir string   `json:"systemdDir"`
	DataDir    string   `json:"dataDir"`
	Files      []string `json:"files"` // all that were made outside of Kedge's own directories
	// What the service was started with last: hashes of its configuration and of
	// the program.
	Applied string `json:"applied"`
	Program string `json:"program"`
	// Where it was told to take releases from; see Source.
	Mirror  string `json:"mirror,omitempty"`
	Channel string `json:"channel,omitempty"`
}

var recordFile = config.InstallFile(config.DefaultConfigFile)

// ReadRecord returns the record of this machine, and whether there is one.
func ReadRecord() (Record, bool, error) {
	var r Record
	content, err := os.ReadFile(recordFile)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return r, false, fmt.Errorf("%s: %w", recordFile, err)
	}
	return r, true, nil
}

func (r Record) write() error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(recordFile), 0o755); err != nil {
		return err
	}
	_, err = atomicfile.Update(recordFile, append(content, '\n'), 0o600)
	return err
}
