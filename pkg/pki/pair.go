package pki

import (
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// staged is where the next certificate and key wait to take their names.
func (p KeyPair) staged() KeyPair { return KeyPair{Cert: p.Cert + ".new", Key: p.Key + ".new"} }

func (p KeyPair) matches() bool {
	_, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	return err == nil
}

// WritePair puts a certificate chain and its key in place. Both are on disk
// before either takes its name, so that a reader finds one with the other's
// predecessor only for an instant. Readers must take that for an error, keep
// what they have and read again, as client-go and apiserver libraries do.
func WritePair(files KeyPair, chain []byte, key crypto.Signer) error {
	if old, err := loadKey(files.Key); err == nil && samePublicKey(old.Public(), key.Public()) {
		_, err := atomicfile.Update(files.Cert, chain, keyMode)
		return err
	}
	text, err := EncodeKey(key)
	if err != nil {
		return fmt.Errorf("write %s: %w", files.Key, err)
	}
	staged := files.staged()
	if err := atomicfile.Write(staged.Key, text, keyMode); err != nil {
		return err
	}
	if err := atomicfile.Write(staged.Cert, chain, keyMode); err != nil {
		return err
	}
	if err := os.Rename(staged.Cert, files.Cert); err != nil {
		return err
	}
	if err := os.Rename(staged.Key, files.Key); err != nil {
		return err
	}
	return syncDir(filepath.Dir(files.Cert))
}

// Settle ends what a power cut during WritePair has left: certificate and key
// are both the old or both the new ones afterwards.
func Settle(files KeyPair) error {
	staged := files.staged()
	var err error
	switch {
	case KeyPair{Cert: files.Cert, Key: staged.Key}.matches():
		err = os.Rename(staged.Key, files.Key)
	case KeyPair{Cert: staged.Cert, Key: files.Key}.matches():
		err = os.Rename(staged.Cert, files.Cert)
	}
	for _, file := range []string{staged.Cert, staged.Key} {
		if removal := os.Remove(file); err == nil && !errors.Is(removal, fs.ErrNotExist) {
			err = removal
		}
	}
	return err
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Sync()
}
