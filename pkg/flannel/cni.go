package flannel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/kedge-k8s/kedge/pkg/atomicfile"
	"github.com/kedge-k8s/kedge/pkg/podgate"
)

// Bridge is what the pods of a node are on.
const Bridge = "cni0"

const (
	networkName = "kedge"
	cniFile     = "10-kedge.conflist"
)

// installCNI installs the CNI configuration, the user's or Kedge's own.
func (c Config) installCNI(ranges []netip.Prefix, mtu int) error {
	var conf []byte
	var err error
	if c.CNIConf == "" {
		conf, err = conflist(ranges, mtu, c.Gate)
	} else {
		conf, err = readConflist(c.CNIConf)
	}
	if err != nil {
		return err
	}
	return installConflist(c.CNIConfig, conf)
}

// conflist is the configuration of the bridge that joins the node's pods.
func conflist(ranges []netip.Prefix, mtu int, gate string) ([]byte, error) {
	var pools, routes []any
	for _, r := range ranges {
		pools = append(pools, []any{object{"subnet": r.String()}})
		everywhere := "0.0.0.0/0"
		if r.Addr().Is6() {
			everywhere = "::/0"
		}
		routes = append(routes, object{"dst": everywhere})
	}
	plugins := []any{
		object{
			"type": "bridge", "bridge": Bridge, "mtu": mtu,
			"isGateway": true, "forceAddress": true, "hairpinMode": true,
			"ipam": object{"type": "host-local", "ranges": pools, "routes": routes},
		},
		object{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
		object{"type": "bandwidth", "capabilities": object{"bandwidth": true}},
	}
	if gate != "" {
		plugins = append(plugins, object{"type": podgate.PluginType, "socket": gate})
	}
	conf, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       networkName,
		"plugins":    plugins,
	}, "", "  ")
	return append(conf, '\n'), err
}

// readConflist reads a user's configuration. containerd ignores one that is not
// valid, and the node would stay NotReady without a word.
func readConflist(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list struct {
		Name    string
		Plugins []struct{ Type string }
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if list.Name == "" || len(list.Plugins) == 0 {
		return nil, fmt.Errorf("%s: a CNI configuration list has a name and plugins", path)
	}
	for i, plugin := range list.Plugins {
		if plugin.Type == "" {
			return nil, fmt.Errorf("%s: plugin %d has no type", path, i+1)
		}
	}
	return text, nil
}

// installConflist puts the file where containerd watches. containerd reloads
// when a file there is written or renamed, not when one appears, and complains
// when it finds none that is whole: so the file is written elsewhere, moved in
// under another name, and renamed.
func installConflist(dir string, conf []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	target := filepath.Join(dir, cniFile)
	if old, err := os.ReadFile(target); err == nil && bytes.Equal(old, conf) {
		return nil
	}
	staged := filepath.Join(filepath.Dir(dir), cniFile)
	if err := atomicfile.Write(staged, conf, 0o600); err != nil {
		return err
	}
	arrived := target + ".new"
	if err := os.Rename(staged, arrived); err != nil {
		return err
	}
	return os.Rename(arrived, target)
}
