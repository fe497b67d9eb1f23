package upgradeplan

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// result is how an upgrade has ended, for the Kedge that runs then.
type result struct {
	ID    string `json:"id"` // of the assignment
	Error string `json:"error,omitempty"`
}

func resultFile(assignment string) string { return assignment + ".result" }

// CarryOut does the upgrade of an assignment in a file, and leaves beside it how
// that has ended.
func CarryOut(file string, do func(Assignment) error) error {
	a, err := readJSON[Assignment](file)
	if err != nil {
		return err
	}
	r := result{ID: a.ID}
	err = do(a)
	if err != nil {
		r.Error = err.Error()
	}
	return errors.Join(err, writeJSON(resultFile(file), r))
}

// readJSON reads a file that may not be there.
func readJSON[T any](path string) (v T, err error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &v)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return v, err
}

func writeJSON(path string, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = atomicfile.Update(path, content, 0o600)
	return err
}
