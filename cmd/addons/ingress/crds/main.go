// Command crds writes manifests/gateway-api.yaml from the gateway-api module that
// go.mod names: the definitions of the kinds that the ingress serves, in the versions
// that it reads, without the descriptions, which are four fifths of them.
//
//	go -C cmd/addons run ./ingress/crds >manifests/gateway-api.yaml
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// kinds and the versions that are kept. HTTPRoute is the last one: when it is there,
// all are.
var kinds = []struct {
	plural   string
	versions []string
}{
	{"gatewayclasses", []string{"v1"}},
	{"gateways", []string{"v1"}},
	{"referencegrants", []string{"v1", "v1beta1"}},
	{"httproutes", []string{"v1"}},
}

const head = `# Packaged with Kedge: changes here are overwritten at the next start.
# Gateway API %s, standard channel, as far as Kedge's ingress serves it; made by
# cmd/addons/ingress/crds. To bring definitions of your own see docs/ingress.md.
`

func main() {
	text, err := generate()
	if err != nil {
		fmt.Fprintln(os.Stderr, "crds:", err)
		os.Exit(1)
	}
	_, _ = os.Stdout.Write(text)
}

func generate() ([]byte, error) {
	found, err := exec.Command("go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		return nil, fmt.Errorf("find the gateway-api module: %w", err)
	}
	version, dir, _ := strings.Cut(strings.TrimSpace(string(found)), " ")
	var out bytes.Buffer
	fmt.Fprintf(&out, head, version)
	for i, kind := range kinds {
		raw, err := os.ReadFile(filepath.Join(dir, "config", "crd", "standard", "gateway.networking.k8s.io_"+kind.plural+".yaml"))
		if err != nil {
			return nil, err
		}
		var crd map[string]any
		if err := yaml.Unmarshal(raw, &crd); err != nil {
			return nil, fmt.Errorf("%s: %w", kind.plural, err)
		}
		delete(crd, "status")
		spec := crd["spec"].(map[string]any)
		var versions []any
		for _, each := range spec["versions"].([]any) {
			for _, name := range kind.versions {
				if each.(map[string]any)["name"] == name {
					versions = append(versions, each)
				}
			}
		}
		spec["versions"] = versions
		strip(crd)
		text, err := yaml.Marshal(crd)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind.plural, err)
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(text)
	}
	return out.Bytes(), nil
}

// strip removes descriptions of schemas; a property may be called so.
func strip(node any) {
	switch node := node.(type) {
	case map[string]any:
		if _, ok := node["description"].(string); ok {
			delete(node, "description")
		}
		for _, child := range node {
			strip(child)
		}
	case []any:
		for _, child := range node {
			strip(child)
		}
	}
}
