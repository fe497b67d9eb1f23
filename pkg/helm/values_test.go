package helm

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestMerge(t *testing.T) {
	got, err := merge([]layer{
		{text: "a: 1\nb: {c: 1, d: [1, 2]}\n"},
		{values: map[string]any{"b": map[string]any{"d": []any{"x"}}}},
		{text: "b: {e: text}\n---\nf: true\n"},
		{text: ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"a": float64(1),
		"b": map[string]any{"c": float64(1), "d": []any{"x"}, "e": "text"},
		"f": true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMergeTellsWhichValuesAreWrong(t *testing.T) {
	const text = "password: hunter2\nbroken"
	_, err := merge([]layer{{from: "spec.valuesContent", text: text}})
	if err == nil || !strings.Contains(err.Error(), "values from spec.valuesContent: ") {
		t.Errorf("error %v does not say where", err)
	}
	_, err = merge([]layer{{from: "Secret a/b", text: text, secret: true}})
	if err == nil || !strings.Contains(err.Error(), "Secret a/b") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v does not say where, or says too much", err)
	}
}

func TestApply(t *testing.T) {
	values := map[string]any{"image": map[string]any{"tag": "old", "name": "n"}}
	err := apply(values, map[string]intstr.IntOrString{
		"image.tag":   intstr.FromString("1.0"),
		"replicas":    intstr.FromInt32(3),
		"text":        intstr.FromString("3"),
		"on":          intstr.FromString("true"),
		"comma":       intstr.FromString("a,b=c"),
		"escaped":     intstr.FromString(`a\,b`),
		"list[0].key": intstr.FromString("v"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"image":    map[string]any{"tag": "1.0", "name": "n"},
		"replicas": int64(3),
		"text":     "3",
		"on":       true,
		"comma":    "a,b=c",
		"escaped":  "a,b",
		"list":     []any{map[string]any{"key": "v"}},
	}
	if !reflect.DeepEqual(values, want) {
		t.Errorf("got %#v, want %#v", values, want)
	}
	if err := apply(values, map[string]intstr.IntOrString{"list[x]": intstr.FromInt32(1)}); err == nil {
		t.Error("a wrong path was taken")
	}
}

func TestRedactor(t *testing.T) {
	var r redactor
	r.add(map[string]any{"user": map[string]any{"password": "hunter2", "pin": float64(123456)}, "list": []any{"hunter2-long", "on"}, "set": true})
	got := r.clean("no hunter2 and no hunter2-long for 123456, on, true")
	if want := "no *** and no *** for ***, on, true"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
