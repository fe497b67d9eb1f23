package node

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	kubeletscheme "k8s.io/kubernetes/pkg/kubelet/apis/config/scheme"
)

// CheckCredentialProviders refuses image credential providers that the kubelet
// can't start with. Both arguments are empty if there are none.
func CheckCredentialProviders(binDir, config string) error {
	if binDir == "" && config == "" {
		return nil
	}
	info, err := os.Stat(binDir)
	if err != nil {
		return fmt.Errorf("--image-credential-provider-bin-dir: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("--image-credential-provider-bin-dir: %s is not a directory", binDir)
	}
	files, err := credentialProviderConfigs(config)
	if err != nil {
		return fmt.Errorf("--image-credential-provider-config: %w", err)
	}
	for _, file := range files {
		names, err := credentialProviders(file)
		if err != nil {
			return fmt.Errorf("--image-credential-provider-config: %s: %w", file, err)
		}
		for _, name := range names {
			if program := filepath.Join(binDir, name); !isProgram(program) {
				return fmt.Errorf("--image-credential-provider-config: %s: provider %s: there is no program %s", file, name, program)
			}
		}
	}
	return nil
}

// credentialProviderConfigs are the files that the kubelet reads: the one that
// is named, or those in the directory.
func credentialProviderConfigs(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if !entry.IsDir() && slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(entry.Name())) {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no file of name *.json, *.yaml or *.yml in %s", path)
	}
	return files, nil
}

// credentialProviders are the names of the providers in a file.
func credentialProviders(file string) ([]string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	_, codecs, err := kubeletscheme.NewSchemeAndCodecs(serializer.EnableStrict)
	if err != nil {
		return nil, err
	}
	object, kind, err := codecs.UniversalDecoder().Decode(content, nil, nil)
	if err != nil {
		return nil, err
	}
	config, ok := object.(*kubeletconfig.CredentialProviderConfig)
	if !ok {
		return nil, fmt.Errorf("a CredentialProviderConfig of kubelet.config.k8s.io/v1 is wanted, not a %s", kind.Kind)
	}
	names := make([]string, len(config.Providers))
	for i, provider := range config.Providers {
		names[i] = provider.Name
	}
	return names, nil
}
