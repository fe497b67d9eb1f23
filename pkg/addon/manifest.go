package addon

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// Ref names an object that an add-on has put into the cluster.
type Ref struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

func refOf(object *unstructured.Unstructured) Ref {
	return Ref{object.GetAPIVersion(), object.GetKind(), object.GetNamespace(), object.GetName()}
}

// String is for people.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

func (r Ref) groupKind() schema.GroupKind {
	return schema.FromAPIVersionAndKind(r.APIVersion, r.Kind).GroupKind()
}

// key tells objects apart. The version does not: it is one object in all of them.
type key struct {
	kind            schema.GroupKind
	namespace, name string
}

// key takes the namespace that is not given for the default one. Objects without
// a namespace are never mistaken for others by that: the kind is another.
func (r Ref) key() key {
	return key{r.groupKind(), cmp.Or(r.Namespace, metav1.NamespaceDefault), r.Name}
}

func keys(refs []Ref) map[key]bool {
	set := make(map[key]bool, len(refs))
	for _, ref := range refs {
		set[ref.key()] = true
	}
	return set
}

// parse returns the objects of a manifest, YAML or JSON, in the order in which
// they are applied: first what others need to be there.
func parse(data []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for _, d := range documents(data) {
		values, err := d.values()
		if err != nil {
			return nil, err
		}
		for _, value := range values {
			found, err := flatten(value)
			if err != nil {
				return nil, fmt.Errorf("the document that begins at line %d: %w", d.line, err)
			}
			objects = append(objects, found...)
		}
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int {
		return rank(a.GroupVersionKind().GroupKind()) - rank(b.GroupVersionKind().GroupKind())
	})
	return objects, nil
}

var (
	namespaceKind = schema.GroupKind{Kind: "Namespace"}
	crdKind       = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
)

func rank(kind schema.GroupKind) int {
	switch kind {
	case namespaceKind:
		return 0
	case crdKind:
		return 1
	default:
		return 2
	}
}

// opensWay reports whether other objects may have waited for one of this kind.
func opensWay(kind schema.GroupKind) bool { return kind == namespaceKind || kind == crdKind }

// document is one of a YAML file's documents.
type document struct {
	line int // the first one is 1
	text []byte
}

// documents splits a file at the lines that separate documents.
func documents(data []byte) []document {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var all []document
	current := document{line: 1}
	line := 0
	for text := range bytes.Lines(data) {
		line++
		if !bytes.HasPrefix(text, []byte("---")) && !bytes.HasPrefix(text, []byte("...")) ||
			len(text) > 3 && !bytes.ContainsAny(text[3:4], " \t\r\n") {
			current.text = append(current.text, text...)
			continue
		}
		all = append(all, current)
		// A separator may be followed by a comment, and even by content.
		current = document{line: line, text: append([]byte("   "), text[3:]...)}
	}
	return append(all, current)
}

// values are the objects of a document: in JSON, several may follow each other.
func (d document) values() ([]map[string]any, error) {
	if bytes.HasPrefix(bytes.TrimSpace(d.text), []byte("{")) {
		if values, err := jsonValues(d.text); err == nil {
			return values, nil
		} // else it may be YAML
	}
	raw, err := yaml.YAMLToJSON(d.text)
	if err != nil {
		// Read again at its place in the file, for the right line in the error.
		_, err = yaml.YAMLToJSON(append(bytes.Repeat([]byte("\n"), d.line-1), d.text...))
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if !strings.Contains(text, "line ") {
			return nil, fmt.Errorf("the document that begins at line %d: %s", d.line, text)
		}
		return nil, errors.New(text)
	}
	if bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	var value map[string]any
	if err := utiljson.Unmarshal(raw, &value); err != nil {
		return nil, fmt.Errorf("the document that begins at line %d is not an object", d.line)
	}
	return []map[string]any{value}, nil
}

func jsonValues(text []byte) ([]map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	var values []map[string]any
	for {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		if err != nil {
			return nil, err
		}
		var value map[string]any
		if err := utiljson.Unmarshal(raw, &value); err != nil {
			return nil, err
		}
		values = append(values, value)
	}
}

// flatten returns the object, or those of a list.
func flatten(value map[string]any) ([]*unstructured.Unstructured, error) {
	if len(value) == 0 {
		return nil, nil
	}
	object := &unstructured.Unstructured{Object: value}
	kind, isList := strings.CutSuffix(object.GetKind(), "List")
	items, hasItems := value["items"].([]any)
	if !isList || !hasItems && value["items"] != nil || object.GetName() != "" {
		return []*unstructured.Unstructured{object}, tidy(object)
	}
	var objects []*unstructured.Unstructured
	for i, item := range items {
		value, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("item %d of the %s is not an object", i+1, object.GetKind())
		}
		// The items of a list of one kind need not repeat it.
		if value["kind"] == nil && kind != "" {
			value["kind"], value["apiVersion"] = kind, object.GetAPIVersion()
		}
		found, err := flatten(value)
		if err != nil {
			return nil, fmt.Errorf("item %d of the %s: %w", i+1, object.GetKind(), err)
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

// tidy checks what each object must have, and removes what the server has added
// when the object came from a cluster.
func tidy(object *unstructured.Unstructured) error {
	for _, field := range [][]string{{"apiVersion"}, {"kind"}, {"metadata", "name"}} {
		value, found, err := unstructured.NestedString(object.Object, field...)
		if err != nil || found && value == "" {
			return fmt.Errorf("%s is not a name", strings.Join(field, "."))
		}
		if !found {
			return fmt.Errorf("there is no %s; every object of a manifest needs one", strings.Join(field, "."))
		}
	}
	if _, err := schema.ParseGroupVersion(object.GetAPIVersion()); err != nil {
		return err
	}
	if _, _, err := unstructured.NestedString(object.Object, "metadata", "namespace"); err != nil {
		return errors.New("metadata.namespace is not a name")
	}
	for _, field := range []string{"labels", "annotations"} {
		if _, _, err := unstructured.NestedStringMap(object.Object, "metadata", field); err != nil {
			return fmt.Errorf("the values of metadata.%s are not all text; quote numbers, true and false", field)
		}
	}
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	return nil
}
