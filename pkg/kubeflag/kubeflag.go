// Package kubeflag sets the flags of Kubernetes' own components.
package kubeflag

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/pflag"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// Set gives a component its flags: Kedge's own first, then the user's from the
// named option, so that the user's win. Unknown flags and bad values are
// refused, so this is done before anything is started or written.
func Set(fs *pflag.FlagSet, own map[string]string, option string, user []config.Arg) error {
	given := map[string]bool{}
	for _, arg := range user {
		given[arg.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		// A list flag appends from its second value on: the user's values
		// replace Kedge's instead of joining them. Feature gates do join.
		if given[name] && name != "feature-gates" {
			continue
		}
		if err := fs.Set(name, own[name]); err != nil {
			return fmt.Errorf("flag %s: %w", name, err)
		}
	}
	for _, arg := range user {
		if fs.Lookup(arg.Name) == nil {
			return fmt.Errorf("--%s: the component has no flag %q%s", option, arg.Name, suggestion(fs, arg.Name))
		}
		if err := fs.Set(arg.Name, arg.Value); err != nil {
			return fmt.Errorf("--%s %s=%s: %w", option, arg.Name, arg.Value, err)
		}
	}
	return nil
}

func suggestion(fs *pflag.FlagSet, name string) string {
	var known []string
	fs.VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	if near := config.Nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}
