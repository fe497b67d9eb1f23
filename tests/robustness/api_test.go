//go:build robustness

package robustness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kedge-k8s/kedge/tests/robustness/history"
)

// namespace is where the clients' ConfigMaps are.
const namespace = "robustness"

const configMaps = "/api/v1/namespaces/" + namespace + "/configmaps"

// keyPrefix tells the clients' ConfigMaps from those of Kubernetes.
const keyPrefix = "key-"

// What a request that was not fulfilled says of its effect. Anything else may
// have had one.
var (
	errNotDone = errors.New("not done")
	errRefused = errors.New("refused") // because of what the object is, or that it isn't there
	errExpired = errors.New("expired") // a version of which the server does not know what followed
)

// api is a client of a server's API, on the server's host.
type api struct {
	server string
	client *http.Client
}

// object is a ConfigMap, or the status that comes in its place.
type object struct {
	Metadata struct{ Name, Namespace, ResourceVersion string } `json:"metadata"`
	Data     struct{ Value, Filler string }                    `json:"data"`

	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Details struct{ Name string }
}

// filler makes objects of many sizes, each with a content of its own.
func filler(value string) string {
	sum := sha256.Sum256([]byte(value))
	return strings.Repeat(fmt.Sprintf("%x", sum), int(sum[0])/8)
}

// found is the value and the version of an object that was read.
func (o *object) found() history.Object {
	value := o.Data.Value
	if o.Data.Filler != filler(value) {
		value += " (damaged)"
	}
	return history.Object{Value: value, Version: number(o.Metadata.ResourceVersion)}
}

// number is a resource version as one, or 0.
func number(version string) uint64 {
	n, _ := strconv.ParseUint(version, 10, 64)
	return n
}

// send sends a request about a key, if there is one, and decodes what comes back.
func (a *api) send(ctx context.Context, method, path, key string, body, into any) error {
	response, err := a.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return failure(response.StatusCode, key, content)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(content, into)
}

func (a *api) open(ctx context.Context, method, path string, body any) (*http.Response, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.server+path, content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := a.client.Do(request)
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		return nil, fmt.Errorf("%w: %w", errNotDone, err)
	}
	return response, err
}

// failure is the error of an answer that is none of success.
func failure(code int, key string, content []byte) error {
	var status object
	_ = json.Unmarshal(content, &status) // or it is no status
	err := fmt.Errorf("%d %s: %s", code, status.Reason, status.Message)
	switch {
	case (code == http.StatusNotFound || code == http.StatusConflict) && status.Details.Name == key:
		return fmt.Errorf("%w: %w", errRefused, err)
	case code == http.StatusGone:
		return fmt.Errorf("%w: %w", errExpired, err)
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusTooManyRequests:
		return fmt.Errorf("%w: %w", errNotDone, err)
	}
	return err
}

// read returns what a key holds now; nothing is no error.
func (a *api) read(ctx context.Context, key string) (history.Object, error) {
	var o object
	err := a.send(ctx, http.MethodGet, configMaps+"/"+key, key, nil, &o)
	if errors.Is(err, errRefused) {
		return history.Object{}, nil
	}
	return o.found(), err
}

// list returns what all keys hold at one version.
func (a *api) list(ctx context.Context) (map[string]history.Object, uint64, error) {
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []object
	}
	if err := a.send(ctx, http.MethodGet, configMaps, "", nil, &list); err != nil {
		return nil, 0, err
	}
	all := map[string]history.Object{}
	for _, o := range list.Items {
		if strings.HasPrefix(o.Metadata.Name, keyPrefix) {
			all[o.Metadata.Name] = o.found()
		}
	}
	return all, number(list.Metadata.ResourceVersion), nil
}

// write gives a key a value, in place of the one with the version, or of none. It
// returns the new version.
func (a *api) write(ctx context.Context, key, value string, version uint64) (uint64, error) {
	var o struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   map[string]string `json:"metadata"`
		Data       map[string]string `json:"data"`
	}
	o.APIVersion, o.Kind = "v1", "ConfigMap"
	o.Metadata = map[string]string{"name": key}
	o.Data = map[string]string{"value": value, "filler": filler(value)}
	method, path := http.MethodPost, configMaps
	if version != 0 {
		o.Metadata["resourceVersion"] = fmt.Sprint(version)
		method, path = http.MethodPut, configMaps+"/"+key
	}
	var written object
	err := a.send(ctx, method, path, key, o, &written)
	return number(written.Metadata.ResourceVersion), err
}

// remove deletes a key if its object is of the version.
func (a *api) remove(ctx context.Context, key string, version uint64) error {
	options := map[string]any{
		"apiVersion": "v1", "kind": "DeleteOptions",
		"preconditions": map[string]string{"resourceVersion": fmt.Sprint(version)},
	}
	return a.send(ctx, http.MethodDelete, configMaps+"/"+key, key, options, nil)
}

// watch calls with each event that follows on a version, until the server ends
// the watch, which it is asked to do after a while.
func (a *api) watch(ctx context.Context, version uint64, length time.Duration, event func(kind history.EventKind, key string, o history.Object)) error {
	path := fmt.Sprintf("%s?watch=1&allowWatchBookmarks=true&resourceVersion=%d&timeoutSeconds=%d", configMaps, version, int(length.Seconds()))
	ctx, cancel := context.WithTimeout(ctx, length+5*time.Second)
	defer cancel()
	response, err := a.open(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		content, _ := io.ReadAll(response.Body)
		return failure(response.StatusCode, "", content)
	}
	kinds := map[string]history.EventKind{
		"ADDED": history.Added, "MODIFIED": history.Modified, "DELETED": history.Deleted, "BOOKMARK": history.Bookmark,
	}
	for events := json.NewDecoder(response.Body); ; {
		var e struct {
			Type   string
			Object object
		}
		if err := events.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		kind, ok := kinds[e.Type]
		if !ok {
			return failure(e.Object.Code, "", fmt.Appendf(nil, `{"reason": %q, "message": %q}`, e.Object.Reason, e.Object.Message))
		}
		key, found := e.Object.Metadata.Name, e.Object.found()
		if !strings.HasPrefix(key, keyPrefix) {
			// Of an object of others the version is all that counts.
			kind, key, found.Value = history.Bookmark, "", ""
		}
		event(kind, key, found)
	}
}
