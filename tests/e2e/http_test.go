//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/kedge-k8s/kedge/tests/testbed"
)

// anonymous requests a URL on the node without any identity and returns the
// status code.
func anonymous(s *sandbox, url string) string {
	s.t.Helper()
	client := s.node.HTTP()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	response, err := client.Get(url)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = response.Body.Close()
	return strconv.Itoa(response.StatusCode)
}

// api is a client of the API server for what kubectl is too slow for.
type api struct {
	server string
	client *http.Client
}

// newAPI makes a client with the administrator's kubeconfig of a host.
func newAPI(t *testing.T, host *testbed.Host) *api {
	t.Helper()
	server, client, err := host.API(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &api{server, client}
}

// errRefused is in the error of a request that the API server takes for a
// mistake of the client, in contrast to one it could not fulfil. While it starts
// it may not know yet who may do what, and forbid it.
var errRefused = errors.New("refused")

// do sends an object, if there is one, and returns what comes back.
func (a *api) do(ctx context.Context, method, path string, object any) ([]byte, error) {
	var body io.Reader
	if object != nil {
		encoded, err := json.Marshal(object)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.server+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode < 300 {
		return answer, err
	}
	err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	switch response.StatusCode {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity:
		err = fmt.Errorf("%w: %w", errRefused, err)
	}
	return nil, err
}
