// Package manifests holds the YAML of the packaged add-ons: a file or a folder each.
// ${NAME} in a file is replaced when it is deployed; see pkg/addon.
package manifests

import "embed"

// FS holds NAME.yaml, or the folder NAME, for each add-on. Only manifests in it count.
//
//go:embed *
var FS embed.FS
