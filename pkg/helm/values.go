package helm

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// layer is one source of values.
type layer struct {
	from     string // for people
	text     string // YAML
	values   map[string]any
	secret   bool // must not be told to anybody
	unhashed bool // a change of it is no reason to upgrade
}

// merge merges the layers, each over those before it.
func merge(layers []layer) (map[string]any, error) {
	merged := map[string]any{}
	for _, l := range layers {
		values, err := l.parse()
		if err != nil {
			return nil, err
		}
		merged = loader.MergeMaps(merged, values)
	}
	return merged, nil
}

func (l layer) parse() (map[string]any, error) {
	if l.values != nil {
		return l.values, nil
	}
	values, err := loader.LoadValues(strings.NewReader(l.text))
	switch {
	case err == nil:
		return values, nil
	case l.secret: // the error may quote what it read
		return nil, fmt.Errorf("values from %s: not a YAML mapping", l.from)
	default:
		return nil, fmt.Errorf("values from %s: %w", l.from, err)
	}
}

// apply sets single values as helm does by --set, and for text by --set-string.
func apply(values map[string]any, set map[string]intstr.IntOrString) error {
	for _, key := range slices.Sorted(maps.Keys(set)) {
		value := set[key]
		var err error
		if typed(value) {
			err = strvals.ParseInto(key+"="+value.String(), values)
		} else {
			err = strvals.ParseIntoString(key+"="+escapeCommas(value.StrVal), values)
		}
		if err != nil {
			return fmt.Errorf("spec.set: %s: %w", key, err)
		}
	}
	return nil
}

func typed(value intstr.IntOrString) bool {
	switch strings.ToLower(value.StrVal) {
	case "true", "false", "null":
		return true
	}
	return value.Type == intstr.Int
}

var commas = regexp.MustCompile(`\\*,`)

// escapeCommas keeps commas from ending the value, and leaves those that are
// escaped already.
func escapeCommas(text string) string {
	return commas.ReplaceAllStringFunc(text, func(match string) string {
		if len(match)%2 == 1 { // an even number of backslashes escapes each other
			return match[:len(match)-1] + `\,`
		}
		return match
	})
}

// redactor takes secrets out of messages.
type redactor []string

// shortest is the length below which a secret is no word that can be told from
// others.
const shortest = 4

// add remembers every text and number in the values.
func (r *redactor) add(value any) {
	switch value := value.(type) {
	case map[string]any:
		for _, v := range value {
			r.add(v)
		}
	case []any:
		for _, v := range value {
			r.add(v)
		}
	case nil, bool:
	default:
		if text := fmt.Sprint(value); len(text) >= shortest {
			*r = append(*r, text)
		}
	}
}

// clean returns the text without what was added.
func (r redactor) clean(text string) string {
	longestFirst := slices.SortedFunc(slices.Values(r), func(a, b string) int { return len(b) - len(a) })
	for _, secret := range longestFirst {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}
