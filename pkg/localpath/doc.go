// Package localpath provisions volumes that are directories of a node.
package localpath

import (
	_ "sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)
