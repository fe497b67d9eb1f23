// Package manifests holds the YAML of the packaged add-ons, one file each.
// ${NAME} in a file is replaced when it is deployed; see pkg/addon.
package manifests

import "embed"

// FS holds NAME.yaml for each add-on.
//
//go:embed *.yaml
var FS embed.FS
