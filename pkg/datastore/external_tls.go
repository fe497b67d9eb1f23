package datastore

import (
	cryptotls "crypto/tls"

	"github.com/k3s-io/kine/pkg/tls"
)

// clientTLS is what to connect to the datastore with; nil: as the endpoint says.
func (e *External) clientTLS() (*cryptotls.Config, error) {
	config, err := tls.Config{CAFile: e.tls.CA, CertFile: e.tls.Client.Cert, KeyFile: e.tls.Client.Key}.ClientConfig()
	if err != nil {
		return nil, refusal{err}
	}
	return config, nil
}
