package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	kubeletscheme "k8s.io/kubernetes/pkg/kubelet/apis/config/scheme"
	conversion "k8s.io/kubernetes/pkg/kubelet/apis/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/kedge-k8s/kedge/pkg/config"
)

// The kubelet's own flags for configuration files. Its command reads them, so
// here it falls to Kedge: https://kubernetes.io/docs/tasks/administer-cluster/kubelet-config-file/
const (
	kubeletConfigFlag    = "config"
	kubeletConfigDirFlag = "config-dir"
)

// mergeConfigFiles lays the KubeletConfiguration files that the user's
// arguments name over kc, and returns the other arguments. As upstream, the
// files of a directory (*.conf, in the order of their names) win over the
// single file, and flags over both.
func mergeConfigFiles(kc *kubeletconfig.KubeletConfiguration, args []config.Arg) (rest []config.Arg, err error) {
	var files, dropIns []string
	for _, arg := range args {
		switch arg.Name {
		case kubeletConfigFlag:
			files = append(files, arg.Value)
		case kubeletConfigDirFlag:
			found, err := confFiles(arg.Value)
			if err != nil {
				return nil, fmt.Errorf("--kubelet-arg %s: %w", arg.Name, err)
			}
			dropIns = append(dropIns, found...)
		default:
			rest = append(rest, arg)
		}
	}
	files = append(files, dropIns...)
	if len(files) == 0 {
		return rest, nil
	}

	versioned := &kubeletv1beta1.KubeletConfiguration{}
	if err := conversion.Convert_config_KubeletConfiguration_To_v1beta1_KubeletConfiguration(kc, versioned, nil); err != nil {
		return nil, err
	}
	versioned.SetGroupVersionKind(kubeletv1beta1.SchemeGroupVersion.WithKind("KubeletConfiguration"))
	merged, err := json.Marshal(versioned)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		patch, err := readKubeletConfig(file)
		if err != nil {
			return nil, fmt.Errorf("--kubelet-arg: %s: %w", file, err)
		}
		if merged, err = jsonpatch.MergePatch(merged, patch); err != nil {
			return nil, fmt.Errorf("--kubelet-arg: %s: %w", file, err)
		}
	}
	result, err := decodeKubeletConfig(merged)
	if err != nil {
		return nil, fmt.Errorf("--kubelet-arg %s: %w", kubeletConfigFlag, err)
	}
	*kc = *result
	return rest, nil
}

// confFiles returns the drop-in files of a directory and those below it.
func confFiles(dir string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Ext(path) == ".conf" {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// readKubeletConfig returns a KubeletConfiguration as JSON, with what the file
// sets and no defaults, after it has checked that the kubelet would take it.
func readKubeletConfig(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.Unwrap(err) // the caller names the file
	}
	if _, err := decodeKubeletConfig(content); err != nil {
		return nil, err
	}
	return yaml.YAMLToJSON(content)
}

func decodeKubeletConfig(content []byte) (*kubeletconfig.KubeletConfiguration, error) {
	_, codecs, err := kubeletscheme.NewSchemeAndCodecs(serializer.EnableStrict)
	if err != nil {
		return nil, err
	}
	object, kind, err := codecs.UniversalDecoder().Decode(content, nil, nil)
	if err != nil {
		return nil, err
	}
	kc, ok := object.(*kubeletconfig.KubeletConfiguration)
	if !ok {
		return nil, fmt.Errorf("a KubeletConfiguration of %s is wanted, not a %s", kubeletv1beta1.SchemeGroupVersion, kind.Kind)
	}
	return kc, nil
}
