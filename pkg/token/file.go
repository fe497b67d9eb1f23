package token

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

const maxFile = 4096

// errPath takes the place of errors that would name the path.
var errPath = errors.New("read token: what is given as the path of a token file is itself a token")

// ReadFile reads the token in a file. warning says what the caller should tell
// the user about the file, if it is not empty.
func ReadFile(path string) (t Token, warning string, err error) {
	if t, err := Parse(path); err == nil && (t.CAHash != "" || t.User != "" || t.BootstrapID != "") {
		return Token{}, "", errPath
	}
	f, err := os.Open(path)
	if err != nil {
		return Token{}, "", fmt.Errorf("read token: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return Token{}, "", fmt.Errorf("read token: %w", err)
	}
	if info.IsDir() {
		return Token{}, "", fmt.Errorf("read token: %s is a directory", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Token{}, "", fmt.Errorf("read token: %w", err)
	}
	text := strings.TrimSpace(string(data))
	switch {
	case len(data) > maxFile:
		return Token{}, "", fmt.Errorf("read token: %s is larger than %d bytes, it holds something else", path, maxFile)
	case text == "":
		return Token{}, "", fmt.Errorf("read token: %s is empty", path)
	case strings.ContainsAny(text, "\r\n"):
		return Token{}, "", fmt.Errorf("read token: %s has more than one line, it must hold the token alone", path)
	}
	if t, err = Parse(text); err != nil {
		return Token{}, "", fmt.Errorf("read token from %s: %w", path, err)
	}
	if mode := info.Mode().Perm(); mode&0o006 != 0 {
		warning = fmt.Sprintf("the token file %s is open to every user of this machine (mode %04o); run: chmod 600 %[1]s", path, mode)
	}
	return t, warning, nil
}

// WriteFile puts the full token into a file that only its owner can read. A
// file that already is so stays untouched.
func WriteFile(path string, t Token) error {
	if t.secret == nil {
		return fmt.Errorf("write token to %s: %w", path, errEmpty)
	}
	_, err := atomicfile.Update(path, []byte(t.Reveal()+"\n"), 0o600)
	return err
}
