package addon

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	const a, b = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, namespace: x}\n"
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"comments only", "# one\n---\n# two\n", nil},
		{"one", a, []string{"ConfigMap a"}},
		{"two, and empty documents", "---\n---\n" + a + "---\n\n---\n" + b + "---\n", []string{"ConfigMap a", "ConfigMap x/b"}},
		{"separators with comments and spaces", "--- # first\n" + a + "---   \n" + b, []string{"ConfigMap a", "ConfigMap x/b"}},
		{"content after the separator", "--- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n", []string{"Secret s"}},
		{"document ends", a + "...\n---\n" + b, []string{"ConfigMap a", "ConfigMap x/b"}},
		{"Windows", strings.ReplaceAll("\xef\xbb\xbf"+a+"---\n"+b, "\n", "\r\n"), []string{"ConfigMap a", "ConfigMap x/b"}},
		{"dashes in a text", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: |\n    ---\n    y\n", []string{"ConfigMap a"}},
		{"a word of dashes", "---a: 1\n", nil},
		{"JSON", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, []string{"ConfigMap a"}},
		{"JSON with tabs", "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"ConfigMap\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n", []string{"ConfigMap a"}},
		{"JSON, several", `{"apiVersion":"v1","kind":"A","metadata":{"name":"a"}} {"apiVersion":"v1","kind":"B","metadata":{"name":"b"}}`, []string{"A a", "B b"}},
		{"YAML that looks like JSON", "{apiVersion: v1, kind: A, metadata: {name: a}}", []string{"A a"}},
		{"List", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: A, metadata: {name: a}}\n- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: B, metadata: {name: b}}]}\n", []string{"A a", "B b"}},
		{"List without items", "apiVersion: v1\nkind: List\nitems:\n", nil},
		{"list of a kind", "apiVersion: v1\nkind: ConfigMapList\nitems: [{metadata: {name: a}}]\n", []string{"ConfigMap a"}},
		{"a kind like a list's", "apiVersion: x.io/v1\nkind: AllowList\nmetadata: {name: l}\nitems: [1]\n", []string{"AllowList l"}},
		{"order", a + "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: c}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ns}\n",
			[]string{"Namespace ns", "CustomResourceDefinition c", "ConfigMap a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			objects, err := parse([]byte(test.text))
			if test.name == "a word of dashes" { // is no separator
				if err == nil {
					t.Fatal("no error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range objects {
				got = append(got, refOf(o).String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	const good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
	for _, test := range []struct{ name, text, want string }{
		{"malformed", good + "---\n# more\na: [1\nb: 2\n", "line 6"},
		{"tabs", good + "---\na:\n\tb: 1\n", "line 6"},
		{"no object", good + "---\n- a\n", "the document that begins at line 4 is not an object"},
		{"no kind", good + "---\napiVersion: v1\nmetadata: {name: a}\n", "line 4: there is no kind"},
		{"no version", "kind: A\nmetadata: {name: a}\n", "line 1: there is no apiVersion"},
		{"no name", "apiVersion: v1\nkind: A\nmetadata: {generateName: a-}\n", "there is no metadata.name"},
		{"empty name", "apiVersion: v1\nkind: A\nmetadata: {name: ''}\n", "metadata.name is not a name"},
		{"number as name", "apiVersion: v1\nkind: A\nmetadata: {name: 1}\n", "metadata.name is not a name"},
		{"number as namespace", "apiVersion: v1\nkind: A\nmetadata: {name: a, namespace: 1}\n", "metadata.namespace is not a name"},
		{"number as annotation", "apiVersion: v1\nkind: A\nmetadata: {name: a, annotations: {x: 1}}\n", "quote numbers"},
		{"version", "apiVersion: a/b/c\nkind: A\nmetadata: {name: a}\n", "a/b/c"},
		{"item", "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: A}]\n", "item 1 of the List: there is no metadata.name"},
		{"item that is none", "apiVersion: v1\nkind: List\nitems: [a]\n", "item 1 of the List is not an object"},
		{"half-written JSON", `{"apiVersion": "v1", "ki`, "the document that begins at line 1: "},
		{"binary", "\x00\x01\x02", "control characters"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			objects, err := parse([]byte(test.text))
			if err == nil {
				t.Fatalf("no error, but %d objects", len(objects))
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %q, want %q in it", err, test.want)
			}
		})
	}
}

// What kubectl get -o yaml prints is a manifest, too.
func TestParseRemovesWhatTheServerAdds(t *testing.T) {
	t.Parallel()
	objects, err := parse([]byte("apiVersion: v1\nkind: A\nmetadata: {name: a, labels: {x: z}, uid: u, resourceVersion: '1', managedFields: [{}], creationTimestamp: null}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(objects[0].Object["metadata"].(map[string]any)), 2; got != want {
		t.Errorf("the metadata is %v, want name and labels", objects[0].Object["metadata"])
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	ingress := Ref{"networking.k8s.io/v1", "Ingress", "", "a"}
	for _, test := range []struct {
		name  string
		other Ref
		same  bool
	}{
		{"another version", Ref{"networking.k8s.io/v1beta1", "Ingress", "", "a"}, true},
		{"the default namespace", Ref{"networking.k8s.io/v1", "Ingress", "default", "a"}, true},
		{"another namespace", Ref{"networking.k8s.io/v1", "Ingress", "b", "a"}, false},
		{"another group", Ref{"example.com/v1", "Ingress", "", "a"}, false},
		{"another name", Ref{"networking.k8s.io/v1", "Ingress", "", "b"}, false},
	} {
		if (ingress.key() == test.other.key()) != test.same {
			t.Errorf("%s: same must be %v", test.name, test.same)
		}
	}
}

func TestAddonName(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for path, want := range map[string]string{
		"coredns.yaml":                      "coredns",
		"a/b.yaml":                          "a.b",
		"a.b.yaml":                          "a-b-",
		"a-b.yaml":                          "a-b",
		"a.yml":                             "a-",
		"a.json":                            "a-",
		"My App.yaml":                       "my-app-",
		"my_app.yaml":                       "my-app-",
		"ü.yaml":                            "",
		strings.Repeat("x", 200) + ".yaml":  strings.Repeat("x", 100) + "-",
		strings.Repeat("x/", 80) + "a.yaml": "x-x-x",
	} {
		name := addonName(path)
		if !strings.HasPrefix(name, want) || len(name) > 253 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
			t.Errorf("the name for %s is %s", path, name)
		}
		if plain.MatchString(path) && name != want {
			t.Errorf("the name for %s is %s, want %s", path, name, want)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%s and %s are both %s", path, other, name)
		}
		seen[name] = path
	}
}

// A comma in a flow mapping is easily written by mistake.
func TestCRD(t *testing.T) {
	t.Parallel()
	objects, err := parse(crd)
	if err != nil || len(objects) != 1 {
		t.Fatal(len(objects), err)
	}
	columns := objects[0].Object["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)["additionalPrinterColumns"].([]any)
	for _, column := range columns {
		for field := range column.(map[string]any) {
			if !slices.Contains([]string{"name", "type", "jsonPath", "priority", "description"}, field) {
				t.Errorf("a column has the field %q", field)
			}
		}
	}
}
