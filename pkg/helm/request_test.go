package helm

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

func chartOf(t *testing.T, text string) *Chart {
	t.Helper()
	h := &Chart{}
	if err := yaml.UnmarshalStrict([]byte("metadata: {name: app, namespace: ns}\nspec:\n"+text), h); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestResolve(t *testing.T) {
	v := resolver{client: fake.NewClientset(
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"},
			Data:       map[string][]byte{"values.yaml": []byte("c: from-secret"), "username": []byte("ann"), "password": []byte("hunter2")},
		},
		&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m"},
			Data:       map[string]string{"values.yaml": "{b: map, c: map}", "ca": "PEM"},
		},
	)}
	const full = `
  chart: c
  repo: https://example.com
  repoCA: first
  repoCAConfigMap: {name: m}
  authSecret: {name: s}
  targetNamespace: target
  timeout: 90s
  set: {e: set}
  values: {a: values, b: values, c: values, d: values, e: values}
  valuesConfigMaps: [{name: m, keys: [values.yaml]}]
  valuesSecrets: [{name: s, keys: [values.yaml]}, {name: none, keys: [x], ignoreUpdates: true}]
`
	config := &ChartConfig{Spec: Overrides{ValuesContent: "{d: config, e: config}", FailurePolicy: Abort}}
	r, err := v.resolve(t.Context(), chartOf(t, full), config)
	if err != nil {
		t.Fatal(err)
	}
	values, err := json.Marshal(r.values)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"a":"values","b":"map","c":"from-secret","d":"config","e":"set"}`; string(values) != want {
		t.Errorf("values %s, want %s", values, want)
	}
	if want := (types.NamespacedName{Namespace: "target", Name: "app"}); r.release != want {
		t.Errorf("release %s, want %s", r.release, want)
	}
	if r.policy != Abort || r.timeout.Seconds() != 90 || !r.forceConflicts {
		t.Errorf("policy %s, timeout %s, forceConflicts %v", r.policy, r.timeout, r.forceConflicts)
	}
	if r.source.credentials != (credentials{"ann", "hunter2"}) || string(r.source.authorities) != "first\nPEM\n{b: map, c: map}" {
		t.Errorf("credentials of %s, authorities %q", r.source.credentials.user, r.source.authorities)
	}
	if got := r.redact.clean("from-secret hunter2"); got != "*** ***" {
		t.Errorf("redacted: %s", got)
	}

	for name, change := range map[string]struct {
		from, to string
		same     bool
	}{
		"nothing":     {"", "", true},
		"timeout":     {"90s", "91s", true},
		"repoCA":      {"first", "second", true},
		"set":         {"{e: set}", "{e: other}", false},
		"values":      {"a: values", "a: other", false},
		"hidden":      {"b: values", "b: other", true}, // by another source
		"chart":       {"chart: c", "chart: d", false},
		"namespace":   {"Namespace: target", "Namespace: other", false},
		"not watched": {"{name: none, keys: [x], ignoreUpdates: true}", "{name: s, keys: [values.yaml], ignoreUpdates: true}", true},
	} {
		again, err := v.resolve(t.Context(), chartOf(t, strings.Replace(full, change.from, change.to, 1)), config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if (again.hash == r.hash) != change.same {
			t.Errorf("%s: the hash stays the same: %v", name, again.hash == r.hash)
		}
	}

	for text, want := range map[string]string{
		"  version: 1.0.0":                                             "nothing to install",
		"  chart: c\n  helmVersion: v2":                                "helmVersion",
		"  chart: c\n  valuesSecrets: [{name: x, keys: [a]}]":          `Secret ns/x: secrets "x" not found`,
		"  chart: c\n  valuesSecrets: [{name: s, keys: [a]}]":          `Secret ns/s: it has no key "a"`,
		"  chart: c\n  valuesConfigMaps: [{name: m, keys: [a]}]":       `ConfigMap ns/m: it has no key "a"`,
		"  chart: c\n  authSecret: {name: x}":                          "spec.authSecret",
		"  chart: c\n  dockerRegistrySecret: {name: s}":                "spec.dockerRegistrySecret",
		"  chart: /none.tgz":                                           "/none.tgz is not on this server",
		"  chart: c\n  valuesContent: '['":                             "spec.valuesContent of the HelmChart",
		"  chart: c\n  valuesConfigMaps: [{name: none, keys: [a, b]}]": "not found",
	} {
		if _, err := v.resolve(t.Context(), chartOf(t, text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", text, err, want)
		}
	}
}

func TestReferences(t *testing.T) {
	h := chartOf(t, `
  authSecret: {name: auth}
  repoCAConfigMap: {name: ca}
  valuesSecrets: [{name: values}, {name: ignored, ignoreUpdates: true}]
`)
	got := referencesOf(h, &ChartConfig{Spec: Overrides{ValuesConfigMaps: []ValuesFrom{{Name: "more"}}}})
	want := []reference{
		{true, types.NamespacedName{Namespace: "ns", Name: "auth"}},
		{false, types.NamespacedName{Namespace: "ns", Name: "ca"}},
		{true, types.NamespacedName{Namespace: "ns", Name: "values"}},
		{false, types.NamespacedName{Namespace: "ns", Name: "more"}},
	}
	for _, r := range want {
		if _, ok := got[r]; !ok {
			t.Errorf("%v is not watched", r)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
}

func TestManaged(t *testing.T) {
	for _, test := range []struct {
		annotations map[string]string
		want        bool
	}{
		{nil, true},
		{map[string]string{managedByAnnotation: manager}, true},
		{map[string]string{managedByAnnotation: "helm-controller"}, false},
		{map[string]string{unmanagedAnnotation: ""}, false},
		{map[string]string{unmanagedAnnotation: "", managedByAnnotation: manager}, false},
	} {
		if got := managed(test.annotations); got != test.want {
			t.Errorf("%v: %v", test.annotations, got)
		}
	}
}

// TestCRDs wants a property for every field that has an effect.
func TestCRDs(t *testing.T) {
	all, err := decodeCRDs(crds)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 {
		t.Fatalf("%d definitions", len(all))
	}
	for i, kind := range []any{fullSpec(), fullOverrides()} {
		var crd apiextensions.CustomResourceDefinition
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(all[i].Object, &crd, true); err != nil {
			t.Fatal(err)
		}
		properties := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties
		data, err := json.Marshal(kind)
		if err != nil {
			t.Fatal(err)
		}
		fields := map[string]any{}
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		for field := range fields {
			if _, ok := properties[field]; !ok {
				t.Errorf("%s lacks %s", crd.Name, field)
			}
		}
	}
}

func fullOverrides() Overrides {
	yes := true
	from := []ValuesFrom{{Name: "n"}}
	return Overrides{
		Values: map[string]any{"a": 1}, ValuesContent: "a", ValuesSecrets: from, ValuesConfigMaps: from,
		FailurePolicy: Abort, ServerSide: "auto", ForceConflicts: &yes,
	}
}

func fullSpec() ChartSpec {
	ref := &corev1.LocalObjectReference{Name: "n"}
	return ChartSpec{
		Chart: "c", ChartContent: "c", Version: "v", Repo: "r", RepoCA: "r", RepoCAConfigMap: ref, AuthSecret: ref, AuthPassCredentials: true,
		DockerRegistrySecret: ref, InsecureSkipTLSVerify: true, PlainHTTP: true, TargetNamespace: "t", CreateNamespace: true,
		TakeOwnership: true, Timeout: &metav1.Duration{}, Driver: "d", HelmVersion: "h", Overrides: fullOverrides(),
	}
}
