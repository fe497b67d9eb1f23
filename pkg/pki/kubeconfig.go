package pki

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
)

// Kubeconfig is a client's way into the cluster, with everything embedded so
// that the one file can be copied elsewhere.
type Kubeconfig struct {
	Server string // URL of the apiserver
	CA     []byte // PEM bundle that signed the apiserver's certificate
	Client KeyPair
}

// Write puts the kubeconfig at path unless it is there already.
func (k Kubeconfig) Write(path string, mode fs.FileMode) error {
	cert, err := os.ReadFile(k.Client.Cert)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(k.Client.Key)
	if err != nil {
		return err
	}
	encode := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: default
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
preferences: {}
`, k.Server, encode(k.CA), encode(cert), encode(key))
	_, err = atomicfile.Update(path, []byte(text), mode)
	return err
}
