package pki

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// Kubeconfig is a client's way into the cluster.
type Kubeconfig struct {
	Server string // URL of the apiserver
	CA     string // file with the bundle that signed the apiserver's certificate
	Client KeyPair
}

// Write puts the kubeconfig at path unless it is there already. It names the
// files of the certificates: clients notice when those are renewed.
func (k Kubeconfig) Write(path string, mode fs.FileMode) error {
	return k.write(path, mode, "", k.CA, k.Client.Cert, k.Client.Key)
}

// WriteEmbedded is Write with the certificates in the kubeconfig itself, so that
// the one file can be copied elsewhere.
func (k Kubeconfig) WriteEmbedded(path string, mode fs.FileMode) error {
	var data [3]string
	for i, file := range []string{k.CA, k.Client.Cert, k.Client.Key} {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		data[i] = base64.StdEncoding.EncodeToString(content)
	}
	return k.write(path, mode, "-data", data[0], data[1], data[2])
}

func (k Kubeconfig) write(path string, mode fs.FileMode, kind, ca, cert, key string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: %q
    certificate-authority%s: %q
users:
- name: default
  user:
    client-certificate%s: %q
    client-key%s: %q
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
preferences: {}
`, k.Server, kind, ca, kind, cert, kind, key)
	_, err := atomicfile.Update(path, []byte(text), mode)
	return err
}

// LinkKubeconfig has the usual place of the administrator's kubeconfig lead to the
// one that the user wants, so that every command on this machine finds it. A link
// that an earlier choice has left goes.
func LinkKubeconfig(usual, wanted string) error {
	if wanted == usual {
		if info, err := os.Lstat(usual); err == nil && info.Mode()&os.ModeSymlink != 0 {
			return os.Remove(usual)
		}
		return nil
	}
	if to, err := os.Readlink(usual); err == nil && to == wanted {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(usual), 0o755); err != nil {
		return err
	}
	next := usual + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(wanted, next); err != nil {
		return err
	}
	return os.Rename(next, usual)
}
