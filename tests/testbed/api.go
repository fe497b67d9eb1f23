package testbed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// API is the URL of the API server in the host's administrator's kubeconfig, and
// a client on the host that may do everything there.
func (h *Host) API(ctx context.Context) (server string, client *http.Client, err error) {
	out, err := h.Kubectl(ctx, "config", "view", "--raw", "-o", "json")
	if err != nil {
		return "", nil, err
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Certificate []byte `json:"client-certificate-data"`
				Key         []byte `json:"client-key-data"`
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &config); err != nil {
		return "", nil, fmt.Errorf("the kubeconfig of host %s: %w", h.Name, err)
	}
	if len(config.Clusters) != 1 || len(config.Users) != 1 {
		return "", nil, fmt.Errorf("the kubeconfig of host %s has %d clusters and %d users", h.Name, len(config.Clusters), len(config.Users))
	}
	cluster, user := config.Clusters[0].Cluster, config.Users[0].User
	pair, err := tls.X509KeyPair(user.Certificate, user.Key)
	if err != nil {
		return "", nil, fmt.Errorf("the kubeconfig of host %s: %w", h.Name, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cluster.CA)
	return cluster.Server, &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext:         h.Dial,
			TLSClientConfig:     &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}},
			MaxIdleConnsPerHost: 16,
		},
	}, nil
}
