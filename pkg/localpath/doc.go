// Package localpath provisions volumes that are directories of a node.
//
// The [Provisioner] in the server turns claims into volumes. The directories
// are made and removed by the [Node] of the machine they are on, which the
// server asks in its own process or, through the tunnel that the machine's agent
// keeps open, as an HTTP handler. So there are no pods and no images to wait
// for, a full disk is told to the claim's owner, and nodes need no rights on
// volumes.
//
//	claim ─▶ Provisioner ─┬──────────────────▶ Node ─▶ ROOT/VOLUME_NAMESPACE_CLAIM
//	                      └═ tunnel ═ Handler ═▶ Node
//
// A Node trusts no request with a path: it reads itself where volumes may lie
// (the ConfigMap [ConfigMapName]), and makes and removes directories of one form
// of name only.
package localpath

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// AddOn is the name under which all of this can be disabled.
const AddOn = "local-storage"

// Volume is what a directory is for.
type Volume struct {
	Name      string `json:"name"` // of the PersistentVolume
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
}

// maxName leaves room in a file name for the ending that a removed directory gets.
const maxName = 220

// Dir is the name of the volume's directory. It begins with the volume's name,
// which is unique, so that a long claim's can be cut.
func (v Volume) Dir() string {
	name := v.Name + "_" + v.Namespace + "_" + v.Claim
	if len(name) > maxName {
		name = strings.TrimRight(name[:maxName], "-.")
	}
	return name
}

// dirName is what Dir gives for the names that Kubernetes allows: no separator
// of paths, and no beginning with a dot.
var dirName = regexp.MustCompile(`^[a-z0-9][-a-z0-9.]*_[a-z0-9][-a-z0-9]*_[a-z0-9][-a-z0-9.]*$`)

func checkDir(name string) error {
	if len(name) > maxName || !dirName.MatchString(name) {
		return fmt.Errorf("%q is not the directory of a volume: those are named VOLUME_NAMESPACE_CLAIM", name)
	}
	return nil
}

var (
	// ErrNotHere is the reason if a node can't keep a volume that another may.
	ErrNotHere = errors.New("choose another node")
	// ErrNotConnected is the reason if a node can't be asked.
	ErrNotConnected = errors.New("not connected")
)
