package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Object is an API object.
type Object = map[string]any

// Parse reads the objects of a manifest.
func Parse(manifest []byte) ([]Object, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(manifest))
	var objects []Object
	for {
		var object Object
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(object) > 0 {
			objects = append(objects, object)
		}
	}
}

// Apply puts an object into the cluster by server-side apply.
func (c *Client) Apply(ctx context.Context, object Object) error {
	path, err := pathOf(object)
	if err != nil {
		return err
	}
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	_, err = c.Do(ctx, http.MethodPatch, path+"?fieldManager=bench&force=true", "application/apply-patch+yaml", body)
	return err
}

// pathOf is where an object is found in the API. It knows the kinds whose plural
// is regular.
func pathOf(object Object) (string, error) {
	version, _ := object["apiVersion"].(string)
	kind, _ := object["kind"].(string)
	metadata, _ := object["metadata"].(Object)
	name, _ := metadata["name"].(string)
	if version == "" || kind == "" || name == "" {
		return "", fmt.Errorf("object without apiVersion, kind or name: %v", object)
	}
	path := "/apis/" + version
	if !strings.Contains(version, "/") {
		path = "/api/" + version
	}
	if namespace, _ := metadata["namespace"].(string); namespace != "" {
		path += "/namespaces/" + namespace
	}
	return path + "/" + strings.ToLower(kind) + "s/" + name, nil
}
