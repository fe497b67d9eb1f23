package localpath

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
)

const (
	// ConfigMapName is the ConfigMap in kube-system that says where volumes lie.
	ConfigMapName = "local-path-config"
	configKey     = "config.json"
	// everywhere stands for the nodes that are not listed.
	everywhere = "DEFAULT_PATH_FOR_NON_LISTED_NODES"
)

// Config says where volumes lie. Its form is local-path-provisioner's, with the
// permissions in it: there is no set-up script that could give them.
type Config struct {
	paths map[string][]string // by node
	mode  fs.FileMode         // of each volume's directory
}

// defaultMode lets a container write as whatever user it runs. The directory
// around it is root's alone.
const defaultMode fs.FileMode = 0o777

// Roots are the directories on a node in which volumes lie.
func (c Config) Roots(node string) []string {
	if paths, ok := c.paths[node]; ok {
		return paths
	}
	return c.paths[everywhere]
}

// configFile is config.json.
type configFile struct {
	NodePathMap []nodePaths `json:"nodePathMap"`
	Permissions string      `json:"permissions,omitempty"`
	// What others put there, and what of it has no meaning here.
	SharedFileSystemPath string          `json:"sharedFileSystemPath,omitempty"`
	StorageClassConfigs  json.RawMessage `json:"storageClassConfigs,omitempty"`
	SetupCommand         string          `json:"setupCommand,omitempty"`
	TeardownCommand      string          `json:"teardownCommand,omitempty"`
	CmdTimeoutSeconds    int             `json:"cmdTimeoutSeconds,omitempty"`
}

type nodePaths struct {
	Node  string   `json:"node"`
	Paths []string `json:"paths"`
}

// defaultConfig is the configuration that keeps all volumes in one directory.
func defaultConfig(path string) (string, error) {
	text, err := json.MarshalIndent(configFile{
		NodePathMap: []nodePaths{{Node: everywhere, Paths: []string{path}}},
		Permissions: fmt.Sprintf("%04o", defaultMode),
	}, "", "  ")
	return string(text) + "\n", err
}

// ParseConfig reads the data of the ConfigMap.
func ParseConfig(data map[string]string) (Config, error) {
	c, err := parseConfig([]byte(data[configKey]))
	if err != nil {
		err = fmt.Errorf("%s in ConfigMap kube-system/%s: %w", configKey, ConfigMapName, err)
	}
	return c, err
}

func parseConfig(text []byte) (Config, error) {
	var file configFile
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return Config{}, err
	}
	for name, used := range map[string]bool{
		"sharedFileSystemPath": file.SharedFileSystemPath != "",
		"storageClassConfigs":  len(file.StorageClassConfigs) > 0,
		"setupCommand":         file.SetupCommand != "",
		"teardownCommand":      file.TeardownCommand != "",
	} {
		if used {
			return Config{}, fmt.Errorf("%s is not supported: remove it", name)
		}
	}
	c := Config{paths: map[string][]string{}, mode: defaultMode}
	if file.Permissions != "" {
		mode, err := strconv.ParseUint(file.Permissions, 8, 32)
		if err != nil || mode > 0o777 {
			return Config{}, fmt.Errorf("permissions %q: give octal digits such as \"0777\" or \"0770\"", file.Permissions)
		}
		c.mode = fs.FileMode(mode)
	}
	for _, n := range file.NodePathMap {
		if _, ok := c.paths[n.Node]; ok {
			return Config{}, fmt.Errorf("node %s is listed twice", n.Node)
		}
		paths := make([]string, len(n.Paths))
		for i, path := range n.Paths {
			if err := checkRoot(path); err != nil {
				return Config{}, fmt.Errorf("path %q of node %s: %w", path, n.Node, err)
			}
			paths[i] = filepath.Clean(path)
			if slices.Contains(paths[:i], paths[i]) {
				return Config{}, fmt.Errorf("path %q of node %s is listed twice", path, n.Node)
			}
		}
		c.paths[n.Node] = paths
	}
	return c, nil
}

func checkRoot(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return errors.New("it is not absolute: it must begin with /")
	case filepath.Clean(path) == "/":
		return errors.New("the root directory is not for volumes")
	}
	return nil
}
