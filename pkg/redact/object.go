package redact

import (
	"strings"
)

// Object removes from an object of the cluster what may be secret, and what tells
// nobody anything: literal values of environment variables, data of Secrets, values
// and archives of charts, and copies of all that in annotations.
func (r *Redactor) Object(object map[string]any) {
	if metadata, ok := object["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
		if annotations, ok := metadata["annotations"].(map[string]any); ok {
			delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
		}
	}
	if object["kind"] == "Secret" {
		for _, field := range []string{"data", "stringData"} {
			if data, ok := object[field].(map[string]any); ok {
				hideAll(data)
			}
		}
	}
	if spec, ok := object["spec"].(map[string]any); ok && strings.HasPrefix(text(object["kind"]), "HelmChart") {
		for _, field := range []string{"set", "values", "valuesContent", "chartContent"} {
			if _, ok := spec[field]; ok {
				spec[field] = Removed
			}
		}
	}
	r.clean(object)
}

// clean walks through an object.
func (r *Redactor) clean(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, field := range v {
			switch key {
			case "env":
				hideEnvironment(field)
			case "command", "args":
				r.cleanArguments(field)
			}
			v[key] = r.clean(field)
		}
	case []any:
		for i := range v {
			v[i] = r.clean(v[i])
		}
	case string:
		return string(r.Values([]byte(v)))
	}
	return value
}

func hideAll(data map[string]any) {
	for key := range data {
		data[key] = Removed
	}
}

// hideEnvironment removes the values of a container's variables, but not where
// they are taken from.
func hideEnvironment(list any) {
	variables, ok := list.([]any)
	if !ok {
		return
	}
	for _, v := range variables {
		if variable, ok := v.(map[string]any); ok {
			if _, literal := variable["value"]; literal {
				variable["value"] = Removed
			}
		}
	}
}

// cleanArguments removes the values of arguments whose names say that they are
// secret: --password=X, and --password X.
func (r *Redactor) cleanArguments(list any) {
	arguments, ok := list.([]any)
	if !ok {
		return
	}
	next := false
	for i, a := range arguments {
		argument := text(a)
		switch {
		case next && !strings.HasPrefix(argument, "-"):
			arguments[i], next = Removed, false
		default:
			arguments[i] = string(r.Text([]byte(argument)))
			next = strings.HasPrefix(argument, "-") && !strings.Contains(argument, "=") && secretKey.MatchString(argument)
		}
	}
}

func text(value any) string {
	s, _ := value.(string)
	return s
}
