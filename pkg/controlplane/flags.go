// Package controlplane runs Kubernetes' own control plane, unpatched, in this
// process: the apiserver, the controller manager, the scheduler, and the small
// cloud provider that every node needs to become schedulable.
package controlplane

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/util/compatibility"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/kubeflag"
)

// setFlags is kubeflag.Set for a component whose flags are grouped.
func setFlags(sets *cliflag.NamedFlagSets, own map[string]string, option string, user []config.Arg) error {
	fs := pflag.NewFlagSet(option, pflag.ContinueOnError)
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	for _, set := range sets.FlagSets {
		fs.AddFlagSet(set)
	}
	return kubeflag.Set(fs, own, option, user)
}

// SetFeatureGates puts the feature gates that the components' flags named into
// effect. They are the process's, so this is done once, when all components
// are made and before any is started.
func SetFeatureGates() error {
	registry := compatibility.DefaultComponentGlobalsRegistry
	if err := registry.Set(); err != nil {
		return fmt.Errorf("feature-gates: %w", err)
	}
	return errors.Join(registry.Validate()...)
}
